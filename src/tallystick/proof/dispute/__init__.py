"""Disputes: two parties that report different results of one training run, narrowed down to one element of one tensor.

`game` holds the rules, `messages` what is said, `referee` the arithmetic that decides, and `rules` which element of a
step follows from which; none of these loads torch. `party` answers for someone who can run the training again,
`replay` does that, and `values` has the tensors of one step.
"""

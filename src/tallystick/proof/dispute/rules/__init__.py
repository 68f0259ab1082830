"""The statement: which tensors a training step consists of, and by which rule each element follows from earlier ones.

`step` lists the lines of a step from the program and the specification, `lowering` those of one graph. `maps` and
`reductions` are the rules. Plain Python, without torch and NumPy, since the referee reads it too.
"""

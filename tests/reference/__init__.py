"""exact-v1 written a second time, from docs/exact-v1.md, in NumPy and Python integers: slow and obvious.

Nothing here imports tallystick or torch. `operators.OPERATORS` has every operator by its ATen name, `training` runs
whole steps, `vectors` makes the published test vectors. `fractional` writes the scalar functions a third time, without
any floating-point hardware.
"""

"""The referee: what an element of a step must be, in Python integers and fractions alone.

No torch, no NumPy, no floating-point operation: `numbers` has the values and scalar functions of docs/exact-v1.md,
`maps` the operators whose element follows from a few elements, `reductions` those whose element is a sum or an extreme
of many. All of it takes elements through a function `read`, so it neither knows nor cares where they come from.
"""

"""A training step as data: traced from a PyTorch model, named by its hash, run by the exact interpreter.

`graph` is the data and its strict codec, `trace` makes it from a model, loss and optimizer, `interpreter` runs it,
`spec` says what a training run is, and `training` is the run itself as pure functions over tensors.
"""

"""Train PyTorch models on computers you don't trust, and get the same bits you would have got on your own."""

__version__ = "0.1.0"

"""Proof of training: names for states, a signed transcript of the steps between them, and re-execution to check it."""

"""Experiments on the real protocol code: nothing here is a second copy of a rule."""

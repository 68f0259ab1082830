"""Benchmarks, run by hand: each compares this project with what one would use instead, in one run."""

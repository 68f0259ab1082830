"""Sums on integers: all terms of one sum share a power of two, so they may be added in any order."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from tallystick.exact.blocks import entries_at_once
from tallystick.exact.native import reduce
from tallystick.exact.rounding import exponent_above, peak_along, power_of_two, require_finite, to_float32

TERM_BITS: Final = 30
"""Terms are rounded to integers of magnitude <= 2**TERM_BITS; within 2**6 of the largest that loses nothing."""
EXACT_TERMS: Final = 2 ** (53 - TERM_BITS)
"""How many of them float64 adds up exactly."""
BLOCKS: Final = 4
"""There are few passes over a block of terms, so that it is the number of calls that counts."""


def exact_sum(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    """The sum of `x` over `dims` (all, if empty); float32 by integers, integer and bool tensors as int64.

    Raises:
        NonFiniteError: a float32 `x` holds an infinity or a NaN.
    """
    dims = tuple(d % max(1, x.dim()) for d in dims) or tuple(range(x.dim()))
    if not x.is_floating_point():
        return x.sum(dims, keepdim=keepdim, dtype=torch.int64)
    terms = math.prod(x.shape[d] for d in dims) if x.dim() else 1
    if not dims or terms == 0:
        return x.sum(dims, keepdim=keepdim) if dims else x.clone()
    total = reduce.sums(x, dims)
    if total is None:
        total = _sums(x, dims)
    return total if keepdim else total.squeeze(dims)


def _sums(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """By blocks along the dimension whose entries lie furthest apart.

    Between 2**52 and 2**53 units, float64 numbers are a unit apart, and so are their bits, read as integers. Adding a
    number from there (the lever) rounds a term to an integer; the bits are then added up in int64, which wraps around,
    and those of the levers taken away.
    """
    if x.dim() == 0:
        return _sums(x.view(1), (0,)).view(())
    peak = peak_along(x, dims)
    require_finite(peak, "the operand of a sum")
    unit = exponent_above(peak) - TERM_BITS
    lever = power_of_two(unit + 52) * 1.5
    along = max(range(x.dim()), key=x.stride)
    count = max(1, BLOCKS * entries_at_once() * x.shape[along] // max(1, x.numel()))
    parts = x.split(count, along)
    levers = [lever] * len(parts) if along in dims else lever.split(count, along)
    raised = (part.to(torch.float64).add_(by).view(torch.int64) for part, by in zip(parts, levers, strict=True))
    totals = [part.sum(dims, keepdim=True) for part in raised]
    total = torch.stack(totals).sum(0) if along in dims else torch.cat(totals, along)
    integers = total - math.prod(x.shape[d] for d in dims) * lever.view(torch.int64)
    return to_float32(integers.to(torch.float64).mul_(power_of_two(unit)))

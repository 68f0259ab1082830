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
        total = _sums(x, dims, terms)
    return total if keepdim else total.squeeze(dims)


def _sums(x: Tensor, dims: tuple[int, ...], terms: int) -> Tensor:
    """By blocks along the dimension whose entries lie furthest apart."""
    if x.dim() == 0:
        return _sums(x.view(1), (0,), 1).view(())
    peak = peak_along(x, dims)
    require_finite(peak, "the operand of a sum")
    unit = exponent_above(peak) - TERM_BITS
    scale = power_of_two(-unit).expand_as(x)
    wide = torch.float64 if terms <= EXACT_TERMS else torch.int64
    along = max(range(x.dim()), key=x.stride)
    count = max(1, entries_at_once() * x.shape[along] // max(1, x.numel()))
    parts = zip(x.split(count, along), scale.split(count, along), strict=True)
    totals = [part.to(torch.float64).mul_(by).round_().to(wide).sum(dims, keepdim=True) for part, by in parts]
    total = torch.stack(totals).sum(0) if along in dims else torch.cat(totals, along)
    return to_float32(total.to(torch.float64).mul_(power_of_two(unit)))

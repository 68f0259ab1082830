"""Sums on integers: all terms of one sum share a power of two, so they may be added in any order."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from tallystick.exact.native import reduce
from tallystick.exact.rounding import exponent_above, power_of_two, require_finite, to_float32

TERM_BITS: Final = 30
"""Terms are rounded to integers of magnitude <= 2**TERM_BITS; within 2**6 of the largest that loses nothing."""
EXACT_TERMS: Final = 2 ** (53 - TERM_BITS)


def exact_sum(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    """The sum of `x` over `dims` (all, if empty); float32 by integers, integer and bool tensors as int64.

    Raises:
        NonFiniteError: a float32 `x` holds an infinity or a NaN.
    """
    dims = tuple(dims) or tuple(range(x.dim()))
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
    peak = x.abs().amax(dims, keepdim=True)
    require_finite(peak, "the operand of a sum")
    unit = exponent_above(peak) - TERM_BITS
    integers = torch.round(x.to(torch.float64) * power_of_two(-unit))
    if terms > EXACT_TERMS:
        integers = integers.to(torch.int64)
    return to_float32(integers.sum(dims, keepdim=True).to(torch.float64) * power_of_two(unit))

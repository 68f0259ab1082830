"""Sums, means, softmax, extremes and running sums along dimensions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact import functions
from tallystick.exact.elementwise import Kernel, divide, minus, require_numbers
from tallystick.exact.native import reduce
from tallystick.exact.rounding import exponent_above, peak_along, power_of_two, require_finite, settle, to_float32
from tallystick.exact.sums import EXACT_TERMS, TERM_BITS, exact_sum


def sum_over(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: object = None) -> Tensor:
    if dtype not in {None, torch.float32, torch.int64}:
        raise Refused("unsupported_dtype", f"a sum in {dtype} is not part of exact-v1; use float32 or int64")
    return exact_sum(x.to(torch.float32) if dtype is torch.float32 else x, dims or (), keepdim)


def mean_over(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: object = None) -> Tensor:
    """The exact sum, rounded to float32, divided by the number of terms."""
    total = sum_over(x, dims, keepdim, dtype)
    return divide(total, float(x.numel() // max(total.numel(), 1)))


def log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """x - max, less the log of the sum of its exponentials; each step an exact kernel."""
    compiled = reduce.softmax(x, dim, logarithm=True)
    if compiled is not None:
        return compiled
    shifted = _below_peak(x, dim)
    return minus(shifted, functions.log(exact_sum(functions.exp(shifted), (dim,), keepdim=True)))


def softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """The exponentials of x - max, divided by their sum. Where a mask leaves nothing (all -inf), it is NaN."""
    compiled = reduce.softmax(x, dim, logarithm=False)
    if compiled is not None:
        return compiled
    e = functions.exp(_below_peak(x, dim))
    return divide(e, exact_sum(e, (dim,), keepdim=True))


def _below_peak(x: Tensor, dim: int) -> Tensor:
    """x - max along `dim`; a maximum of -inf counts as 0, so that what is masked stays -inf."""
    if x.dim() and x.shape[dim] == 0:
        return x.clone()
    peak = x.amax(dim, keepdim=True)
    return minus(x, torch.where(peak == -math.inf, torch.zeros_like(peak), peak))


def amax(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    return settle(x.amax(tuple(dims), keepdim=keepdim))


def amin(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    return settle(x.amin(tuple(dims), keepdim=keepdim))


def place_of(largest: bool) -> Kernel:
    """argmax or argmin: the first place of the extreme; a NaN is more extreme than any number."""

    def kernel(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        require_numbers(x)
        return torch.argmax(x, dim, keepdim) if largest else torch.argmin(x, dim, keepdim)

    return kernel


def cumsum(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Running sums along `dim`; float32 ones share the unit of the whole line, and each is rounded once.

    Raises:
        NonFiniteError: a float32 `x` holds an infinity or a NaN.
    """
    if dtype not in {None, torch.float32, torch.int64} or (x.is_floating_point() and dtype is torch.int64):
        raise Refused("unsupported_dtype", f"running sums of {x.dtype} in {dtype} are not part of exact-v1")
    if not x.is_floating_point() and dtype is not torch.float32:
        return torch.cumsum(x, dim, dtype=torch.int64)
    x = x.to(torch.float32)
    if x.dim() == 0 or x.numel() == 0:
        return x.clone()
    peak = peak_along(x, (dim,))
    require_finite(peak, "the operand of a running sum")
    unit = exponent_above(peak) - TERM_BITS
    integers = x.to(torch.float64).mul_(power_of_two(-unit)).round_()
    if x.shape[dim] > EXACT_TERMS:
        integers = integers.to(torch.int64)
    return to_float32(torch.cumsum(integers, dim).to(torch.float64) * power_of_two(unit))

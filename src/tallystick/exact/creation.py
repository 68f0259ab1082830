"""Tensors from numbers, and conversions between dtypes."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.elementwise import Number
from tallystick.exact.rounding import to_float32

LARGEST_AS_FLOAT: Final = 2.0**63 - 2.0**39
"""The largest float32 below 2**63."""


def to_copy(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Conversion between dtypes.

    Integers become the nearest float32, ties to even, and wrap around in a narrower integer; bool is whether an entry
    is not 0. float32 becomes an integer by dropping the fraction, limited to what the dtype holds.

    Raises:
        NonFiniteError: a NaN becomes an integer.
    """
    if dtype is None or dtype == x.dtype:
        return x.clone()
    if dtype == torch.bool:
        return x != 0
    return _to_integer(x, dtype) if x.is_floating_point() else x.to(dtype)


def _to_integer(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Conversion beyond the range is undefined in C, so only what fits is converted."""
    if dtype.is_floating_point:
        raise Refused("unsupported_dtype", f"{x.dtype} to {dtype} is not part of exact-v1; keep it in float32")
    if not x.is_meta and bool(x.isnan().any()):
        raise NonFiniteError("a NaN has no integer value")
    limits = torch.iinfo(dtype)
    whole = torch.trunc(x).clamp(-(2.0**63), LARGEST_AS_FLOAT).to(torch.int64)
    whole = torch.where(x >= 2.0**63, torch.iinfo(torch.int64).max, whole)
    return whole.clamp(limits.min, limits.max).to(dtype)


def copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """`source` with the shape and dtype of `x`."""
    return to_copy(source, x.dtype).expand(x.shape).clone(memory_format=torch.contiguous_format)


def full(size: Sequence[int], value: Number, dtype: torch.dtype | None = None) -> Tensor:
    """`dtype` None means what torch infers: float32 for a float, int64 for an int, bool for a bool."""
    return torch.full(list(size), fitting(value, dtype), dtype=dtype)


def full_like(x: Tensor, value: Number, dtype: torch.dtype | None = None) -> Tensor:
    fits = fitting(value, dtype or x.dtype)
    return torch.full_like(x, fits, dtype=dtype, memory_format=torch.contiguous_format)


def zeros(size: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """`dtype` None means float32. What ATen leaves uninitialized is zero too."""
    return torch.zeros(list(size), dtype=dtype or torch.float32)


def ones(size: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return torch.ones(list(size), dtype=dtype or torch.float32)


def zeros_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return full_like(x, 0, dtype)


def ones_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return full_like(x, 1, dtype)


def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return zeros(size, dtype)


def arange(start: Number, end: Number, step: Number = 1, dtype: torch.dtype | None = None) -> Tensor:
    """start + i * step, while that is before `end`: by integers, or in float64 and rounded to float32.

    `dtype` None means int64 for integers and float32 otherwise.
    """
    numbers = (start, end, step)
    if all(isinstance(number, int) for number in numbers) and dtype != torch.float32:
        return _integer_range(int(start), int(end), int(step), dtype or torch.int64)
    if dtype not in {None, torch.float32}:
        raise Refused("unsupported_dtype", f"a range of {numbers} in {dtype} is not part of exact-v1; use integers")
    count = math.ceil((float(end) - float(start)) / float(step))
    places = torch.arange(count, dtype=torch.int64).to(torch.float64)
    return to_float32(places * float(step) + float(start))


def _integer_range(start: int, end: int, step: int, dtype: torch.dtype) -> Tensor:
    entries = range(start, end, step)
    if entries:
        fitting(entries[0], dtype)
        fitting(entries[-1], dtype)
    return (torch.arange(len(entries), dtype=torch.int64) * step + start).to(dtype)


def scalar_tensor(value: Number, dtype: torch.dtype | None = None) -> Tensor:
    """`dtype` None means float32."""
    return torch.scalar_tensor(fitting(value, dtype), dtype=dtype)


def fitting(value: Number, dtype: torch.dtype | None) -> Number:
    """`value`, if a tensor of `dtype` can hold it; torch's own conversion depends on the machine."""
    if dtype is None or dtype.is_floating_point:
        return value
    low, high = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if isinstance(value, float) or not low <= value <= high:
        raise Refused("bad_constant", f"{value} is not a value of {dtype}")
    return value

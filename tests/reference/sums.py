"""Sums on integers with one unit, and what is made of them."""

from typing import Any, Final

import numpy as np

from . import functions
from .elementwise import no_flags
from .values import (
    BOOL,
    F32,
    F64,
    I64,
    U8,
    Array,
    above,
    as_lines,
    dims_of,
    f32,
    finite,
    integers,
    kept,
    settle,
    two_to,
)

TERM_BITS: Final = 30


def exact_sum(terms: Array) -> Array:
    """The sum of given terms, along the last dimension of a float32 array."""
    if terms.shape[-1] == 0:
        return np.zeros(terms.shape[:-1], F32)
    unit = above(np.abs(finite(terms, "a sum")).max(-1)) - TERM_BITS
    total = integers(terms, unit[..., None]).sum(-1)
    return f32(total.astype(F64) * two_to(unit))


def sum_over(x: Array, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    x = x.astype(dtype or x.dtype)
    dims = dims_of(x, dims)
    if x.ndim == 0:
        return x if x.dtype == F32 else x.astype(I64)
    lines, shape = as_lines(x, dims)
    total = exact_sum(lines) if x.dtype == F32 else lines.astype(I64).sum(-1)
    return kept(total.reshape(shape), x, dims, keepdim)


def mean_over(x: Array, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    count = np.prod([x.shape[d] for d in dims_of(x, dims)], dtype=np.int64)
    return settle(sum_over(x, dims, keepdim, dtype) / np.float32(count))


def running_sum(x: Array, dim: int, dtype: Any = None) -> Array:
    x = x.astype(dtype or x.dtype)
    if x.dtype != F32:
        return x.astype(I64) if x.ndim == 0 else np.cumsum(x.astype(I64), dim)
    if x.ndim == 0 or x.size == 0:
        return x
    unit = above(np.abs(finite(x, "a running sum")).max(dim, keepdims=True)) - TERM_BITS
    return f32(np.cumsum(integers(x, unit), dim).astype(F64) * two_to(unit))


def softmax(x: Array, dim: int, half_to_float: bool = False) -> Array:
    e = functions.exp(_below_peak(x, dim))
    return settle(e / sum_over(e, [dim], True))


def log_softmax(x: Array, dim: int, half_to_float: bool = False) -> Array:
    t = _below_peak(x, dim)
    return settle(t - functions.log(sum_over(functions.exp(t), [dim], True)))


def _below_peak(x: Array, dim: int) -> Array:
    if x.size == 0:
        return x
    peak = x.max(dim, keepdims=True) if x.ndim else x
    return settle(x - np.where(peak == -np.inf, np.float32(0), peak))


def extreme(largest: bool) -> Any:
    def kernel(x: Array, dims: Any = (), keepdim: bool = False) -> Array:
        dims = dims_of(x, dims)
        lines, shape = as_lines(x, dims)
        places = _places(lines, largest)
        return settle(kept(lines[np.arange(len(lines)), places].reshape(shape), x, dims, keepdim))

    return kernel


def place_of(largest: bool) -> Any:
    def kernel(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
        no_flags(x)
        dims = dims_of(x, None if dim is None else [dim])
        lines, shape = as_lines(x, dims)
        return kept(_places(lines, largest).reshape(shape), x, dims, keepdim)

    return kernel


def _places(lines: Array, largest: bool) -> Array:
    """The first place of each line's extreme, or of its first NaN."""
    found = []
    for line in lines:
        best = 0
        for place, entry in enumerate(line):
            if np.isnan(line[best]):
                break
            if np.isnan(entry) or (entry > line[best] if largest else entry < line[best]):
                best = place
        found.append(best)
    return np.array(found, I64)


def truth(every: bool) -> Any:
    def kernel(x: Array, dims: Any = None, keepdim: bool = False) -> Array:
        dims = () if dims == [] else dims_of(x, dims)
        lines, shape = as_lines(x != 0, dims)
        result = lines.all(-1) if every else lines.any(-1)
        return kept(result.reshape(shape).astype(U8 if x.dtype == U8 else BOOL), x, dims, keepdim)

    return kernel

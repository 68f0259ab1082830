"""Entries moved, chosen by index, added in place; tensors from numbers; conversions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .elementwise import mul
from .philox import uniform_words
from .sums import exact_sum
from .values import BOOL, F32, F64, I32, I64, Array, Number, f32, operand, promoted, require

Terms = list[tuple[tuple[int, ...], Any]]
"""Places and what is added or written there."""


def to_copy(x: Array, dtype: Any = None) -> Array:
    dtype = np.dtype(dtype or x.dtype)
    if dtype == BOOL:
        return x.astype(BOOL)
    if x.dtype != F32 or dtype == F32:
        return x.astype(dtype)
    require(not np.isnan(x).any(), "a NaN has no integer value")
    limits = np.iinfo(dtype)
    whole = [min(max(_whole(float(entry)), limits.min), limits.max) for entry in x.reshape(-1)]
    return np.array(whole, dtype).reshape(x.shape)


def _whole(entry: float) -> int:
    return int(entry) if math.isfinite(entry) else (2**200 if entry > 0 else -(2**200))


def copy(x: Array, source: Array, non_blocking: bool = False) -> Array:
    return np.broadcast_to(to_copy(source, x.dtype), x.shape)


def constant(value: Number, dtype: Any) -> Array:
    if dtype != F32:
        low, high = (0, 1) if dtype == BOOL else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        require(not isinstance(value, float) and low <= value <= high, "a constant that its dtype cannot hold")
    elif not isinstance(value, float):
        return f32(np.array(value, I64))
    return np.array(value, dtype)


def full(size: Sequence[int], value: Number, dtype: Any = None) -> Array:
    inferred = BOOL if isinstance(value, bool) else F32 if isinstance(value, float) else I64
    return np.full(size, constant(value, np.dtype(dtype or inferred)))


def full_like(x: Array, value: Number, dtype: Any = None) -> Array:
    return full(x.shape, value, dtype or x.dtype)


def scalar_tensor(value: Number, dtype: Any = None) -> Array:
    return full([], value, dtype or F32)


def filled(value: int) -> Any:
    return lambda size, *layout, dtype=F32: np.full(size, value, dtype or F32)


def filled_like(value: int) -> Any:
    return lambda x, dtype=None: np.full(x.shape, value, dtype or x.dtype)


def arange(start: Number, end: Number, step: Number = 1, dtype: Any = None) -> Array:
    numbers = (start, end, step)
    if all(isinstance(number, int) for number in numbers) and dtype != F32:
        dtype = np.dtype(dtype or I64)
        return np.array([constant(entry, dtype) for entry in range(*map(int, numbers))], dtype)
    require(dtype in {None, F32}, "a range of numbers in an integer dtype")
    count = math.ceil((float(end) - float(start)) / float(step))
    return f32(np.arange(count, dtype=F64) * float(step) + float(start))


def uniform(key: Array, size: Sequence[int], stream: int) -> Array:
    words = uniform_words(int(key[0]), int(key[1]), stream, math.prod(size))
    return (np.array([word >> 8 for word in words], F64) * 2.0**-24).astype(F32).reshape(size)


def view(x: Array, size: Sequence[int]) -> Array:
    return x.reshape(size)


def expand(x: Array, size: Sequence[int]) -> Array:
    ahead = len(size) - x.ndim
    return np.broadcast_to(x, [x.shape[d - ahead] if n == -1 else n for d, n in enumerate(size)])


def cat(tensors: Sequence[Array], dim: int = 0) -> Array:
    dtype = promoted(*tensors)
    return np.concatenate([x.astype(dtype) for x in tensors if x.shape != (0,)] or [tensors[0]], dim)


def squeeze(x: Array, dims: int | Sequence[int]) -> Array:
    gone = {d % max(x.ndim, 1) for d in ([dims] if isinstance(dims, int) else dims)}
    return x.reshape([n for d, n in enumerate(x.shape) if d not in gone or n != 1])


def part(x: Array, dim: int, chosen: Any) -> tuple[Any, ...]:
    return (slice(None),) * (dim % x.ndim) + (chosen,)


def slice_of(x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    return np.asarray(x[part(x, dim, slice(start, end, step))])


def select(x: Array, dim: int, place: int) -> Array:
    return np.asarray(x[part(x, dim, place)])


def slice_scatter(
    x: Array, source: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    result = x.copy()
    result[part(x, dim, slice(start, end, step))] = source
    return result


def select_scatter(x: Array, source: Array, dim: int, place: int) -> Array:
    result = x.copy()
    result[part(x, dim, place)] = source
    return result


def constant_pad(x: Array, pad: Sequence[int], value: Number = 0) -> Array:
    """`pad` counts from the last dimension; negative padding cuts off."""
    for d, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = x.ndim - 1 - d
        size = x.shape[dim]
        x = x[part(x, dim, slice(max(-before, 0), size - max(-after, 0)))]
        widths = [(max(before, 0), max(after, 0)) if at == dim else (0, 0) for at in range(x.ndim)]
        x = np.pad(x, widths, constant_values=constant(value, x.dtype))
    return x


def inside(index: Array, low: int, size: int) -> Array:
    require(bool(((index >= low) & (index < size)).all()), "an index outside")
    return index


def along(x: Array, dim: int, index: Array) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each place of `index`, and the place of `x` that it names."""
    inside(index, 0, x.shape[dim] if x.ndim else 1)
    named = []
    for at in np.ndindex(index.shape):
        target = list(at[: x.ndim])
        if x.ndim:
            target[dim] = int(index[at])
        named.append((at, tuple(target)))
    return named


def gather(x: Array, dim: int, index: Array) -> Array:
    result = np.zeros(index.shape, x.dtype)
    for at, target in along(x, dim, index):
        result[at] = x[target]
    return result


def scatter(x: Array, dim: int, index: Array, value: Number) -> Array:
    return scatter_source(x, dim, index, np.broadcast_to(constant(value, x.dtype), index.shape))


def scatter_source(x: Array, dim: int, index: Array, source: Array) -> Array:
    result = x.copy()
    for at, target in along(x, dim, index):
        result[target] = source[at]
    return result


def scatter_add(x: Array, dim: int, index: Array, source: Array) -> Array:
    return added(x, [(target, source[at]) for at, target in along(x, dim, index)])


def index_select(x: Array, dim: int, index: Array) -> Array:
    inside(index, 0, x.shape[dim] if x.ndim else 1)
    return np.take(x, index.reshape(-1), dim) if x.ndim else x


def index_add(x: Array, dim: int, index: Array, source: Array, alpha: Number = 1) -> Array:
    inside(index, 0, x.shape[dim] if x.ndim else 1)
    terms = source if alpha == 1 else mul(source, operand(alpha, source))
    if x.ndim == 0:
        return added(x, [((), term) for term in terms.reshape(-1)])
    named = []
    for at in np.ndindex(terms.shape):
        target = list(at)
        target[dim] = int(index.reshape(-1)[at[dim]])
        named.append((tuple(target), terms[at]))
    return added(x, named)


def added(x: Array, terms: Terms) -> Array:
    """`x` with each term added at its place: one sum of given terms for each place that has any."""
    result = x.copy()
    by_place: dict[tuple[int, ...], list[Any]] = {}
    for place, term in terms:
        by_place.setdefault(place, [x[place]]).append(term)
    for place, several in by_place.items():
        column = np.array(several, x.dtype)
        result[place] = exact_sum(column) if x.dtype == F32 else column.sum(dtype=x.dtype)
    return result


def tuple_of(x: Array, indices: Sequence[Array | None]) -> tuple[Any, ...]:
    """As NumPy indexes: None takes the whole dimension."""
    for dim, index in enumerate(indices):
        if index is not None:
            require(index.dtype in {I64, I32}, "an index of flags")
            inside(index, -x.shape[dim], x.shape[dim])
    return tuple(slice(None) if index is None else index for index in indices)


def index(x: Array, indices: Sequence[Array | None]) -> Array:
    return np.asarray(x[tuple_of(x, indices)])


def index_put(x: Array, indices: Sequence[Array | None], values: Array, accumulate: bool = False) -> Array:
    places = np.arange(x.size).reshape(x.shape)[tuple_of(x, indices)]
    terms = np.broadcast_to(values, places.shape).reshape(-1)
    named: Terms = [((int(place),), term) for place, term in zip(places.reshape(-1), terms, strict=True)]
    if accumulate:
        return added(x.reshape(-1), named).reshape(x.shape)
    result = x.reshape(-1).copy()
    for place, term in named:
        result[place] = term
    return result.reshape(x.shape)


def embedding(
    weight: Array, tokens: Array, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Array:
    require(not scale_grad_by_freq and not sparse, "an embedding with these options")
    return weight[inside(tokens, 0, len(weight))]


def embedding_gradient(gradient: Array, tokens: Array, rows: int, padding_idx: int, scale_grad_by_freq: bool) -> Array:
    require(not scale_grad_by_freq, "an embedding with these options")
    inside(tokens, 0, rows)
    width = gradient.shape[-1]
    result, flat = np.zeros((rows, width), F32), gradient.reshape(-1, width)
    for row in range(rows):
        terms = flat[tokens.reshape(-1) == row]
        if row != padding_idx and len(terms):
            result[row] = exact_sum(terms.T)
    return result

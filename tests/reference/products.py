"""Matrix products and convolutions on integers of `bits` bits; sums of products in int64."""

from collections.abc import Iterator, Sequence
from itertools import product as every
from typing import Any

import numpy as np

from .values import F32, F64, I64, Array, above, f32, finite, integers, require, settle, two_to

Sizes = Sequence[int]
Place = tuple[int, ...]
ALL = slice(None)


def scaled(x: Array, dims: tuple[int, ...], bits: int) -> tuple[Array, Array]:
    """Integers that share a unit over `dims`, and the unit's exponent, with those dimensions of size 1."""
    require(x.dtype == F32, "a product of what is not float32")
    if x.size == 0:
        return x.astype(I64), np.zeros([1 if d in dims else n for d, n in enumerate(x.shape)], I64)
    unit = above(np.abs(finite(x, "an operand")).max(dims, keepdims=True)) - bits
    return integers(x, unit), unit


def result(total: Array, unit: Array) -> Array:
    return f32(total.astype(F64) * two_to(unit))


def matmul(a: Array, b: Array, *, bits: int) -> Array:
    require(a.shape[-1] <= 2 ** (62 - 2 * bits), "too many terms")
    qa, ua = scaled(a, (a.ndim - 1,), bits)
    qb, ub = scaled(b, (b.ndim - 2,), bits)
    return result(qa @ qb, ua + ub)


def convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    *,
    bits: int,
) -> Array:
    require(not transposed, "a transposed convolution")
    each = tuple(range(1, x.ndim))
    (qx, ux), (qw, uw) = scaled(x, each, bits), scaled(weight, each, bits)
    axes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    sizes = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in axes]
    total = np.zeros((len(x), len(weight), *sizes), I64)
    for place, tap, source in meetings(total, x, weight, stride, padding, dilation):
        for out, into in channels(weight, groups):
            total[at(ALL, out, place)] += np.einsum("nc,oc->no", qx[at(ALL, into, source)], qw[at(out, ALL, tap)])
    value = result(total, ux + by_channel(uw, x))
    return value if bias is None else settle(value + by_channel(bias, x))


def gradient_of_input(
    gradient: Array,
    x: Array,
    weight: Array,
    bias_sizes: Sizes | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    mask: Sequence[bool],
    *,
    bits: int,
) -> Array:
    qg, ug = scaled(gradient, tuple(range(1, x.ndim)), bits)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    qw, uw = scaled(grouped, (1, *range(3, grouped.ndim)), bits)
    qw = qw.reshape(weight.shape)
    total = np.zeros(x.shape, I64)
    for place, tap, source in meetings(gradient, x, weight, stride, padding, dilation):
        for out, into in channels(weight, groups):
            total[at(ALL, into, source)] += np.einsum("no,oc->nc", qg[at(ALL, out, place)], qw[at(out, ALL, tap)])
    return result(total, ug + by_channel(uw, x))


def gradient_of_weight(
    gradient: Array,
    x: Array,
    weight: Array,
    bias_sizes: Sizes | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    mask: Sequence[bool],
    *,
    bits: int,
) -> Array:
    along = (0, *range(2, x.ndim))
    (qg, ug), (qx, ux) = scaled(gradient, along, bits), scaled(x, along, bits)
    total, unit = np.zeros(weight.shape, I64), np.zeros(weight.shape, I64)
    for place, tap, source in meetings(gradient, x, weight, stride, padding, dilation):
        for out, into in channels(weight, groups):
            total[at(out, ALL, tap)] += np.einsum("no,nc->oc", qg[at(ALL, out, place)], qx[at(ALL, into, source)])
    for out, into in channels(weight, groups):
        both = ug.reshape(-1)[out, None] + ux.reshape(-1)[None, into]
        unit[out] = both.reshape(*both.shape, *[1] * (x.ndim - 2))
    return result(total, unit)


def meetings(
    output: Array, x: Array, weight: Array, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Iterator[tuple[Place, Place, Place]]:
    """Each place of the output with each tap of the weight that meets the input there, and where in the input."""
    for place in every(*map(range, output.shape[2:])):
        for tap in every(*map(range, weight.shape[2:])):
            source = tuple(
                o * s - p + k * d for o, k, s, p, d in zip(place, tap, stride, padding, dilation, strict=True)
            )
            if all(0 <= at < size for at, size in zip(source, x.shape[2:], strict=True)):
                yield place, tap, source


def channels(weight: Array, groups: int) -> Iterator[tuple[slice, slice]]:
    """The output channels of each group and the input channels that they read."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    for g in range(groups):
        yield slice(g * outputs, (g + 1) * outputs), slice(g * inputs, (g + 1) * inputs)


def at(first: slice, second: slice, place: Place) -> tuple[Any, ...]:
    """What indexes those two dimensions and one place of an image."""
    return first, second, *place


def by_channel(x: Array, images: Array) -> Array:
    return x.reshape(1, -1, *[1] * (images.ndim - 2))

"""Pooling over windows of images [..., H, W], window by window."""

from collections.abc import Iterator, Sequence
from itertools import product as every
from typing import Any

import numpy as np

from .sums import exact_sum
from .values import F32, I64, Array, finite, require, settle

Window = tuple[range, range]
Place = tuple[int, int]
Sizes = int | Sequence[int]


def pair(sizes: Sizes) -> tuple[int, int]:
    several = [sizes] if isinstance(sizes, int) else sizes
    return int(several[0]), int(several[-1])


def regular(x: Array, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, up: bool) -> list[list[range]]:
    """The places that windows have along H and along W."""
    axes = zip(x.shape[-2:], pair(kernel), pair(stride or kernel), pair(padding), pair(dilation), strict=True)
    found = []
    for size, k, s, p, d in axes:
        room = size + 2 * p - d * (k - 1) - 1
        count = (-(-room // s) if up else room // s) + 1
        if up and (count - 1) * s >= size + p:
            count -= 1
        found.append([inside(range(o * s - p, o * s - p + k * d, d), size) for o in range(count)])
    return found


def inside(places: range, size: int) -> range:
    kept = [at for at in places if 0 <= at < size]
    return range(kept[0], kept[-1] + 1, places.step) if kept else range(0)


def adaptive(x: Array, sizes: Sizes) -> list[list[range]]:
    return [
        [range(o * size // n, -(-(o + 1) * size // n)) for o in range(n)]
        for size, n in zip(x.shape[-2:], pair(sizes), strict=True)
    ]


def windows(axes: list[list[range]]) -> Iterator[tuple[Place, Window]]:
    for (i, rows), (j, columns) in every(enumerate(axes[0]), enumerate(axes[1])):
        yield (i, j), (rows, columns)


def images(x: Array) -> Array:
    require(x.dtype == F32, "pooling of what is not float32")
    return x.reshape(-1, *x.shape[-2:])


def largest(x: Array, axes: list[list[range]]) -> tuple[Array, Array]:
    """Of each window the largest entry, and its place in the image."""
    flat = images(x)
    values = np.zeros((len(flat), len(axes[0]), len(axes[1])), F32)
    places = np.zeros(values.shape, I64)
    for n, image in enumerate(flat):
        for o, window in windows(axes):
            best = None
            for y, column in every(*window):
                entry = image[y, column]
                if best is None or np.isnan(entry) or entry > image[best]:
                    best = (y, column)
            assert best is not None
            values[n, *o], places[n, *o] = image[best], best[0] * x.shape[-1] + best[1]
    shape = (*x.shape[:-2], *values.shape[1:])
    return settle(values.reshape(shape)), places.reshape(shape)


def max_pool(output: int) -> Any:
    def kernel(
        x: Array, kernel: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False
    ) -> Array:
        return largest(x, regular(x, kernel, stride, padding, dilation, ceil_mode))[output]

    return kernel


def adaptive_max_pool(output: int) -> Any:
    return lambda x, sizes: largest(x, adaptive(x, sizes))[output]


def max_gradient(gradient: Array, x: Array, *options: Any) -> Array:
    """`options` end with the places."""
    finite(gradient, "a gradient")
    size = x.shape[-2] * x.shape[-1]
    terms: dict[tuple[int, int], list[Any]] = {}
    for n, (image, into) in enumerate(zip(images(gradient), images_of(options[-1]), strict=True)):
        for value, place in zip(image.reshape(-1), into.reshape(-1), strict=True):
            require(0 <= place < size, "a place outside")
            terms.setdefault((n, int(place)), []).append(value)
    result = np.zeros((len(images(x)), size), F32)
    for at, values in terms.items():
        result[at] = exact_sum(np.array(values, F32))
    return result.reshape(x.shape)


def images_of(places: Array) -> Array:
    return places.reshape(-1, *places.shape[-2:])


def averages(x: Array, axes: list[list[range]], counts: Array) -> Array:
    flat = finite(images(x), "the operand of an average")
    total = np.zeros((len(flat), len(axes[0]), len(axes[1])), F32)
    for o, (rows, columns) in windows(axes):
        total[:, *o] = exact_sum(flat[:, rows][:, :, columns].reshape(len(flat), -1))
    return settle(total / counts).reshape(*x.shape[:-2], *total.shape[1:])


def average_gradient(gradient: Array, x: Array, axes: list[list[range]], counts: Array) -> Array:
    shares = finite(settle(images(gradient) / counts), "the gradient of an average")
    result = np.zeros(images(x).shape, F32)
    for y, column in every(range(x.shape[-2]), range(x.shape[-1])):
        covering = [o for o, (rows, columns) in windows(axes) if y in rows and column in columns]
        terms = [shares[:, i, j] for i, j in covering]
        result[:, y, column] = exact_sum(np.stack(terms, -1)) if terms else 0
    return result.reshape(x.shape)


def counts_of(axes: list[list[range]]) -> Array:
    return np.array([[len(rows) * len(columns) for columns in axes[1]] for rows in axes[0]]).astype(F32)


def divisors(
    x: Array, kernel: Sizes, stride: Sizes, padding: Sizes, ceil_mode: bool, with_padding: bool, given: int | None
) -> tuple[list[list[range]], Array]:
    """The windows of an average, and what their sums are divided by."""
    axes = regular(x, kernel, stride, padding, 1, ceil_mode)
    if given is not None:
        return axes, np.full((len(axes[0]), len(axes[1])), given, F32)
    if not with_padding:
        return axes, counts_of(axes)
    lengths = [
        [min(o * s - p + k, size + p) - (o * s - p) for o in range(len(axis))]
        for axis, size, k, s, p in zip(
            axes, x.shape[-2:], pair(kernel), pair(stride or kernel), pair(padding), strict=True
        )
    ]
    return axes, np.array([[rows * columns for columns in lengths[1]] for rows in lengths[0]]).astype(F32)


def average_pool(
    x: Array,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil_mode: bool = False,
    with_padding: bool = True,
    given: int | None = None,
) -> Array:
    return averages(x, *divisors(x, kernel, stride, padding, ceil_mode, with_padding, given))


def average_pool_gradient(gradient: Array, x: Array, *options: Any) -> Array:
    return average_gradient(gradient, x, *divisors(x, *options))


def adaptive_average_pool(x: Array, sizes: Sizes) -> Array:
    axes = adaptive(x, sizes)
    return averages(x, axes, counts_of(axes))


def adaptive_average_pool_gradient(gradient: Array, x: Array) -> Array:
    axes = adaptive(x, gradient.shape[-2:])
    return average_gradient(gradient, x, axes, counts_of(axes))

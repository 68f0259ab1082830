"""Pooling over windows of images [..., H, W], and its gradients.

A window is a rectangle; along each dimension an `Axis` says where the windows begin and end. The gradient of an
average has the same form, with the roles of input and output exchanged, so one function sums both. A maximum is found
in row-major order: the first of equal entries, or the last NaN.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.elementwise import divide
from tallystick.exact.rounding import exponent_above, power_of_two, require_finite, settle, to_float32
from tallystick.exact.sums import EXACT_TERMS, TERM_BITS

Sizes = int | Sequence[int]


@dataclass(frozen=True)
class Axis:
    """The windows along one dimension: window o covers start, start + step, ... before its end, where not negative."""

    starts: Tensor
    ends: Tensor
    """int64 [windows]; no end is beyond the input."""
    longest: int
    """Most places of one window, those before the input included."""
    step: int = 1

    def __len__(self) -> int:
        return len(self.starts)

    def places(self, i: int) -> Tensor:
        """Place i of every window, -1 where it has none."""
        places = self.starts + i * self.step
        return torch.where((places >= 0) & (places < self.ends), places, -1)

    def lengths(self) -> Tensor:
        """How many input places each window has (of step 1)."""
        return self.ends - self.starts.clamp(min=0)


Windows = tuple[Axis, Axis]
"""Along H and along W."""


def max_pool(
    x: Tensor, kernel: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False
) -> Tensor:
    """The largest entry of each window; no order matters to it, so torch's own is exact."""
    _require_float(x)
    result = torch.ops.aten.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil_mode)[0]
    return settle(result)


def max_pool_places(
    x: Tensor, kernel: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False
) -> Tensor:
    """Where each window's largest entry lies in its image (int64)."""
    _require_float(x)
    shape = torch.ops.aten.max_pool2d_with_indices(x.to("meta"), kernel, stride, padding, dilation, ceil_mode)[0].shape
    if x.is_meta:
        return x.new_empty(shape, dtype=torch.int64)
    windows = _regular(x, shape, kernel, stride, padding, dilation)
    return _places_of_largest(x, windows)


def adaptive_max_pool(x: Tensor, output_size: Sizes) -> Tensor:
    _require_float(x)
    return settle(torch.ops.aten.adaptive_max_pool2d(x, _pair(output_size))[0])


def adaptive_max_pool_places(x: Tensor, output_size: Sizes) -> Tensor:
    _require_float(x)
    if x.is_meta:
        return x.new_empty((*x.shape[:-2], *_pair(output_size)), dtype=torch.int64)
    return _places_of_largest(x, _adaptive(x, _pair(output_size)))


def max_pool_gradient(
    gradient: Tensor,
    x: Tensor,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    places: Tensor,
) -> Tensor:
    return adaptive_max_pool_gradient(gradient, x, places)


def adaptive_max_pool_gradient(gradient: Tensor, x: Tensor, places: Tensor) -> Tensor:
    """Each entry is the exact sum of the gradients of the windows whose largest entry it was.

    Raises:
        NonFiniteError: the gradient holds an infinity or a NaN.
        Refused: `index_out_of_range`.
    """
    _require_float(x, gradient)
    _require_images(x, gradient)
    if places.shape != gradient.shape or places.dtype != torch.int64:
        raise Refused("bad_shape", "the places of maxima are not int64 in the shape of the gradient")
    if x.is_meta:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    size = x.shape[-2] * x.shape[-1]
    if bool(((places < 0) | (places >= size)).any()):
        raise Refused("index_out_of_range", f"a place of a maximum is not within 0..{size - 1}")
    images = math.prod(x.shape[:-2])
    into, terms = places.reshape(images, -1), gradient.reshape(images, -1)
    require_finite(terms, "the gradient of a maximum")
    peak = torch.zeros(images, size, device=x.device).scatter_reduce_(1, into, terms.abs(), "amax")
    unit = exponent_above(peak) - TERM_BITS
    integers = torch.round(terms.to(torch.float64) * power_of_two(-unit.gather(1, into)))
    wide = torch.float64 if terms.shape[1] <= EXACT_TERMS else torch.int64
    total = torch.zeros(images, size, dtype=wide, device=x.device).scatter_add_(1, into, integers.to(wide))
    return to_float32(total.to(torch.float64) * power_of_two(unit)).view(x.shape)


def average_pool(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The exact sum over each window, rounded to float32, divided by the number of its entries.

    Entries of the padding count if `count_include_pad`, but never those beyond it that `ceil_mode` adds.
    """
    _require_float(x)
    plan = x.to("meta"), kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
    shape = torch.ops.aten.avg_pool2d(*plan).shape
    if x.is_meta:
        return x.new_empty(shape)
    windows, counts = _averaged(x, shape, kernel, stride, padding, count_include_pad, divisor_override)
    return divide(window_sums(x, windows), counts)


def average_pool_gradient(
    gradient: Tensor,
    x: Tensor,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Each entry is the exact sum, over the windows that cover it, of their gradient divided by their count."""
    _require_float(x, gradient)
    plan = kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
    if gradient.shape != torch.ops.aten.avg_pool2d(x.to("meta"), *plan).shape:
        raise Refused("bad_shape", f"a gradient {list(gradient.shape)} does not fit images {list(x.shape)}")
    if x.is_meta:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    windows, counts = _averaged(x, gradient.shape, kernel, stride, padding, count_include_pad, divisor_override)
    return window_sums(divide(gradient, counts), _transposed(windows, x))


def adaptive_average_pool(x: Tensor, output_size: Sizes) -> Tensor:
    """As `average_pool`, with windows that cover the input as evenly as can be."""
    _require_float(x)
    if x.is_meta:
        return x.new_empty((*x.shape[:-2], *_pair(output_size)))
    windows = _adaptive(x, _pair(output_size))
    return divide(window_sums(x, windows), _counts(windows))


def adaptive_average_pool_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    _require_float(x, gradient)
    _require_images(x, gradient)
    if x.is_meta:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    windows = _adaptive(x, gradient.shape[-2:])
    return window_sums(divide(gradient, _counts(windows)), _transposed(windows, x))


def window_sums(x: Tensor, windows: Windows) -> Tensor:
    """The exact sum over each window: one unit for its terms, integers, one rounding; 0 for an empty window.

    Raises:
        NonFiniteError: `x` holds an infinity or a NaN.
    """
    require_finite(x, "the operand of an average")
    rows, columns = windows
    peak = torch.zeros(*x.shape[:-2], len(rows), len(columns), device=x.device)
    for part, _, inside in _parts(x, windows):
        peak = torch.maximum(peak, torch.where(inside, part.abs(), 0.0))
    unit = exponent_above(peak) - TERM_BITS
    scale = power_of_two(-unit)
    wide = torch.float64 if rows.longest * columns.longest <= EXACT_TERMS else torch.int64
    total = torch.zeros(peak.shape, dtype=wide, device=x.device)
    for part, _, inside in _parts(x, windows):
        total += torch.where(inside, torch.round(part.to(torch.float64) * scale), 0.0).to(wide)
    return to_float32(total.to(torch.float64) * power_of_two(unit))


def _places_of_largest(x: Tensor, windows: Windows) -> Tensor:
    rows, columns = windows
    shape = (*x.shape[:-2], len(rows), len(columns))
    best = torch.full(shape, -math.inf, device=x.device)
    places = torch.full(shape, -1, device=x.device)
    for part, at, inside in _parts(x, windows):
        better = inside & ((part > best) | part.isnan() | (places < 0))
        best, places = torch.where(better, part, best), torch.where(better, at, places)
    return places


def _parts(x: Tensor, windows: Windows) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each place within a window, in row-major order: the entry there of every window, where in its image that
    entry lies, and which windows have it."""
    rows, columns = windows
    for i in range(rows.longest):
        row = rows.places(i)
        line = _taken(x, -2, row)
        for j in range(columns.longest):
            column = columns.places(j)
            inside = (row >= 0)[:, None] & (column >= 0)
            yield _taken(line, -1, column), row[:, None] * x.shape[-1] + column, inside


def _taken(x: Tensor, dim: int, places: Tensor) -> Tensor:
    """Entries of `x` at `places` along `dim`, as a view where they lie in regular steps; anything for -1."""
    count, first = len(places), int(places[0]) if len(places) else 0
    step = int(places[1]) - first if count > 1 else 1
    if count and first >= 0 and step > 0 and bool((places.diff() == step).all()):
        last = first + (count - 1) * step
        return x[..., first : last + 1 : step, :] if dim == -2 else x[..., first : last + 1 : step]
    return x.index_select(dim, places.clamp(min=0))


def _regular(
    x: Tensor, shape: Sequence[int], kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes = 1
) -> Windows:
    """The windows of `kernel` entries, `dilation` apart, that begin every `stride`, for an output of `shape`."""
    options = (_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation))
    rows, columns = (_axis(x, *sizes) for sizes in zip(x.shape[-2:], shape[-2:], *options, strict=True))
    return rows, columns


def _axis(x: Tensor, size: int, count: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    starts = torch.arange(count, device=x.device) * stride - padding
    return Axis(starts, (starts + kernel * dilation).clamp(max=size), kernel, dilation)


def _adaptive(x: Tensor, output_size: Sequence[int]) -> Windows:
    """As even as can be: from floor(o * size / count) up to ceil((o + 1) * size / count)."""
    rows, columns = (
        _between(at * size // count, -((at + 1) * size // -count))
        for size, count in zip(x.shape[-2:], output_size, strict=True)
        for at in [torch.arange(count, device=x.device)]
    )
    return rows, columns


def _between(starts: Tensor, ends: Tensor) -> Axis:
    return Axis(starts, ends, int((ends - starts).amax()) if len(starts) else 0)


def _transposed(windows: Windows, x: Tensor) -> Windows:
    """For each input place, the windows that cover it: after all that end before it, up to the last that has begun."""
    rows, columns = (
        _between(
            torch.searchsorted(axis.ends, at, right=True),
            torch.searchsorted(axis.starts, at, right=True),
        )
        for axis, size in zip(windows, x.shape[-2:], strict=True)
        for at in [torch.arange(size, device=x.device)]
    )
    return rows, columns


def _averaged(
    x: Tensor,
    shape: Sequence[int],
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    count_include_pad: bool,
    divisor_override: int | None,
) -> tuple[Windows, Tensor]:
    """The windows of an average and what each sum is divided by (float32)."""
    windows = _regular(x, shape, kernel, stride, padding)
    if divisor_override is not None:
        return windows, torch.full((), float(divisor_override), device=x.device)
    if not count_include_pad:
        return windows, _counts(windows)
    padded = zip(windows, x.shape[-2:], _pair(kernel), _pair(padding), strict=True)
    rows, columns = ((axis.starts + k).clamp(max=size + p) - axis.starts for axis, size, k, p in padded)
    return windows, (rows[:, None] * columns).to(torch.float32)


def _counts(windows: Windows) -> Tensor:
    """How many entries each window has (float32)."""
    rows, columns = (axis.lengths() for axis in windows)
    return (rows[:, None] * columns).to(torch.float32)


def _pair(sizes: Sizes) -> Sequence[int]:
    """One size for each dimension; a flag counts as the number that ATen takes it for."""
    several = [sizes] if isinstance(sizes, int) else sizes
    first, second = several if len(several) == 2 else (several[0], several[0])
    return int(first), int(second)


def _require_float(*tensors: Tensor) -> None:
    for x in tensors:
        if x.dtype != torch.float32:
            raise Refused("unsupported_dtype", f"pooling of {x.dtype} is not part of exact-v1; use float32")


def _require_images(x: Tensor, gradient: Tensor) -> None:
    """The gradient is that of the same images; torch checks this only where there are values."""
    if x.dim() not in {3, 4} or gradient.dim() != x.dim() or gradient.shape[:-2] != x.shape[:-2] or not x.numel():
        raise Refused("bad_shape", f"a gradient {list(gradient.shape)} does not fit images {list(x.shape)}")

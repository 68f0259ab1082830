"""Reading and writing entries by index, and sums of what lands in one place.

An index comes from the data, such as a label or a token, so one that is outside is refused here and not left to crash
the device. Where several float32 terms land in one place, their sum is that of `sums`: one unit for the terms of one
place, integers, one rounding. Where several values are written to one place, the last in the order of the index wins.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.creation import fitting
from tallystick.exact.elementwise import Number, multiply, operand
from tallystick.exact.rounding import exponent_above, power_of_two, require_finite, to_float32
from tallystick.exact.sums import EXACT_TERMS, TERM_BITS

Indices = Sequence[Tensor | None]


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    _require_along(index, x, dim)
    return torch.gather(x, dim, index)


def scatter(x: Tensor, dim: int, index: Tensor, value: Number) -> Tensor:
    _require_along(index, x, dim)
    return torch.scatter(x, dim, index, fitting(value, x.dtype))


def scatter_source(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    _require_along(index, x, dim)
    _require_same_dtype(x, source)
    if x.is_meta:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    return _written(x, _places_along(x, dim, index), _leading(source, index))


def scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """x[..., index[i], ...] + the sum of the source entries that land there, as one exact sum."""
    _require_along(index, x, dim)
    _require_same_dtype(x, source)
    if x.is_meta:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    places, terms = _places_along(x, dim, index), _leading(source, index)
    return add_rows(x.reshape(-1, 1), places.reshape(-1), terms.reshape(-1, 1)).view(x.shape)


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, alpha: Number = 1) -> Tensor:
    _require_along(index, x, dim)
    _require_same_dtype(x, source)
    if x.is_meta:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    terms = source if alpha == 1 else multiply(source, operand(alpha, source))
    if x.dim() == 0:
        return add_rows(x.reshape(1, 1), index.reshape(-1), terms.reshape(-1, 1)).view(())
    rows, added = x.movedim(dim, 0), terms.movedim(dim, 0)
    width = math.prod(rows.shape[1:])
    total = add_rows(rows.reshape(x.shape[dim], width), index.reshape(-1), added.reshape(index.numel(), width))
    return total.view(rows.shape).movedim(0, dim)


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    _require_along(index, x, dim)
    return torch.index_select(x, dim, index)


def index(x: Tensor, indices: Indices) -> Tensor:
    """x[indices]; None takes the whole dimension, and an index may count from the end."""
    _require_tuple(x, indices)
    return torch.ops.aten.index.Tensor(x, indices)  # type: ignore[no-any-return]


def index_put(x: Tensor, indices: Indices, values: Tensor, accumulate: bool = False) -> Tensor:
    """`x` with `values` written to, or exactly added to, the entries that `indices` name."""
    _require_tuple(x, indices)
    _require_same_dtype(x, values)
    _require_bounded(x, indices, values)
    if x.is_meta:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    leading = next((d for d, part in enumerate(indices) if part is None), len(indices))
    if any(part is not None for part in indices[leading:]):
        leading = x.dim()  # entry by entry
    count, width = math.prod(x.shape[:leading]), math.prod(x.shape[leading:])
    rows = torch.arange(count, device=x.device).view(x.shape[:leading])
    places: Tensor = torch.ops.aten.index.Tensor(rows, indices[:leading] if leading < x.dim() else indices)
    terms = values.expand(*places.shape, *x.shape[leading:])
    if accumulate:
        return add_rows(x.reshape(count, width), places.reshape(-1), terms.reshape(-1, width)).view(x.shape)
    entries = places.reshape(-1, 1) * width + torch.arange(width, device=x.device)
    return _written(x, entries, terms)


def embedding(
    weight: Tensor, tokens: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """weight[tokens]; `padding_idx` matters to the gradient alone."""
    _require_plain(scale_grad_by_freq, sparse)
    _require_range(tokens, 0, weight.shape[0])
    return torch.index_select(weight, 0, tokens.reshape(-1)).view(*tokens.shape, weight.shape[1])


def embedding_gradient(
    gradient: Tensor, tokens: Tensor, rows: int, padding_idx: int, scale_grad_by_freq: bool
) -> Tensor:
    """[rows, width]: each row is the exact sum of the gradients where its token stands; none for `padding_idx`."""
    _require_plain(scale_grad_by_freq, False)
    _require_range(tokens, 0, rows)
    result = torch.zeros(rows, gradient.shape[-1], device=gradient.device)
    if gradient.is_meta:
        return result
    flat = tokens.reshape(-1).to(torch.int64)
    counted = flat != padding_idx
    return add_rows(result, flat[counted], gradient.reshape(flat.numel(), gradient.shape[-1])[counted])


def add_rows(x: Tensor, places: Tensor, terms: Tensor) -> Tensor:
    """x [R, D] with terms [N, D] added to the rows `places` (int64 [N]): per entry one exact sum, x's own included.

    Raises:
        NonFiniteError: an infinity or a NaN is among the terms.
    """
    if not x.is_floating_point():
        return x.index_add(0, places, terms)
    touched, at = torch.unique(places, return_inverse=True)
    count = touched.numel()
    every = torch.cat([x[touched], terms])
    at = torch.cat([torch.arange(count, device=x.device), at])
    require_finite(every, "a term that is added in place")
    into = at[:, None].expand_as(every)
    peak = torch.zeros(count, x.shape[1], device=x.device).scatter_reduce_(0, into, every.abs(), "amax")
    unit = exponent_above(peak) - TERM_BITS
    integers = torch.round(every.to(torch.float64) * power_of_two(-unit)[at])
    wide = torch.float64 if every.shape[0] <= EXACT_TERMS else torch.int64
    total = torch.zeros(count, x.shape[1], dtype=wide, device=x.device).scatter_add_(0, into, integers.to(wide))
    result = x.clone()
    result[touched] = to_float32(total.to(torch.float64) * power_of_two(unit))
    return result


def slice_scatter(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    _write_part(torch.ops.aten.slice.Tensor(result, dim, start, end, step), source)
    return result


def select_scatter(x: Tensor, source: Tensor, dim: int, place: int) -> Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    _write_part(result.select(dim, place), source)
    return result


def constant_pad(x: Tensor, pad: Sequence[int], value: Number = 0) -> Tensor:
    """Negative padding cuts off."""
    return torch.constant_pad_nd(x, list(pad), fitting(value, x.dtype))


def _write_part(part: Tensor, source: Tensor) -> None:
    _require_same_dtype(part, source)
    if part.shape != source.shape:
        raise Refused("bad_shape", f"{list(source.shape)} is written into a part of shape {list(part.shape)}")
    part.copy_(source)


def _written(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """`x` with values at flat places; of several for one place the last stays."""
    flat, order = places.reshape(-1), torch.arange(places.numel(), device=x.device)
    last = torch.full((x.numel(),), -1, device=x.device).scatter_reduce_(0, flat, order, "amax")
    stays = last[flat] == order
    result = x.reshape(-1).clone()
    result[flat[stays]] = values.reshape(-1)[stays]
    return result.view(x.shape)


def _places_along(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Where in the flattened `x` each entry of `index` points; torch.gather's rule for the other dimensions."""
    return torch.gather(torch.arange(x.numel(), device=x.device).view(x.shape), dim, index)


def _leading(source: Tensor, index: Tensor) -> Tensor:
    """The part of `source` that has the shape of `index`."""
    return source[tuple(slice(size) for size in index.shape)]


def _require_along(index: Tensor, x: Tensor, dim: int) -> None:
    _require_range(index, 0, x.shape[dim] if x.dim() else 1)


def _require_tuple(x: Tensor, indices: Indices) -> None:
    for dim, part in enumerate(indices):
        if part is None:
            continue
        if part.dtype not in {torch.int64, torch.int32}:
            raise Refused("unsupported_dtype", f"an index of {part.dtype} has no fixed size; use torch.where or int64")
        if dim < x.dim():
            _require_range(part, -x.shape[dim], x.shape[dim])


def _require_bounded(x: Tensor, indices: Indices, values: Tensor) -> None:
    """Small index tensors can name very many entries together; what they name is built here."""
    named = math.prod(torch.broadcast_shapes(*(part.shape for part in indices if part is not None)))
    whole = (size for d, size in enumerate(x.shape) if d >= len(indices) or indices[d] is None)
    terms = named * math.prod(whole)
    if terms > x.numel() + values.numel():
        raise Refused("too_large", f"an index names {terms} entries, more than there are; write to each place once")


def _require_range(index: Tensor, low: int, size: int) -> None:
    if not index.is_meta and bool(((index < low) | (index >= size)).any()):
        reason = f"an index is not within {low}..{size - 1}; check the data, such as labels or tokens"
        raise Refused("index_out_of_range", reason)


def _require_same_dtype(x: Tensor, source: Tensor) -> None:
    if x.dtype != source.dtype:
        raise Refused("unsupported_dtype", f"{source.dtype} is written into {x.dtype}; convert it first")


def _require_plain(scale_grad_by_freq: bool, sparse: bool) -> None:
    if scale_grad_by_freq or sparse:
        raise Refused("unsupported_option", "an embedding with scale_grad_by_freq or sparse is not part of exact-v1")

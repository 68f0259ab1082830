"""Exact sums and softmax by the compiled kernels (reduce.c)."""

import ctypes
from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p

import torch
from torch import Tensor

from tallystick.errors import NonFiniteError
from tallystick.exact.native import LIBRARY


def sums(x: Tensor, dims: Sequence[int]) -> Tensor | None:
    """The sums of float32 `x` over `dims`, which keep size 1; None if they have to be computed elsewhere.

    Raises:
        NonFiniteError: `x` holds an infinity or a NaN.
    """
    if LIBRARY is None or not x.is_cpu or x.dtype != torch.float32 or x.numel() == 0:
        return None
    summed = {dim % x.dim() for dim in dims} if x.dim() else set()
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda dim: -strides[dim])
    lying = x.permute(order)
    if not lying.is_contiguous():
        order, lying = list(range(x.dim())), x.contiguous()
    runs = _runs(lying.shape, [dim in summed for dim in order])
    if len(runs) > 3 or (len(runs) == 3 and not runs[0][1] and not runs[1][1]):
        order = [*(d for d in order if d not in summed), *(d for d in order if d in summed)]
        lying = x.permute(order).contiguous()
        runs = _runs(lying.shape, [dim in summed for dim in order])
    totals = torch.empty([1 if dim in summed else x.shape[dim] for dim in order], dtype=torch.float32)
    space = (c_int64 * 6)(*_space(runs))
    if LIBRARY.ts_sum(space, lying.data_ptr(), totals.data_ptr(), torch.get_num_threads()) != 0:
        raise NonFiniteError("the operand of a sum holds an infinity or a NaN")
    return totals.permute([order.index(dim) for dim in range(x.dim())])


def softmax(x: Tensor, dim: int, *, logarithm: bool) -> Tensor | None:
    """softmax of float32 `x` along `dim`, or its logarithm; None if it has to be computed elsewhere.

    Raises:
        NonFiniteError: an exponential is not finite.
    """
    if LIBRARY is None or not x.is_cpu or x.dtype != torch.float32 or x.numel() == 0 or x.dim() == 0:
        return None
    moved = x.movedim(dim, -1)
    rows = moved.contiguous()
    result = torch.empty_like(rows)
    columns = rows.shape[-1]
    pointers = (rows.data_ptr(), result.data_ptr())
    if LIBRARY.ts_softmax(*pointers, rows.numel() // columns, columns, logarithm, torch.get_num_threads()) != 0:
        raise NonFiniteError("the operand of a sum holds an infinity or a NaN")
    return result.movedim(-1, dim)


def _runs(sizes: Sequence[int], summed: Sequence[bool]) -> list[tuple[int, bool]]:
    """Neighboring dimensions that are all summed or all kept, as one.

    >>> _runs([8, 3, 4, 5], [True, False, True, True])
    [(8, True), (3, False), (20, True)]
    """
    runs: list[tuple[int, bool]] = []
    for size, flag in zip(sizes, summed, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == flag:
            runs[-1] = (runs[-1][0] * size, flag)
        else:
            runs.append((size, flag))
    return runs


def _space(runs: list[tuple[int, bool]]) -> tuple[int, ...]:
    """`space` in reduce.c: outer, reduced, inner, the strides of the first two, whether inner is summed.

    Args:
        runs: contiguous; summed and kept in turn, at most three.
    """
    sizes = [size for size, _ in runs]
    match [flag for _, flag in runs]:
        case []:
            return (1, 1, 1, 1, 1, 1)
        case [True]:
            return (1, 1, sizes[0], 0, 0, 1)
        case [False]:
            return (sizes[0], 1, 1, 1, 1, 1)
        case [False, True]:
            return (sizes[0], 1, sizes[1], sizes[1], 0, 1)
        case [True, False]:
            return (1, sizes[0], sizes[1], 0, sizes[1], 0)
        case [True, False, True]:
            return (sizes[1], sizes[0], sizes[2], sizes[2], sizes[1] * sizes[2], 1)
        case [False, True, False]:
            return (sizes[0], sizes[1], sizes[2], sizes[1] * sizes[2], sizes[2], 0)
    raise AssertionError(runs)


if LIBRARY is not None:
    LIBRARY.ts_sum.argtypes = (ctypes.POINTER(c_int64), c_void_p, c_void_p, c_int)
    LIBRARY.ts_softmax.argtypes = (c_void_p, c_void_p, c_int64, c_int64, c_int, c_int)

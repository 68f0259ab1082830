"""Exact matrix products by the compiled kernels (gemm.c)."""

from ctypes import POINTER, c_int, c_int64, c_void_p

import torch
from torch import Tensor

from tallystick.errors import NonFiniteError
from tallystick.exact.native import LIBRARY

NOT_FINITE, NO_MEMORY = 1, 2


def matmul(a: Tensor, b: Tensor, bits: int) -> Tensor | None:
    """`a` [..., M, K] times `b` [..., K, N], whatever their strides; None if it has to be computed elsewhere.

    Raises:
        NonFiniteError: an operand holds an infinity or a NaN.
    """
    if LIBRARY is None or not (a.is_cpu and b.is_cpu and a.dtype == b.dtype == torch.float32):
        return None
    if a.dim() < 2 or a.numel() == 0 or b.numel() == 0:
        return None
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        return None  # torch says what is wrong
    if a.dim() == 2:
        result = torch.empty((a.shape[0], b.shape[1]))
        sizes, strides = (1, *a.shape, b.shape[1]), (0, *a.stride(), 0, *b.stride())
    else:
        result = torch.empty((*a.shape[:-1], b.shape[-1]))
        a, b = a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])
        sizes, strides = (*a.shape, b.shape[-1]), (*a.stride(), *b.stride())
    pointers = (a.data_ptr(), b.data_ptr(), result.data_ptr())
    status = LIBRARY.ts_matmul(Sizes(*sizes), Strides(*strides), *pointers, bits, torch.get_num_threads())
    require_success(status)
    return result


def require_success(status: int) -> None:
    """Raises what a kernel's status means."""
    if status == NOT_FINITE:
        raise NonFiniteError("an operand of a matrix product holds an infinity or a NaN")
    if status == NO_MEMORY:
        raise MemoryError("no memory for the panels of a matrix product")


Sizes = c_int64 * 4
Strides = c_int64 * 6
if LIBRARY is not None:
    LIBRARY.ts_matmul.argtypes = (POINTER(c_int64), POINTER(c_int64), c_void_p, c_void_p, c_void_p, c_int, c_int)
    LIBRARY.ts_limit_level.argtypes = (c_int,)

"""Gradients to fixed point and back by the compiled kernels (accumulate.c)."""

from ctypes import c_int, c_int64, c_uint32, c_void_p

import torch
from torch import Tensor

from tallystick.exact.native import LIBRARY


def usable(x: Tensor) -> bool:
    return LIBRARY is not None and x.is_cpu


def fixed_and_peak(gradient: Tensor, power: int, bits: int) -> tuple[Tensor, int]:
    """round(gradient * 2**power) as int32, limited to 2**bits; and the bits of the largest magnitude."""
    assert LIBRARY is not None
    x = gradient.contiguous()
    fixed = torch.empty(x.shape, dtype=torch.int32)
    threads = torch.get_num_threads()
    return fixed, LIBRARY.ts_to_fixed(x.data_ptr(), fixed.data_ptr(), x.numel(), power, bits, threads)


def peak_bits(x: Tensor) -> int:
    """The bits of the largest magnitude."""
    assert LIBRARY is not None
    x = x.contiguous()
    peak: int = LIBRARY.ts_to_fixed(x.data_ptr(), None, x.numel(), 0, 0, torch.get_num_threads())
    return peak


def mean_of(total: Tensor, power: int, micro_batches: int) -> Tensor:
    """total * 2**power / micro_batches, as float32."""
    assert LIBRARY is not None
    x = total.contiguous()
    mean = torch.empty(x.shape, dtype=torch.float32)
    LIBRARY.ts_mean_of(x.data_ptr(), mean.data_ptr(), x.numel(), power, micro_batches, torch.get_num_threads())
    return mean


if LIBRARY is not None:
    LIBRARY.ts_to_fixed.argtypes = (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int)
    LIBRARY.ts_to_fixed.restype = c_uint32
    LIBRARY.ts_mean_of.argtypes = (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int)
    LIBRARY.ts_mean_of.restype = None

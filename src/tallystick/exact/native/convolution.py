"""Exact convolutions and their gradients by the compiled kernels (conv.c, conv_weight.c)."""

import math
from collections.abc import Sequence
from ctypes import Array, c_int64, c_void_p

import torch
from torch import Tensor

from tallystick.exact.native import LIBRARY
from tallystick.exact.native.products import require_success

LARGEST_OPERAND = 2**27
"""Entries of one sample with its padding, or of the weight: offsets within a sample are 32 bits wide."""

Sizes = Sequence[int]
Numbers = Array[c_int64]


def output(
    x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, bits: int
) -> Tensor | None:
    """The convolution without bias; None if it has to be computed elsewhere.

    Raises:
        NonFiniteError: an operand holds an infinity or a NaN.
    """
    sizes = _output_sizes(x, weight, stride, padding, dilation, groups)
    if LIBRARY is None or sizes is None or not _held(x, weight):
        return None
    result = torch.empty((x.shape[0], weight.shape[0], *sizes))
    numbers = _numbers(x, weight, sizes, stride, padding, dilation, groups, bits)
    x, weight = x.contiguous(), weight.contiguous()
    require_success(LIBRARY.ts_convolution(numbers, x.data_ptr(), weight.data_ptr(), result.data_ptr()))
    return result


def gradient_of_input(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, bits: int
) -> Tensor | None:
    """As `output`; of `x` only the shape counts."""
    sizes = _output_sizes(x, weight, stride, padding, dilation, groups)
    if LIBRARY is None or sizes is None or not _held(gradient, weight):
        return None
    if gradient.shape != (x.shape[0], weight.shape[0], *sizes):
        return None
    numbers = _numbers(x, weight, sizes, stride, padding, dilation, groups, bits)
    result = torch.empty(x.shape)
    gradient, weight = gradient.contiguous(), weight.contiguous()
    pointers = (gradient.data_ptr(), weight.data_ptr(), result.data_ptr())
    require_success(LIBRARY.ts_convolution_grad_input(numbers, *pointers))
    return result


def gradient_of_weight(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, bits: int
) -> Tensor | None:
    """As `output`; of `weight` only the shape counts."""
    sizes = _output_sizes(x, weight, stride, padding, dilation, groups)
    if LIBRARY is None or sizes is None or not _held(gradient, x):
        return None
    if gradient.shape != (x.shape[0], weight.shape[0], *sizes):
        return None
    numbers = _numbers(x, weight, sizes, stride, padding, dilation, groups, bits)
    result = torch.empty(weight.shape)
    gradient, x = gradient.contiguous(), x.contiguous()
    pointers = (gradient.data_ptr(), x.data_ptr(), result.data_ptr())
    require_success(LIBRARY.ts_convolution_grad_weight(numbers, *pointers))
    return result


def _held(*operands: Tensor) -> bool:
    return all(t.is_cpu and t.dtype == torch.float32 for t in operands)


def _output_sizes(
    x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> list[int] | None:
    """The output's spatial sizes; None unless the kernels take operands of these shapes.

    The kernels check nothing themselves, so whatever is unusual, or wrong, is left to torch.
    """
    axes = x.dim() - 2
    if axes not in {1, 2} or any(len(v) != axes for v in (weight.shape[2:], stride, padding, dilation)):
        return None
    if min(*stride, *dilation, groups, x.numel(), weight.numel()) < 1 or min(padding) < 0:
        return None
    if weight.shape[1] * groups != x.shape[1] or weight.shape[0] % groups != 0:
        return None
    sizes, laid_out = [], max(x.shape[1], weight.shape[0]) + 1
    for size, kernel, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True):
        room = size + 2 * p - d * (kernel - 1) - 1
        if room < 0:
            return None
        sizes.append(room // s + 1)
        laid_out *= size + 2 * p + (kernel + 3) * s
    return sizes if max(laid_out, weight.numel() * math.prod(stride)) <= LARGEST_OPERAND else None


def _numbers(
    x: Tensor, weight: Tensor, sizes: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, bits: int
) -> Numbers:
    """What ts_convolution_of in conv_grid.c reads; one spatial dimension is a plane of height 1."""
    one, zero = ((1,), (0,)) if x.dim() == 3 else ((), ())
    return (c_int64 * 18)(
        *(x.shape[0], x.shape[1] // groups, weight.shape[0] // groups, groups),
        *(*one, *x.shape[2:], *one, *sizes, *one, *weight.shape[2:]),
        *(*one, *stride, *zero, *padding, *one, *dilation),
        *(bits, torch.get_num_threads()),
    )


if LIBRARY is not None:
    for entry in (LIBRARY.ts_convolution, LIBRARY.ts_convolution_grad_input, LIBRARY.ts_convolution_grad_weight):
        entry.argtypes = (c_void_p, c_void_p, c_void_p, c_void_p)

"""Convolutions and their gradients on integers.

Everything that one sum runs over shares a power of two, and everything else may have its own:

| result | unit of the first operand | unit of the second |
|---|---|---|
| output | of the input, one per sample | of the weight, one per output channel |
| gradient of the input | of the output's gradient, one per sample | of the weight, one per input channel |
| gradient of the weight | of the output's gradient, one per output channel | of the input, one per input channel |

Without the compiled kernels (`native`) the integers are convolved in float64, where torch's own convolution adds
products exactly, in any order, below 2**53. Where a sum has too many terms for that, one operand is split into a high
and a low part, and the two results are combined in int64.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.elementwise import plus
from tallystick.exact.native import convolution as compiled
from tallystick.exact.products import exact_terms, max_terms, require_terms, scaled_integers
from tallystick.exact.rounding import power_of_two, to_float32

LOW_BITS: Final = 10
COLUMNS: Final = 2**20
"""torch lays out an operand's entries once for each tap; of so many at a time, which stay in the cache."""
Sizes = Sequence[int]
Geometry = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, transposed, output padding, groups: as ATen's convolutions take them."""


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    *,
    bits: int,
) -> Tensor:
    """aten.convolution: `x` [N, C, ...], `weight` [O, C / groups, ...], both float32; one or two spatial dimensions.

    Raises:
        NonFiniteError: an operand holds an infinity or a NaN.
        Refused: `unsupported_dtype`, `unsupported_operator` (transposed) or `too_large`.
    """
    _require_geometry(x, weight, transposed, stride, padding, dilation, output_padding, groups)
    require_terms(weight[:1].numel(), max_terms(bits))
    result = compiled.output(x, weight, stride, padding, dilation, groups, bits)
    if result is None:
        geometry = (list(stride), list(padding), list(dilation), False, list(output_padding), groups)
        result = float64_output(x, weight, geometry, bits)
    return result if bias is None else plus(result, bias.reshape(1, -1, *_ones(x)))


def float64_output(x: Tensor, weight: Tensor, geometry: Geometry, bits: int) -> Tensor:
    """`convolution` without bias, by torch's own operators."""
    qx, unit_x = scaled_integers(x, tuple(range(1, x.dim())), bits)
    qw, unit_w = scaled_integers(weight, tuple(range(1, weight.dim())), bits)
    terms = weight[:1].numel()
    count = _samples_at_once(terms * geometry[-1] * math.prod(x.shape[2:]))

    def output_with(part: Tensor) -> Tensor:
        return torch.cat([torch.ops.aten.convolution(some, part, None, *geometry) for some in qx.split(count)])

    total = _exact(output_with, qw, terms, bits)
    return to_float32(total * power_of_two(unit_x + unit_w.reshape(1, -1, *_ones(x))))


def gradient_of_input(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sizes | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    output_mask: Sequence[bool],
    *,
    bits: int,
) -> Tensor:
    """aten.convolution_backward's first result."""
    _require_geometry(x, weight, transposed, stride, padding, dilation, output_padding, groups)
    _require_gradient(gradient, x, weight, stride, padding, dilation)
    require_terms(weight[:, :1].numel() // groups, max_terms(bits))
    result = compiled.gradient_of_input(gradient, x, weight, stride, padding, dilation, groups, bits)
    geometry = (list(stride), list(padding), list(dilation), False, list(output_padding), groups)
    return float64_gradient_of_input(gradient, x, weight, geometry, bits) if result is None else result


def float64_gradient_of_input(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bits: int) -> Tensor:
    """`gradient_of_input` by torch's own operators."""
    groups = geometry[-1]
    qg, unit_g = scaled_integers(gradient, tuple(range(1, gradient.dim())), bits)
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    qw, unit_w = scaled_integers(by_group, (1, *range(3, by_group.dim())), bits)
    shape = x.to(torch.float64)

    def gradient_with(part: Tensor) -> Tensor:
        kernel = part.reshape(weight.shape)
        found: Tensor = torch.ops.aten.convolution_backward(qg, shape, kernel, None, *geometry, [True, False, False])[0]
        return found

    terms = by_group[0, :, 0].numel()
    total = _exact(gradient_with, qw, terms, bits)
    return to_float32(total * power_of_two(unit_g + unit_w.reshape(1, -1, *_ones(x))))


def gradient_of_weight(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sizes | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    output_mask: Sequence[bool],
    *,
    bits: int,
) -> Tensor:
    """aten.convolution_backward's second result."""
    _require_geometry(x, weight, transposed, stride, padding, dilation, output_padding, groups)
    _require_gradient(gradient, x, weight, stride, padding, dilation)
    require_terms(gradient[:, :1].numel(), max_terms(bits))
    result = compiled.gradient_of_weight(gradient, x, weight, stride, padding, dilation, groups, bits)
    geometry = (list(stride), list(padding), list(dilation), False, list(output_padding), groups)
    return float64_gradient_of_weight(gradient, x, weight, geometry, bits) if result is None else result


def float64_gradient_of_weight(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, bits: int) -> Tensor:
    """`gradient_of_weight` by torch's own operators."""
    groups = geometry[-1]
    along = (0, *range(2, x.dim()))
    qg, unit_g = scaled_integers(gradient, along, bits)
    qx, unit_x = scaled_integers(x, along, bits)
    shape = weight.to(torch.float64)

    count = _samples_at_once(weight[:1].numel() * groups * math.prod(x.shape[2:]))

    def gradient_with(part: Tensor) -> Tensor:
        total = torch.zeros_like(shape)
        for some, inputs in zip(part.split(count), qx.split(count), strict=True):
            total += torch.ops.aten.convolution_backward(some, inputs, shape, None, *geometry, [False, True, False])[1]
        return total

    terms = gradient.numel() // max(1, gradient.shape[1])
    total = _exact(gradient_with, qg, terms, bits)
    outputs, inputs = weight.shape[0], weight.shape[1]
    units_x = unit_x.reshape(groups, 1, inputs).expand(groups, outputs // groups, inputs).reshape(outputs, inputs)
    unit = unit_g.reshape(outputs, 1) + units_x
    return to_float32(total * power_of_two(unit.reshape(outputs, inputs, *_ones(x))))


def _exact(compute: Callable[[Tensor], Tensor], operand: Tensor, terms: int, bits: int) -> Tensor:
    """`compute(operand)`, linear in `operand`, with exact sums over `terms` products: float64, rounded once."""
    if terms <= exact_terms(bits):
        return compute(operand)
    require_terms(terms, min(max_terms(bits), exact_terms(bits) << LOW_BITS))
    high = torch.round(operand / 2**LOW_BITS)
    low = operand - high * 2**LOW_BITS
    combined: Tensor = compute(high).to(torch.int64) * 2**LOW_BITS + compute(low).to(torch.int64)
    return combined.to(torch.float64)


def _samples_at_once(columns: int) -> int:
    return max(1, COLUMNS // max(1, columns))


def _ones(x: Tensor) -> list[int]:
    """A size of 1 for each spatial dimension."""
    return [1] * (x.dim() - 2)


def _require_geometry(
    x: Tensor,
    weight: Tensor,
    transposed: Any,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    output_padding: Sizes,
    groups: int,
) -> None:
    """What torch's own shape inference lets through and its convolution then does not."""
    if transposed:
        raise Refused(
            "unsupported_operator", "a transposed convolution is not part of exact-v1; use an upsampling layer"
        )
    spatial = x.dim() - 2
    lists = (stride, padding, dilation, output_padding)
    fits = (
        spatial in {1, 2}
        and weight.dim() == x.dim()
        and all(len(sizes) == spatial for sizes in lists)
        and all(size >= 1 for size in (*stride, *dilation))
        and all(size == 0 for size in output_padding)
        and all(size >= 0 for size in padding)
        and groups >= 1
        and weight.shape[0] % groups == 0
        and x.shape[1] == weight.shape[1] * groups
        and min(x.numel(), weight.numel()) > 0
    )
    if not fits:
        raise Refused("bad_shape", f"a convolution of {tuple(x.shape)} with {tuple(weight.shape)} and that geometry")


def _require_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes
) -> None:
    """The output's gradient has the output's shape, which neither torch nor the compiled kernels check."""
    axes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    sizes = [(size + 2 * p - d * (kernel - 1) - 1) // s + 1 for size, kernel, s, p, d in axes]
    if min(sizes) < 1 or gradient.shape != (x.shape[0], weight.shape[0], *sizes):
        raise Refused("bad_shape", f"the gradient of a convolution's output has the shape {tuple(gradient.shape)}")

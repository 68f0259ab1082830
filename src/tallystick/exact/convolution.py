"""Convolutions and their gradients on integers.

Everything that one sum runs over shares a power of two, and everything else may have its own:

| result | unit of the first operand | unit of the second |
|---|---|---|
| output | of the input, one per sample | of the weight, one per output channel |
| gradient of the input | of the output's gradient, one per sample | of the weight, one per input channel |
| gradient of the weight | of the output's gradient, one per output channel | of the input, one per input channel |

Without the compiled kernels (`native`) the integers are convolved in float64, where torch's own convolution adds
products exactly, in any order, below 2**53. A gradient of the weight with more terms is added up in int64 from samples
that do not; where one sample has too many already, one operand is split into a high and a low part.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.elementwise import plus
from tallystick.exact.native import convolution as compiled
from tallystick.exact.products import (
    Rounded,
    exact_terms,
    max_terms,
    nearest_multiple,
    require_terms,
    rounded,
    rounded_to,
    unit_over,
    wide_sum,
)
from tallystick.exact.rounding import to_float32

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
    """`convolution` without bias, by torch's own operators, some samples at a time."""
    kernel = rounded(weight, tuple(range(1, weight.dim())), bits)
    terms = weight[:1].numel()
    parts = []
    for some in x.split(_samples_at_once(terms * geometry[-1] * math.prod(x.shape[2:]))):
        inputs = rounded(some, tuple(range(1, x.dim())), bits)

        def output_with(part: Tensor, inputs: Tensor = inputs.values) -> Tensor:
            output: Tensor = torch.ops.aten.convolution(inputs, part, None, *geometry)
            return output

        unit = inputs.unit + kernel.unit.reshape(1, -1, *_ones(x))
        parts.append(to_float32(_exact(output_with, kernel, unit, terms, bits)))
    return torch.cat(parts)


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
    """`gradient_of_input` by torch's own operators, some samples at a time."""
    groups = geometry[-1]
    kernel = rounded(weight.reshape(groups, -1, *weight.shape[1:]), (1, *range(3, weight.dim() + 1)), bits)
    terms = weight[:, :1].numel() // groups
    count = _samples_at_once(weight[:1].numel() * groups * math.prod(x.shape[2:]))
    parts = []
    for some, inputs in zip(gradient.split(count), x.split(count), strict=True):
        outputs = rounded(some, tuple(range(1, gradient.dim())), bits)
        shape = torch.empty_like(inputs, dtype=torch.float64)

        def gradient_with(part: Tensor, outputs: Tensor = outputs.values, shape: Tensor = shape) -> Tensor:
            operands = (_by_pixel(outputs), _by_pixel(shape), _by_pixel(part.reshape(weight.shape)))
            found: Tensor = torch.ops.aten.convolution_backward(*operands, None, *geometry, [True, False, False])[0]
            return found

        unit = outputs.unit + kernel.unit.reshape(1, -1, *_ones(x))
        parts.append(to_float32(_exact(gradient_with, kernel, unit, terms, bits)))
    return torch.cat(parts)


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
    """`gradient_of_weight` by torch's own operators: so many samples at a time that float64 holds their sum."""
    groups, (outputs, inputs) = geometry[-1], weight.shape[:2]
    along = (0, *range(2, x.dim()))
    unit_g, unit_x = unit_over(gradient, along, bits), unit_over(x, along, bits)
    by_group = unit_x.reshape(groups, 1, inputs).expand(groups, outputs // groups, inputs).reshape(outputs, inputs)
    unit = (unit_g.reshape(outputs, 1) + by_group).reshape(outputs, inputs, *_ones(x))
    shape = torch.empty_like(weight, dtype=torch.float64)
    terms = math.prod(gradient.shape[2:])
    count = min(_samples_at_once(weight[:1].numel() * groups * math.prod(x.shape[2:])), exact_terms(bits) // terms)

    def parts() -> Iterator[Tensor]:
        for some, some_inputs in zip(gradient.split(max(1, count)), x.split(max(1, count)), strict=True):
            taken = _by_pixel(rounded_to(some_inputs, unit_x).values)

            def gradient_with(part: Tensor, taken: Tensor = taken) -> Tensor:
                operands = (_by_pixel(part), taken, _by_pixel(shape))
                found: Tensor = torch.ops.aten.convolution_backward(*operands, None, *geometry, [False, True, False])[1]
                return found

            yield _exact(gradient_with, rounded_to(some, unit_g), unit, terms, bits)

    return to_float32(wide_sum(parts(), unit))


def _exact(compute: Callable[[Tensor], Tensor], operand: Rounded, unit: Tensor, terms: int, bits: int) -> Tensor:
    """`compute(operand.values)`, linear in that, with exact sums over `terms` products, multiples of 2**`unit`."""
    if terms <= exact_terms(bits):
        return compute(operand.values)
    require_terms(terms, min(max_terms(bits), exact_terms(bits) << LOW_BITS))
    high = nearest_multiple(operand.values.clone(), operand.unit + LOW_BITS)
    return wide_sum(map(compute, (high, operand.values - high)), unit)


def _by_pixel(x: Tensor) -> Tensor:
    """`x` with the channels of a pixel side by side, as torch's gradients of a convolution are quickest."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


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

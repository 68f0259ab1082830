"""Adding up the gradients of micro-batches: the same bits for any split over any workers in any order.

A gradient is rounded to int32 in a unit that does not depend on who computes what: each parameter has an exponent,
which is part of the training state. An entry is limited to 2**(30 - ceil(log2 M)) units for M micro-batches in a step,
so any sum of distinct micro-batches fits in int32 and addition is associative. A partial sum takes as many bytes as
float32 gradients would.

The exponent follows the gradient from step to step: up at once, down by one per step. Beside the sum travels each
parameter's peak, the exponent of its largest entry, merged by maximum. Only a gradient that grows by more than
2**HEADROOM within one step is limited.
"""

from typing import Final

import torch
from torch import Tensor

from tallystick.exact.blocks import by_blocks
from tallystick.exact.native import accumulate as compiled
from tallystick.exact.rounding import exponent_above, peak_along, power_of_two, require_finite, to_float32

SUM_BITS: Final = 30
HEADROOM: Final = 4
LOSS_BITS: Final = 20
"""Losses are summed in units of 2**-LOSS_BITS."""
LOSS_LIMIT: Final = 2.0**30
"""4096 losses of this size still fit in int64."""


def entry_bits(micro_batches: int) -> int:
    """Entries of one micro-batch are limited to magnitude 2**entry_bits, so that `micro_batches` of them fit.

    >>> entry_bits(1), entry_bits(8), entry_bits(9)
    (30, 27, 26)
    """
    return SUM_BITS - (micro_batches - 1).bit_length()


def peak_of(gradient: Tensor) -> Tensor:
    """The smallest e with every entry's magnitude < 2**e (int32 scalar).

    Raises:
        NonFiniteError: the gradient holds an infinity or a NaN.
    """
    if compiled.usable(gradient):
        return _exponent(compiled.peak_bits(gradient))
    dims = tuple(range(gradient.dim()))
    peak = peak_along(gradient, dims).view(()) if gradient.numel() else gradient.new_zeros(())
    require_finite(peak, "a gradient")
    return exponent_above(peak).to(torch.int32)


def to_fixed(gradient: Tensor, exponent: Tensor, micro_batches: int) -> Tensor:
    """Rounds `gradient` (float32) to int32 in units of 2**(exponent - entry_bits), limited to 2**entry_bits units."""
    bits = entry_bits(micro_batches)
    if compiled.usable(gradient):
        return compiled.fixed_and_peak(gradient, bits - int(exponent), bits)[0]
    scale = power_of_two(bits - exponent.to(torch.int64))

    @by_blocks
    def fixed(part: Tensor) -> Tensor:
        return part.to(torch.float64).mul_(scale).round_().clamp_(-(2.0**bits), 2.0**bits).to(torch.int32)

    return fixed(gradient)


def fixed_and_peak(gradient: Tensor, exponent: Tensor, micro_batches: int) -> tuple[Tensor, Tensor]:
    """`to_fixed` and `peak_of`, with one pass over memory where there is a compiled kernel."""
    if not compiled.usable(gradient):
        return to_fixed(gradient, exponent, micro_batches), peak_of(gradient)
    bits = entry_bits(micro_batches)
    fixed, peak = compiled.fixed_and_peak(gradient, bits - int(exponent), bits)
    return fixed, _exponent(peak)


def _exponent(magnitude_bits: int) -> Tensor:
    """`exponent_above` of a float32 given by its bits, as an int32 scalar."""
    peak = torch.tensor(magnitude_bits, dtype=torch.int32).view(torch.float32)
    require_finite(peak, "a gradient")
    return exponent_above(peak).to(torch.int32)


def mean_of(total: Tensor, exponent: Tensor, micro_batches: int) -> Tensor:
    """The mean gradient (float32) from the int32 sum over all `micro_batches`."""
    if compiled.usable(total):
        return compiled.mean_of(total, int(exponent) - entry_bits(micro_batches), micro_batches)
    unit = power_of_two(exponent.to(torch.int64) - entry_bits(micro_batches))
    return by_blocks(lambda part: to_float32(part.to(torch.float64).mul_(unit).div_(micro_batches)))(total)


def next_exponent(exponent: Tensor, peak: Tensor) -> Tensor:
    """The exponent (int32) for the next step, given this step's peak over all micro-batches."""
    return torch.maximum(peak + HEADROOM, exponent - 1)


def loss_to_fixed(loss: Tensor) -> Tensor:
    """A micro-batch's mean loss (float32 scalar) in units of 2**-LOSS_BITS (int64), limited to +-LOSS_LIMIT."""
    require_finite(loss, "the loss")
    return torch.round(loss.to(torch.float64).clamp(-LOSS_LIMIT, LOSS_LIMIT) * 2.0**LOSS_BITS).to(torch.int64)

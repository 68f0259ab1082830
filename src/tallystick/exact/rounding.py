"""Powers of two, rounding to float32, and the one policy for small results.

float32 hardware may flush subnormal results to zero or keep them, and the two differ even on results that round up
*to* 2**-126. Setting everything of magnitude <= 2**-126 to +0 makes both kinds of machine agree. Values inside a
program therefore never are subnormal, nor negative zero; `canonical` is applied to what enters and to what a kernel
returns. Nor do machines agree on the sign and payload of a NaN that they make; `one_nan` gives all of them one form.
"""

import math
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import NonFiniteError

SMALLEST: Final = 2.0**-126
EXPONENT_BIAS_32: Final = 127
EXPONENT_BIAS_64: Final = 1023


def canonical(x: Tensor) -> Tensor:
    """A copy of `x` (float32, any shape) with magnitudes <= 2**-126 set to +0."""
    return torch.nn.functional.hardshrink(x, SMALLEST)


def make_canonical(x: Tensor) -> Tensor:
    """`canonical` in place, for what a kernel has just made."""
    result: Tensor = torch.ops.aten.hardshrink.out(x, SMALLEST, out=x)
    return result


def canonical_number(x: float) -> float:
    """`x` rounded to float32, canonical and with the one NaN; too large for float32 becomes an infinity."""
    return float(one_nan(canonical(torch.tensor(x, dtype=torch.float32))))


def one_nan(x: Tensor) -> Tensor:
    """`x` (float32) with every NaN replaced by the one with the bits 0x7FC00000."""
    return torch.nan_to_num(x, nan=math.nan, posinf=math.inf, neginf=-math.inf)


def to_float32(x: Tensor) -> Tensor:
    """`x` (float64) rounded to the nearest float32, ties to even, then made canonical."""
    return make_canonical(x.to(torch.float32))


def settle(x: Tensor) -> Tensor:
    """A float32 result, in place, as it leaves a kernel: canonical and with the one NaN; other dtypes as they are."""
    if not x.is_floating_point():
        return x
    return torch.nan_to_num_(make_canonical(x), nan=math.nan, posinf=math.inf, neginf=-math.inf)


def peak_along(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The largest magnitude of `x` (not empty) over `dims`, which keep size 1; NaN if one entry is NaN."""
    return torch.maximum(x.amax(dims, keepdim=True), -x.amin(dims, keepdim=True)).abs()


def exponent_above(magnitude: Tensor) -> Tensor:
    """The smallest e (int64) with `magnitude` < 2**e, read from the bits; -126 for zero.

    Args:
        magnitude: float32, canonical, not negative, finite.

    >>> exponent_above(torch.tensor([0.75, 1.0, 1.5, 2.0])).tolist()
    [0, 1, 1, 2]
    """
    return (magnitude.view(torch.int32) >> 23).to(torch.int64) - (EXPONENT_BIAS_32 - 1)


def power_of_two(exponent: Tensor) -> Tensor:
    """2**`exponent` as float64, built from its bits; `exponent` (int64) within -1022..1023."""
    return ((exponent + EXPONENT_BIAS_64) << 52).view(torch.float64)


def require_finite(magnitude: Tensor, what: str) -> None:
    """Raises NonFiniteError unless all of `magnitude` is finite; `what` says which operand it belongs to.

    A meta tensor passes: shape inference has no values.
    """
    if not magnitude.is_meta and not bool(torch.isfinite(magnitude).all()):
        raise NonFiniteError(f"{what} holds an infinity or a NaN")

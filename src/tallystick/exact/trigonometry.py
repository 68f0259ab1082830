"""sin and cos in float64, rounded to float32 once, as in `functions`.

The argument is reduced by multiples of pi/2 in three parts: the first two have 33 bits, so that their products with k
are exact while |x| < 2**20. Beyond that neither is defined; positions and phases of models stay far below.
"""

import math
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import NonFiniteError
from tallystick.exact.blocks import by_blocks
from tallystick.exact.functions import horner
from tallystick.exact.rounding import to_float32

ANGLE_LIMIT: Final = 2.0**20
TWO_OVER_PI: Final = float.fromhex("0x1.45f306dc9c883p-1")
HALF_PI: Final = tuple(map(float.fromhex, ("0x1.921fb54400000p+0", "0x1.0b4611a600000p-34", "0x1.3198a2e037073p-69")))
"""pi/2 in parts of 33, 33 and 53 bits."""
SIN_TERMS: Final = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(7, -1, -1))
COS_TERMS: Final = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(8, -1, -1))
"""Taylor coefficients in r*r, highest first; |r| <= pi/4 leaves an error below 2**-53."""


def sin(x: Tensor) -> Tensor:
    """The sine of `x`, float32.

    Raises:
        NonFiniteError: an angle is not within +-2**20.
    """
    return _rotated(x, 0)


def cos(x: Tensor) -> Tensor:
    """The cosine of `x`, float32; it is the sine a quarter turn later.

    Raises:
        NonFiniteError: an angle is not within +-2**20.
    """
    return _rotated(x, 1)


def _rotated(x: Tensor, quarters: int) -> Tensor:
    return by_blocks(lambda part: _rotated_block(part.to(torch.float32), quarters))(x)


def _rotated_block(x: Tensor, quarters: int) -> Tensor:
    if not x.is_meta and not bool((x.abs() < ANGLE_LIMIT).all()):
        raise NonFiniteError(f"the argument of a sine or cosine is not within +-{ANGLE_LIMIT:.0f}")
    return to_float32(sine_wide(x.to(torch.float64), quarters))


def sine_wide(wide: Tensor, quarters: int) -> Tensor:
    """The sine `quarters` quarter turns after `wide` (float64), not yet rounded."""
    k = torch.round(wide * TWO_OVER_PI)
    r = ((wide - k * HALF_PI[0]) - k * HALF_PI[1]) - k * HALF_PI[2]
    quadrant = k.to(torch.int64) + quarters
    square = r * r
    value = torch.where((quadrant & 1) == 0, r * horner(SIN_TERMS, square), horner(COS_TERMS, square))
    return torch.where((quadrant & 2) == 0, value, -value)

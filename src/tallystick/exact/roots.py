"""Square roots, reciprocals and powers with a constant exponent.

The square root is the correctly rounded one. Libraries may be off in the last bit, so theirs is only a guess that is
checked: the midpoint of two neighboring float32 values has 25 bits, and its square is exact in float64.
"""

import math
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.blocks import by_blocks
from tallystick.exact.elementwise import Number, divide, multiply
from tallystick.exact.rounding import one_nan, settle, to_float32

POWER_LIMIT: Final = 64
"""The largest magnitude of an integer exponent."""


@by_blocks
def sqrt(x: Tensor) -> Tensor:
    """The float32 nearest to the square root of `x`; NaN below 0."""
    x = x.to(torch.float32)
    wide = x.to(torch.float64)
    guess = torch.sqrt(wide).to(torch.float32)
    bits = guess.view(torch.int32)
    above, below = (bits + 1).view(torch.float32), (bits - 1).view(torch.float32)
    root = torch.where(_square_of_midpoint(guess, above) < wide, above, guess)
    root = torch.where(_square_of_midpoint(below, guess) > wide, below, root)
    root = torch.where((x == 0) | (x == math.inf), x, root)
    return torch.where((x < 0) | x.isnan(), math.nan, root)


def _square_of_midpoint(a: Tensor, b: Tensor) -> Tensor:
    middle = (a.to(torch.float64) + b.to(torch.float64)) * 0.5
    return middle * middle


def reciprocal(x: Tensor) -> Tensor:
    return divide(torch.ones((), device=x.device), x)


def rsqrt(x: Tensor) -> Tensor:
    """The reciprocal of the square root: two roundings to float32."""
    return reciprocal(sqrt(x))


def power(x: Tensor, exponent: Number) -> Tensor:
    """x**exponent for an exponent of 0.5, -0.5, or an integer of magnitude at most POWER_LIMIT.

    Integer tensors with an integer exponent stay integers; otherwise the result is float32.

    Raises:
        Refused: `unsupported_exponent` or `unsupported_dtype`.
    """
    if x.dtype == torch.bool:
        raise Refused("unsupported_dtype", "a power of a bool tensor is not part of exact-v1; use int64")
    if not x.is_floating_point() and isinstance(exponent, int):
        return _integer_power(x, exponent)
    if exponent in {0.5, -0.5}:
        return sqrt(x) if exponent > 0 else rsqrt(x)
    if not math.isfinite(exponent) or exponent != int(exponent) or abs(exponent) > POWER_LIMIT:
        raise Refused(
            "unsupported_exponent",
            f"the exponent {exponent} is not part of exact-v1; use 0.5, -0.5 or an integer within +-{POWER_LIMIT}",
        )
    return _float_power(x.to(torch.float32), int(exponent))


def _integer_power(x: Tensor, exponent: int) -> Tensor:
    if not 0 <= exponent <= POWER_LIMIT:
        raise Refused("unsupported_exponent", f"integers to the power {exponent}; use 0..{POWER_LIMIT}")
    result = torch.ones_like(x)
    for _ in range(exponent):
        result = result * x
    return result


def _float_power(x: Tensor, exponent: int) -> Tensor:
    """Up to the cube by float32 products; beyond by squaring in float64, from the highest bit of the exponent down."""
    if exponent == 0:
        return torch.ones_like(x)
    if exponent < 0:
        return divide(torch.ones_like(x), x) if exponent == -1 else one_nan(to_float32(1.0 / _wide_power(x, -exponent)))
    if exponent == 1:
        return settle(x.clone())
    if exponent <= 3:
        square = multiply(x, x)
        return square if exponent == 2 else multiply(square, x)
    return one_nan(to_float32(_wide_power(x, exponent)))


def _wide_power(x: Tensor, exponent: int) -> Tensor:
    wide = x.to(torch.float64)
    result = wide
    for bit in bin(exponent)[3:]:
        result = result * result
        if bit == "1":
            result = result * wide
    return result

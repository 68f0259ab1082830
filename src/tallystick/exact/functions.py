"""exp and log from fixed polynomials in float64, multiply and add apart, rounded to float32 once.

float64 multiplication, addition and division are correctly rounded everywhere (IEEE 754), and torch performs each of
them as its own operation, so nothing can be contracted into a fused multiply-add. The polynomials are good to about
2**-42, so nearly every result is the correctly rounded one; what matters is that it is the same one everywhere.
"""

import math
from typing import Final

import torch
from torch import Tensor

from tallystick.exact.rounding import EXPONENT_BIAS_32, power_of_two, to_float32

LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
LN2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")
"""ln 2 to 33 bits, so that k * LN2_HIGH is exact for the k that occur."""
LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
EXP_OVERFLOW: Final = 89.0
EXP_UNDERFLOW: Final = -104.0
EXP_TERMS: Final = tuple(1.0 / math.factorial(n) for n in range(11, -1, -1))
"""Taylor coefficients of exp, highest first; |r| <= ln(2)/2 leaves an error below 2**-46."""
LOG_TERMS: Final = tuple(2.0 / n for n in range(17, 0, -2))
"""Coefficients of 2*atanh(s)/s in s*s, highest first; |s| <= 0.172 leaves an error below 2**-49."""
SQRT_2: Final = float.fromhex("0x1.6a09e667f3bcdp+0")


def horner(terms: tuple[float, ...], x: Tensor) -> Tensor:
    """The polynomial with coefficients `terms`, highest first, at `x` (float64): one multiply, one add at a time."""
    value = torch.full_like(x, terms[0])
    for term in terms[1:]:
        value = value * x + term
    return value


def exp(x: Tensor) -> Tensor:
    """e**x, float32: NaN for NaN, +inf above about 88.72, +0 below about -87.34."""
    wide = x.to(torch.float64)
    bounded = torch.nan_to_num(wide).clamp(EXP_UNDERFLOW, EXP_OVERFLOW)
    k = torch.round(bounded * LOG2_E)
    r = (bounded - k * LN2_HIGH) - k * LN2_LOW
    value = to_float32(horner(EXP_TERMS, r) * power_of_two(k.to(torch.int64)))
    return torch.where(x.isnan(), x, value)


def log(x: Tensor) -> Tensor:
    """Natural logarithm, float32, of canonical `x`: -inf at 0, NaN below 0 and for NaN, +inf for +inf."""
    x = x.to(torch.float32)
    bits = x.view(torch.int32)
    exponent = (bits >> 23) - EXPONENT_BIAS_32
    mantissa = ((bits & 0x007F_FFFF) | 0x3F80_0000).view(torch.float32).to(torch.float64)
    high = mantissa > SQRT_2
    m = torch.where(high, mantissa * 0.5, mantissa)
    k = (exponent + high.to(torch.int32)).to(torch.float64)
    s = (m - 1.0) / (m + 1.0)
    value = to_float32(k * LN2_HIGH + (s * horner(LOG_TERMS, s * s) + k * LN2_LOW))
    value = torch.where(x == 0, -math.inf, value)
    value = torch.where(x == math.inf, x, value)
    return torch.where((x < 0) | x.isnan(), math.nan, value)

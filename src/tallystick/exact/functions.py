"""exp, log and their kin from fixed polynomials in float64, multiply and add apart, rounded to float32 once.

float64 multiplication, addition and division are correctly rounded everywhere (IEEE 754), and torch performs each of
them as its own operation, so nothing can be contracted into a fused multiply-add. The approximations are good to
about 2**-42, so nearly every result is the correctly rounded one; what matters is that it is the same one everywhere.

An integer tensor enters as the nearest float32. NaN gives NaN, and infinities the limit of the function.
"""

import math
from typing import Final

import torch
from torch import Tensor

from tallystick.exact.blocks import by_blocks
from tallystick.exact.rounding import EXPONENT_BIAS_64, settle, to_float32


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float.fromhex, text.split()))


LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
LN2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")
"""ln 2 to 33 bits, so that k * LN2_HIGH is exact for the k that occur."""
LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
EXP_OVERFLOW: Final = 89.0
EXP_UNDERFLOW: Final = -104.0
EXP_TERMS: Final = tuple(1.0 / math.factorial(n) for n in range(11, -1, -1))
"""Taylor coefficients of exp, highest first; |r| <= ln(2)/2 leaves an error below 2**-46."""
EXPM1_TERMS: Final = tuple(1.0 / math.factorial(n) for n in range(12, 0, -1))
"""Taylor coefficients of (exp(r) - 1) / r, highest first; relative error below 2**-49."""
LOG_TERMS: Final = tuple(2.0 / n for n in range(17, 0, -2))
"""Coefficients of 2*atanh(s)/s in s*s, highest first; |s| <= 0.172 leaves an error below 2**-49."""
LOG1P_NEAR: Final = 0.25
SQRT_2: Final = float.fromhex("0x1.6a09e667f3bcdp+0")
TANH_ONE: Final = 10.0
"""From about 9.01 on, tanh is 1 in float32."""
ERF_ONE: Final = 4.0
"""From about 3.92 on, erf is 1 in float32."""
ERF_UPPER: Final = _numbers(
    "0x1.29560d780a574p-49 0x1.1dff26490a273p-36 0x1.3361c05adf724p-29 0x1.463ae8bcf60d9p-24 "
    "0x1.43f1fbca7e0a4p-19 0x1.461b9cbb030ebp-15 0x1.6cfa1e4acce6cp-11 0x1.77ad15bf68135p-8 "
    "0x1.fab56dfd01273p-5 0x1.a18585ebfbbf1p-3 0x1.20dd750429b84p+0"
)
ERF_LOWER: Final = _numbers(
    "0x1.115f6bbde5564p-41 0x1.12831fa1890c1p-32 0x1.da683c94a8ba4p-27 0x1.e1cf473fd946fp-22 "
    "0x1.54fad4224601ep-17 0x1.64434a56c5299p-13 0x1.16581b02b5c87p-9 0x1.4023df362dd84p-6 "
    "0x1.025c2280f455dp-3 0x1.072bdfb17afa6p-1 0x1.0000000000000p+0"
)
"""erf(x)/x as a quotient of polynomials in x*x, highest first: it agrees at 21 Chebyshev nodes of 0 <= x*x <= 16,
solved for with 80 digits; relative error below 2**-47. All coefficients are positive, so nothing cancels."""


def horner(terms: tuple[float, ...], x: Tensor) -> Tensor:
    """The polynomial with coefficients `terms`, highest first, at `x` (float64): one multiply, one add at a time."""
    value = (x * terms[0]).add_(terms[1])
    for term in terms[2:]:
        value.mul_(x).add_(term)
    return value


@by_blocks
def exp(x: Tensor) -> Tensor:
    """e**x, float32: +inf above about 88.72, +0 below about -87.34."""
    return finished(exp_wide(bounded(x, EXP_UNDERFLOW, EXP_OVERFLOW)))


@by_blocks
def expm1(x: Tensor) -> Tensor:
    """e**x - 1, float32, without cancellation near 0."""
    return finished(expm1_wide(bounded(x, EXP_UNDERFLOW, EXP_OVERFLOW)))


@by_blocks
def tanh(x: Tensor) -> Tensor:
    """(e**2x - 1) / (e**2x + 1), float32, from the magnitude of x."""
    wide = bounded(x, -TANH_ONE, TANH_ONE)
    magnitude = wide.abs()
    excess = expm1_wide(magnitude + magnitude)
    return finished((excess / (excess + 2.0)).copysign_(wide))


@by_blocks
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e**-x), float32."""
    return finished(1.0 / exp_wide(-bounded(x, EXP_UNDERFLOW, EXP_OVERFLOW)).add_(1.0))


@by_blocks
def erf(x: Tensor) -> Tensor:
    """2/sqrt(pi) times the integral of e**(-t*t) from 0 to x, float32."""
    wide = bounded(x, -ERF_ONE, ERF_ONE)
    return finished(erf_wide(wide.abs()).copysign_(wide))


@by_blocks
def log(x: Tensor) -> Tensor:
    """Natural logarithm, float32, of canonical `x`: -inf at 0, NaN below 0."""
    x = x.to(torch.float32)
    k, m = _log_reduced(x.to(torch.float64))
    return _log_finished(x, k, (m - 1.0) / (m + 1.0))


@by_blocks
def log1p(x: Tensor) -> Tensor:
    """The natural logarithm of 1 + x, float32: -inf at -1, NaN below -1."""
    x = x.to(torch.float32)
    wide = x.to(torch.float64)
    k, m = _log_reduced(1.0 + wide)
    near = wide.abs() <= LOG1P_NEAR  # here 1 + x has lost what matters: s comes from x itself
    s = torch.where(near, wide, m - 1.0) / torch.where(near, wide + 2.0, m + 1.0)
    return _log_finished(1.0 + wide, torch.where(near, 0.0, k), s)


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """`x` as float64 within `low`..`high`, beyond which the result is known; NaN stays and runs through all of it."""
    return x.to(torch.float32).to(torch.float64).clamp_(low, high)


def finished(value: Tensor) -> Tensor:
    """`value` (float64) rounded to float32, with the one NaN."""
    return settle(value.to(torch.float32))


def _exp_reduced(x: Tensor) -> tuple[Tensor, Tensor]:
    """2**k and r (float64, |r| <= ln(2)/2) with x = k * ln(2) + r; for NaN, r is NaN and k any number."""
    k = (x * LOG2_E).round_()
    r = (x - k * LN2_HIGH).sub_(k * LN2_LOW)
    exponent = k.add_(2.0**52 + EXPONENT_BIAS_64).view(torch.int64)  # in its low bits
    return exponent.bitwise_left_shift_(52).view(torch.float64), r


def exp_wide(x: Tensor) -> Tensor:
    """exp of a bounded float64, not yet rounded; so are the other wide ones."""
    scale, r = _exp_reduced(x)
    return horner(EXP_TERMS, r).mul_(scale)


def expm1_wide(x: Tensor) -> Tensor:
    scale, r = _exp_reduced(x)
    return horner(EXPM1_TERMS, r).mul_(r).mul_(scale).add_(scale - 1.0)


def erf_wide(magnitude: Tensor) -> Tensor:
    square = magnitude * magnitude
    return horner(ERF_UPPER, square).mul_(magnitude).div_(horner(ERF_LOWER, square))


def log_wide(k: Tensor, s: Tensor) -> Tensor:
    """log of 2**k * (1 + s) / (1 - s)."""
    return k * LN2_HIGH + (s * horner(LOG_TERMS, s * s) + k * LN2_LOW)


def _log_reduced(x: Tensor) -> tuple[Tensor, Tensor]:
    """k and m (float64, sqrt(1/2) < m <= sqrt(2)) with x = m * 2**k, for positive finite `x` (float64)."""
    bits = x.view(torch.int64)
    mantissa = ((bits & 0x000F_FFFF_FFFF_FFFF) | (EXPONENT_BIAS_64 << 52)).view(torch.float64)
    high = mantissa > SQRT_2
    k = (bits >> 52) - EXPONENT_BIAS_64 + high.to(torch.int64)
    return k.to(torch.float64), torch.where(high, mantissa * 0.5, mantissa)


def _log_finished(x: Tensor, k: Tensor, s: Tensor) -> Tensor:
    """`log_wide` rounded to float32, and the special values of the log of x."""
    value = to_float32(log_wide(k, s))
    value = torch.where(x == 0, -math.inf, value)
    value = torch.where(x == math.inf, math.inf, value)
    return torch.where((x < 0) | x.isnan(), math.nan, value)

"""exp and its kin: float64, one operation at a time, rounded to float32 once; roots and powers."""

from math import factorial
from typing import Final

import numpy as np

from .values import BOOL, F32, F64, I64, Array, Number, UndefinedError, f32, require, settle, two_to

LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
LN2: Final = (float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33"))
SQRT_2: Final = float.fromhex("0x1.6a09e667f3bcdp+0")
TWO_OVER_PI: Final = float.fromhex("0x1.45f306dc9c883p-1")
HALF_PI: Final = [float.fromhex(h) for h in ("0x1.921fb54400000p+0", "0x1.0b4611a600000p-34", "0x1.3198a2e037073p-69")]
EXP: Final = [1 / factorial(11 - i) for i in range(12)]
EXPM1: Final = [1 / factorial(12 - i) for i in range(12)]
LOG: Final = [2 / (17 - 2 * i) for i in range(9)]
SIN: Final = [(-1) ** n / factorial(2 * n + 1) for n in range(7, -1, -1)]
COS: Final = [(-1) ** n / factorial(2 * n) for n in range(8, -1, -1)]
ERF_P: Final = [
    *(float.fromhex(h) for h in ("0x1.29560d780a574p-49", "0x1.1dff26490a273p-36", "0x1.3361c05adf724p-29")),
    *(float.fromhex(h) for h in ("0x1.463ae8bcf60d9p-24", "0x1.43f1fbca7e0a4p-19", "0x1.461b9cbb030ebp-15")),
    *(float.fromhex(h) for h in ("0x1.6cfa1e4acce6cp-11", "0x1.77ad15bf68135p-8", "0x1.fab56dfd01273p-5")),
    *(float.fromhex(h) for h in ("0x1.a18585ebfbbf1p-3", "0x1.20dd750429b84p+0")),
]
ERF_Q: Final = [
    *(float.fromhex(h) for h in ("0x1.115f6bbde5564p-41", "0x1.12831fa1890c1p-32", "0x1.da683c94a8ba4p-27")),
    *(float.fromhex(h) for h in ("0x1.e1cf473fd946fp-22", "0x1.54fad4224601ep-17", "0x1.64434a56c5299p-13")),
    *(float.fromhex(h) for h in ("0x1.16581b02b5c87p-9", "0x1.4023df362dd84p-6", "0x1.025c2280f455dp-3")),
    *(float.fromhex(h) for h in ("0x1.072bdfb17afa6p-1", "0x1.0000000000000p+0")),
]


def _wide(x: Array) -> Array:
    """float64, by way of float32."""
    return x.astype(F32).astype(F64)


def _within(x: Array, low: float, high: float) -> Array:
    wide = _wide(x)
    return np.minimum(np.maximum(np.where(np.isnan(wide), 0.0, wide), low), high)


def _nan_where(x: Array, result: Array) -> Array:
    return settle(np.where(np.isnan(_wide(x)), np.float32(np.nan), result))


def _horner(terms: list[float], x: Array) -> Array:
    v = np.full_like(x, terms[0])
    for term in terms[1:]:
        v = v * x
        v = v + term
    return v


def _reduced(b: Array) -> tuple[Array, Array]:
    k = np.rint(b * LOG2_E)
    return k.astype(I64), (b - k * LN2[0]) - k * LN2[1]


def _wide_exp(b: Array) -> Array:
    k, r = _reduced(b)
    return _horner(EXP, r) * two_to(k)


def _wide_expm1(b: Array) -> Array:
    k, r = _reduced(b)
    scale = two_to(k)
    return (r * _horner(EXPM1, r)) * scale + (scale - 1.0)


def exp(x: Array) -> Array:
    return _nan_where(x, f32(_wide_exp(_within(x, -104, 89))))


def expm1(x: Array) -> Array:
    return _nan_where(x, f32(_wide_expm1(_within(x, -104, 89))))


def sigmoid(x: Array) -> Array:
    return _nan_where(x, f32(1.0 / (1.0 + _wide_exp(-_within(x, -104, 89)))))


def tanh(x: Array) -> Array:
    m = _within(np.abs(_wide(x)), 0, 10)
    h = _wide_expm1(m + m)
    return _nan_where(x, f32(np.where(_wide(x) < 0, -1.0, 1.0) * (h / (h + 2.0))))


def erf(x: Array) -> Array:
    m = _within(np.abs(_wide(x)), 0, 4)
    t = m * m
    return _nan_where(x, f32(np.where(_wide(x) < 0, -1.0, 1.0) * ((m * _horner(ERF_P, t)) / _horner(ERF_Q, t))))


def _log_reduced(x: Array) -> tuple[Array, Array]:
    """k and m of the text, for positive x."""
    fraction, exponent = np.frexp(x)  # fraction in 0.5 .. 1
    m, k = fraction * 2, exponent - 1
    high = m > SQRT_2
    return np.where(high, k + 1, k).astype(F64), np.where(high, m * 0.5, m)


def _log_of(k: Array, s: Array) -> Array:
    return f32(k * LN2[0] + (s * _horner(LOG, s * s) + k * LN2[1]))


def _log_edges(x: Array, result: Array) -> Array:
    """`result`, and what the logarithm of x (float64) is where it is not ordinary."""
    edges = [np.isnan(x) | (x < 0), x == 0, x == np.inf]
    return settle(np.select(edges, [np.float32(np.nan), np.float32(-np.inf), np.float32(np.inf)], result))


def log(x: Array) -> Array:
    wide = _wide(x)
    k, m = _log_reduced(np.where((wide > 0) & (wide < np.inf), wide, 1.0))
    return _log_edges(wide, _log_of(k, (m - 1.0) / (m + 1.0)))


def log1p(x: Array) -> Array:
    wide = _wide(x)
    usable = np.where((wide > -1) & (wide < np.inf), wide, 0.0)
    k, m = _log_reduced(1.0 + usable)
    near = np.abs(usable) <= 0.25
    s = np.where(near, usable / (usable + 2.0), (m - 1.0) / (m + 1.0))
    return _log_edges(1.0 + wide, _log_of(np.where(near, 0.0, k), s))


def _turned(x: Array, quarters: int) -> Array:
    wide = _wide(x)
    require(bool((np.abs(wide) < 2**20).all()), "an angle is too large")
    k = np.rint(wide * TWO_OVER_PI)
    r = ((wide - k * HALF_PI[0]) - k * HALF_PI[1]) - k * HALF_PI[2]
    q = k.astype(I64) + quarters
    t = r * r
    v = np.where(q % 2 == 0, r * _horner(SIN, t), _horner(COS, t))
    return f32(np.where(q % 4 >= 2, -v, v))


def sin(x: Array) -> Array:
    return _turned(x, 0)


def cos(x: Array) -> Array:
    return _turned(x, 1)


def sqrt(x: Array) -> Array:
    """IEEE 754 rounds square roots correctly, and so does NumPy in float32."""
    return settle(np.sqrt(x.astype(F32)))


def reciprocal(x: Array) -> Array:
    return settle(np.float32(1) / x.astype(F32))


def rsqrt(x: Array) -> Array:
    return reciprocal(sqrt(x))


def power(x: Array, exponent: Number) -> Array:
    require(x.dtype != BOOL, "a power of flags")
    if x.dtype != F32 and isinstance(exponent, int):
        require(0 <= exponent <= 64, "exponent")
        result = np.ones_like(x)
        for _ in range(exponent):
            result = result * x
        return result
    x = x.astype(F32)
    match exponent:
        case 0:
            return np.ones_like(x)
        case 1:
            return settle(x)
        case 2:
            return settle(x * x)
        case 3:
            return settle(settle(x * x) * x)
        case 0.5:
            return sqrt(x)
        case -0.5:
            return rsqrt(x)
        case -1:
            return reciprocal(x)
    if not (np.isfinite(exponent) and exponent == int(exponent) and abs(exponent) <= 64):
        raise UndefinedError("exponent")
    p = wide = x.astype(F64)
    for bit in bin(abs(int(exponent)))[3:]:
        p = p * p
        if bit == "1":
            p = p * wide
    return f32(p if exponent > 0 else 1.0 / p)

"""Values and scalar functions of exact-v1, with exact fractions that are rounded where the text rounds.

A float32 or float64 is a `Fraction`; only infinities and NaN are Python floats, whose comparisons, sums and products
with a fraction are those of IEEE 754. int64, int32, uint8 and bool are ints.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import factorial, inf, isnan, isqrt, nan
from typing import Final

Number = Fraction | float
Value = int | Number
SMALLEST: Final = Fraction(1, 2**126)
LARGEST: Final = (2**24 - 1) * 2**104
BYTES: Final = {"float32": 4, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
LIMITS: Final = {"int64": (-(2**63), 2**63 - 1), "int32": (-(2**31), 2**31 - 1), "uint8": (0, 255), "bool": (0, 1)}


class UndefinedError(Exception):
    """exact-v1 has no result here, or this referee does not know the operator."""


def is_nan(x: Value) -> bool:
    return isinstance(x, float) and isnan(x)


def magnitude(x: Number) -> Number:
    return -x if x < 0 else x


def decoded(dtype: str, data: bytes) -> Value:
    """The element with these little-endian bytes.

    Raises:
        UndefinedError: not canonical (negative zero, subnormal, another NaN, a bool that is neither 0 nor 1).
    """
    bits = int.from_bytes(data, "little", signed=dtype in {"int64", "int32"})
    if dtype != "float32":
        if dtype == "bool" and bits > 1:
            raise UndefinedError("a bool is 0 or 1")
        return bits
    exponent, mantissa, sign = bits >> 23 & 255, bits & 2**23 - 1, -1 if bits >> 31 else 1
    if exponent == 255:
        value: Number = nan if mantissa else sign * inf
    else:
        value = sign * Fraction(mantissa | 2**23) * Fraction(2) ** (exponent - 150) if exponent else Fraction(0)
    if encoded(dtype, value) != data:
        raise UndefinedError(f"the bytes {data.hex()} are not a canonical float32")
    return value


def encoded(dtype: str, value: Value) -> bytes:
    """The bytes of an element; a float32 must be one (`float32`)."""
    if dtype != "float32":
        return int(value).to_bytes(BYTES[dtype], "little", signed=dtype in {"int64", "int32"})
    if isinstance(value, float):
        bits = 0x7FC00000 if isnan(value) else 0x7F800000 if value > 0 else 0xFF800000
    elif value == 0:
        bits = 0
    else:
        e = above(magnitude(value))
        mantissa = int(magnitude(value) * Fraction(2) ** (24 - e))
        bits = (value < 0) << 31 | (e + 126) << 23 | mantissa - 2**23
    return bits.to_bytes(4, "little")


def above(x: Number) -> int:
    """The smallest e with x < 2**e; -126 for 0."""
    if isinstance(x, float):
        raise UndefinedError("an infinity or a NaN cannot be scaled")
    if x == 0:
        return -126
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e + 1 if x >= Fraction(2) ** e else e


def scaled(x: Value, exponent: int) -> int:
    """x * 2**exponent, rounded to the nearest integer, ties to even."""
    if isinstance(x, float):
        raise UndefinedError("an infinity or a NaN cannot be scaled")
    return round(x * Fraction(2) ** exponent)


def rounded(x: Number, bits: int) -> Number:
    """`x` rounded to `bits` significant bits, ties to even."""
    if isinstance(x, float) or x == 0:
        return x
    unit = Fraction(2) ** (above(magnitude(x)) - bits)
    return round(x / unit) * unit


def wide(x: Number) -> Number:
    """A float64."""
    return rounded(x, 53)


def float32(x: Value) -> Number:
    """`x` rounded to float32 and settled; so also the result of an IEEE operation, which is rounded once."""
    if isinstance(x, float):
        return Fraction(0) if x == 0 else x
    value = rounded(Fraction(x), 24)
    if magnitude(value) > LARGEST:
        return inf if value > 0 else -inf
    return Fraction(0) if magnitude(value) <= SMALLEST else value


def quotient(a: Number, b: Number) -> Number:
    """a / b; there is no negative zero, so the sign of x / 0 is that of x."""
    if b == 0:
        return nan if a == 0 or is_nan(a) else inf if a > 0 else -inf
    return a / b


def wrapped(dtype: str, x: int) -> int:
    """`x` as an integer of `dtype`, modulo 2**bits."""
    if dtype == "bool":
        return int(x != 0)
    low, high = LIMITS[dtype]
    return (x - low) % (high - low + 1) + low


def cast(dtype: str, x: Value) -> Value:
    """`x` converted to `dtype`."""
    if dtype == "float32":
        return float32(x)
    if isinstance(x, int) or dtype == "bool":
        return wrapped(dtype, int(x != 0 if dtype == "bool" else x))
    if isnan(x):
        raise UndefinedError("a NaN has no integer value")
    low, high = LIMITS[dtype]
    return int(min(max(x, low), high))


def _numbers(text: str) -> list[Fraction]:
    """Numbers as `float.hex` writes them."""
    parts = [word.removeprefix("0x1.").split("p") for word in text.split()]
    return [Fraction(2**52 + int(digits, 16)) * Fraction(2) ** (int(e) - 52) for digits, e in parts]


LOG2_E, LN2_HIGH, LN2_LOW, SQRT_2, TWO_OVER_PI = _numbers(
    "0x1.71547652b82fep+0 0x1.62e42fee00000p-1 0x1.a39ef35793c76p-33 0x1.6a09e667f3bcdp+0 0x1.45f306dc9c883p-1"
)
HALF_PI: Final = _numbers("0x1.921fb54400000p+0 0x1.0b4611a600000p-34 0x1.3198a2e037073p-69")
EXP: Final = [wide(Fraction(1, factorial(n))) for n in range(11, -1, -1)]
EXPM1: Final = [wide(Fraction(1, factorial(n))) for n in range(12, 0, -1)]
LOG: Final = [wide(Fraction(2, n)) for n in range(17, 0, -2)]
SIN: Final = [wide(Fraction((-1) ** n, factorial(2 * n + 1))) for n in range(7, -1, -1)]
COS: Final = [wide(Fraction((-1) ** n, factorial(2 * n))) for n in range(8, -1, -1)]
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


def _horner(terms: Sequence[Number], x: Number) -> Number:
    value = terms[0]
    for term in terms[1:]:
        value = wide(wide(value * x) + term)
    return value


def _reduced(x: Number) -> tuple[int, Number]:
    """k and r with x = k * ln 2 + r."""
    k = scaled(wide(x * LOG2_E), 0)
    return k, wide(wide(x - wide(k * LN2_HIGH)) - wide(k * LN2_LOW))


def _exp(x: Number) -> Number:
    k, r = _reduced(min(max(x, Fraction(-104)), Fraction(89)))
    return _horner(EXP, r) * Fraction(2) ** k


def _expm1(x: Number) -> Number:
    k, r = _reduced(min(max(x, Fraction(-104)), Fraction(89)))
    return wide(wide(r * _horner(EXPM1, r)) * Fraction(2) ** k + wide(Fraction(2) ** k - 1))


def _sigmoid(x: Number) -> Number:
    return wide(1 / wide(1 + _exp(-x)))


def _tanh(x: Number) -> Number:
    h = _expm1(2 * min(magnitude(x), Fraction(10)))
    return wide(h / wide(h + 2)) * (-1 if x < 0 else 1)


def _erf(x: Number) -> Number:
    m = min(magnitude(x), Fraction(4))
    t = wide(m * m)
    return wide(wide(m * _horner(ERF_UPPER, t)) / _horner(ERF_LOWER, t)) * (-1 if x < 0 else 1)


def _split(x: Fraction) -> tuple[int, Fraction]:
    """k and m with x = m * 2**k, sqrt(1/2) < m <= sqrt(2)."""
    k = above(x) - 1
    m = x / Fraction(2) ** k
    return (k + 1, m / 2) if m > SQRT_2 else (k, m)


def _series(k: int, s: Number) -> Number:
    return wide(wide(k * LN2_HIGH) + wide(wide(s * _horner(LOG, wide(s * s))) + wide(k * LN2_LOW)))


def _log(x: Number) -> Number:
    if x <= 0 or isinstance(x, float):
        return x if x > 0 else -inf if x == 0 else nan
    k, m = _split(x)
    return _series(k, wide(wide(m - 1) / wide(m + 1)))


def _log1p(x: Number) -> Number:
    if x <= -1 or isinstance(x, float):
        return x if x > 0 else -inf if x == -1 else nan
    if magnitude(x) <= Fraction(1, 4):
        return _series(0, wide(x / wide(x + 2)))
    k, m = _split(Fraction(wide(1 + x)))
    return _series(k, wide(wide(m - 1) / wide(m + 1)))


def _turned(x: Number, quarters: int) -> Number:
    """sin(x + quarters * pi / 2)."""
    if magnitude(x) >= 2**20:
        raise UndefinedError("sin and cos of 2**20 and more are not defined")
    k, r = scaled(wide(x * TWO_OVER_PI), 0), x
    for part in HALF_PI:
        r = wide(r - wide(k * part))
    t, q = wide(r * r), (k + quarters) % 4
    value = _horner(COS, t) if q % 2 else wide(r * _horner(SIN, t))
    return -value if q >= 2 else value


def _sqrt(x: Number) -> Number:
    if x < 0 or x == 0 or isinstance(x, float):
        return nan if x < 0 else x
    big = int(x * 2**400)  # exact, and even a root of it has 40 bits more than are kept
    root = isqrt(big)
    return (root + Fraction(root * root != big, 4)) / 2**200


def _of_float(function: Callable[[Number], Number]) -> Callable[[Value], Number]:
    """The float32 result of a function; NaN for NaN. Integers enter as the nearest float32."""

    def result(x: Value) -> Number:
        number = float32(x)
        return number if is_nan(number) else float32(function(number))

    return result


FUNCTIONS: Final[dict[str, Callable[[Value], Number]]] = {
    "exp": _of_float(_exp),
    "expm1": _of_float(_expm1),
    "log": _of_float(_log),
    "log1p": _of_float(_log1p),
    "tanh": _of_float(_tanh),
    "sigmoid": _of_float(_sigmoid),
    "erf": _of_float(_erf),
    "sin": _of_float(lambda x: _turned(x, 0)),
    "cos": _of_float(lambda x: _turned(x, 1)),
    "sqrt": _of_float(_sqrt),
    "rsqrt": _of_float(lambda x: quotient(Fraction(1), float32(_sqrt(x)))),
    "reciprocal": _of_float(lambda x: quotient(Fraction(1), x)),
}

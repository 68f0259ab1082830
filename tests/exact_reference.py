"""exact-v1 written a second time, in Python integers and fractions: slow, and with no floating-point hardware in it.

Every float64 operation is an exact fraction that is then rounded; float32 values are Python floats that happen to fit.
The text that both follow is docs/exact-v1.md.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from math import factorial, inf, isinf, isnan, nan

SMALLEST = Fraction(1, 2**126)
LARGEST = (2**24 - 1) * Fraction(2) ** 104
LOG2_E = 0x171547652B82FE * Fraction(1, 2**52)
LN2_HIGH = 0x162E42FEE00000 * Fraction(1, 2**53)
LN2_LOW = 0x1A39EF35793C76 * Fraction(1, 2**85)
SQRT_2 = 0x16A09E667F3BCD * Fraction(1, 2**52)


def bits(x: float) -> int:
    """The 32 bits of a float32 as the signed integer that torch shows them as."""
    return int.from_bytes(struct.pack("<f", x), "little", signed=True)


def from_bits(pattern: int) -> float:
    value: float = struct.unpack("<f", (pattern & 0xFFFF_FFFF).to_bytes(4, "little"))[0]
    return value


def float64(x: Fraction) -> Fraction:
    """`x` rounded to 53 bits, ties to even (Python's int / int is correctly rounded)."""
    return Fraction(x.numerator / x.denominator)


def float32(x: Fraction) -> float:
    """`x` rounded to 24 bits, ties to even; magnitudes <= 2**-126 become +0, too large ones an infinity."""
    if x == 0:
        return 0.0
    unit = Fraction(2) ** (exponent_above(abs(x)) - 24)
    rounded = round(x / unit) * unit
    if abs(rounded) <= SMALLEST:
        return 0.0
    return float(rounded) if abs(rounded) <= LARGEST else (inf if x > 0 else -inf)


def exponent_above(magnitude: Fraction) -> int:
    """The smallest e with magnitude < 2**e; -126 for zero."""
    if magnitude == 0:
        return -126
    e = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    while magnitude >= Fraction(2) ** e:
        e += 1
    while magnitude < Fraction(2) ** (e - 1):
        e -= 1
    return e


def scaled(values: Sequence[float], bit_count: int) -> tuple[list[int], Fraction]:
    """Integers with a common unit, and that unit; the largest is at most 2**bit_count."""
    unit = Fraction(2) ** (exponent_above(max(abs(Fraction(v)) for v in values)) - bit_count)
    return [round(Fraction(v) / unit) for v in values], unit


def matmul(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> list[list[float]]:
    rows = [scaled(row, 20) for row in a]
    columns = [scaled(column, 20) for column in zip(*b, strict=True)]
    return [
        [
            float32(float64(Fraction(sum(x * y for x, y in zip(p, q, strict=True)))) * unit_p * unit_q)
            for q, unit_q in columns
        ]
        for p, unit_p in rows
    ]


def total(values: Sequence[float]) -> float:
    integers, unit = scaled(values, 30)
    return float32(float64(Fraction(sum(integers))) * unit)


def horner(terms: Sequence[Fraction], x: Fraction) -> Fraction:
    value = terms[0]
    for term in terms[1:]:
        value = float64(float64(value * x) + term)
    return value


def exp(x: float) -> float:
    if isnan(x):
        return nan
    bounded = min(max(Fraction(-104), Fraction(x) if not isinf(x) else Fraction(200 if x > 0 else -200)), Fraction(89))
    k = round(float64(bounded * LOG2_E))
    r = float64(float64(bounded - float64(k * LN2_HIGH)) - float64(k * LN2_LOW))
    terms = [float64(Fraction(1, factorial(n))) for n in range(11, -1, -1)]
    return float32(horner(terms, r) * Fraction(2) ** k)


def log(x: float) -> float:
    if isnan(x) or x < 0:
        return nan
    if x == 0 or isinf(x):
        return -inf if x == 0 else inf
    k = exponent_above(Fraction(x)) - 1
    m = Fraction(x) / Fraction(2) ** k
    if m > SQRT_2:
        k, m = k + 1, m / 2
    s = float64(float64(m - 1) / float64(m + 1))
    terms = [float64(Fraction(2, n)) for n in range(17, 0, -2)]
    series = float64(s * horner(terms, float64(s * s)))
    return float32(float64(float64(k * LN2_HIGH) + float64(series + float64(k * LN2_LOW))))


def to_fixed(gradient: float, exponent: int, micro_batches: int) -> int:
    entry_bits = 30 - (micro_batches - 1).bit_length()
    units: int = round(Fraction(gradient) * Fraction(2) ** (entry_bits - exponent))
    limit: int = 2**entry_bits
    return max(-limit, min(limit, units))


def mean_of(units: int, exponent: int, micro_batches: int) -> float:
    entry_bits = 30 - (micro_batches - 1).bit_length()
    return float32(float64(units * Fraction(2) ** (exponent - entry_bits) / micro_batches))


def philox(key: int, counter: Sequence[int]) -> list[int]:
    """Philox4x32-10 as in Salmon et al. 2011; `counter` is four 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key % 2**32, key >> 32 & 0xFFFF_FFFF
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 % 2**32, p0 >> 32 ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def permutation(key: int, stream: int, count: int) -> list[int]:
    def order(index: int) -> tuple[int, int]:
        words = philox(key, [index % 2**32, index >> 32, stream % 2**32, stream >> 32 & 0xFFFF_FFFF])
        return (words[0] << 31 | words[1] >> 1, index)

    return sorted(range(count), key=order)

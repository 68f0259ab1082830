"""exact-v1 written a second time, in Python integers and fractions: slow, and with no floating-point hardware in it.

Every float64 operation is an exact fraction that is then rounded; float32 values are Python floats that happen to fit.
The text that both follow is docs/exact-v1.md.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from math import factorial, inf, isinf, isnan, isqrt, nan

SMALLEST = Fraction(1, 2**126)
LARGEST = (2**24 - 1) * Fraction(2) ** 104
LOG2_E = 0x171547652B82FE * Fraction(1, 2**52)
LN2_HIGH = 0x162E42FEE00000 * Fraction(1, 2**53)
LN2_LOW = 0x1A39EF35793C76 * Fraction(1, 2**85)
SQRT_2 = 0x16A09E667F3BCD * Fraction(1, 2**52)
TWO_OVER_PI = 0x145F306DC9C883 * Fraction(1, 2**53)
HALF_PI = (
    0x1921FB544 * Fraction(1, 2**32),
    0x10B4611A6 * Fraction(1, 2**66),
    0x13198A2E037073 * Fraction(1, 2**121),
)


def hexadecimal(text: str) -> list[Fraction]:
    return [Fraction(float.fromhex(word)) for word in text.split()]


ERF_UPPER = hexadecimal(
    "0x1.29560d780a574p-49 0x1.1dff26490a273p-36 0x1.3361c05adf724p-29 0x1.463ae8bcf60d9p-24 0x1.43f1fbca7e0a4p-19 "
    "0x1.461b9cbb030ebp-15 0x1.6cfa1e4acce6cp-11 0x1.77ad15bf68135p-8 0x1.fab56dfd01273p-5 0x1.a18585ebfbbf1p-3 "
    "0x1.20dd750429b84p+0"
)
ERF_LOWER = hexadecimal(
    "0x1.115f6bbde5564p-41 0x1.12831fa1890c1p-32 0x1.da683c94a8ba4p-27 0x1.e1cf473fd946fp-22 0x1.54fad4224601ep-17 "
    "0x1.64434a56c5299p-13 0x1.16581b02b5c87p-9 0x1.4023df362dd84p-6 0x1.025c2280f455dp-3 0x1.072bdfb17afa6p-1 0x1p0"
)


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


def expm1_wide(x: Fraction) -> Fraction:
    k = round(float64(x * LOG2_E))
    r = float64(float64(x - float64(k * LN2_HIGH)) - float64(k * LN2_LOW))
    terms = [float64(Fraction(1, factorial(n))) for n in range(12, 0, -1)]
    scale = Fraction(2) ** k
    return float64(float64(r * horner(terms, r)) * scale + float64(scale - 1))


def exp_wide(x: Fraction) -> Fraction:
    k = round(float64(x * LOG2_E))
    r = float64(float64(x - float64(k * LN2_HIGH)) - float64(k * LN2_LOW))
    return horner([float64(Fraction(1, factorial(n))) for n in range(11, -1, -1)], r) * Fraction(2) ** k


def within(x: float, low: int, high: int) -> Fraction:
    return Fraction(min(max(x, low), high))


def expm1(x: float) -> float:
    return nan if isnan(x) else float32(expm1_wide(within(x, -104, 89)))


def sigmoid(x: float) -> float:
    return nan if isnan(x) else float32(float64(1 / float64(1 + exp_wide(-within(x, -104, 89)))))


def tanh(x: float) -> float:
    if isnan(x):
        return nan
    excess = expm1_wide(2 * within(abs(x), 0, 10))
    return float32(float64(excess / float64(excess + 2)) * (-1 if x < 0 else 1))


def erf(x: float) -> float:
    if isnan(x):
        return nan
    return float32(erf_wide(within(abs(x), 0, 4)) * (-1 if x < 0 else 1))


def erf_wide(magnitude: Fraction) -> Fraction:
    square = float64(magnitude * magnitude)
    return float64(float64(magnitude * horner(ERF_UPPER, square)) / horner(ERF_LOWER, square))


def log1p(x: float) -> float:
    if isnan(x) or x < -1:
        return nan
    if x == -1 or isinf(x):
        return -inf if x == -1 else inf
    if abs(x) <= 0.25:
        return float32(log_wide(0, float64(Fraction(x) / float64(Fraction(x) + 2))))
    above_one = float64(1 + Fraction(x))
    k = exponent_above(above_one) - 1
    m = above_one / Fraction(2) ** k
    if m > SQRT_2:
        k, m = k + 1, m / 2
    return float32(log_wide(k, float64(float64(m - 1) / float64(m + 1))))


def log_wide(k: int, s: Fraction) -> Fraction:
    series = float64(s * horner([float64(Fraction(2, n)) for n in range(17, 0, -2)], float64(s * s)))
    return float64(float64(k * LN2_HIGH) + float64(series + float64(k * LN2_LOW)))


def sine_wide(wide: Fraction, quarters: int) -> Fraction:
    k = round(float64(wide * TWO_OVER_PI))
    r = wide
    for part in HALF_PI:
        r = float64(r - float64(k * part))
    square, quadrant = float64(r * r), (k + quarters) % 4
    if quadrant % 2:
        value = horner([float64(Fraction((-1) ** n, factorial(2 * n))) for n in range(8, -1, -1)], square)
    else:
        sines = [float64(Fraction((-1) ** n, factorial(2 * n + 1))) for n in range(7, -1, -1)]
        value = float64(r * horner(sines, square))
    return -value if quadrant >= 2 else value


def sin(x: float) -> float:
    return float32(sine_wide(Fraction(x), 0))


def cos(x: float) -> float:
    return float32(sine_wide(Fraction(x), 1))


def sqrt(x: float) -> float:
    """From the integer square root of a scaled integer, with 40 bits more than are kept."""
    if isnan(x) or x < 0:
        return nan
    if x == 0 or isinf(x):
        return x
    scaled_up = Fraction(x) * 2**400
    root = isqrt(int(scaled_up))
    sticky = Fraction(1, 4) if root * root != scaled_up else Fraction(0)
    return float32((root + sticky) / 2**200)


def divide(a: float, b: float) -> float:
    """Of finite numbers, b not 0."""
    return float32(Fraction(a) / Fraction(b))


def power(x: float, exponent: int) -> float:
    """Of a finite x, not 0 if the exponent is negative; results within float64's range."""
    if exponent in {0, 1}:
        return x if exponent else 1.0
    if exponent == -1:
        return divide(1.0, x)
    if exponent in {2, 3}:
        square = float32(Fraction(x) ** 2)
        return square if exponent == 2 else float32(Fraction(square) * Fraction(x))
    result = Fraction(x)
    for bit in bin(abs(exponent))[3:]:
        result = float64(result * result)
        result = float64(result * Fraction(x)) if bit == "1" else result
    return float32(result if exponent > 0 else float64(1 / result))


def running_totals(values: Sequence[float]) -> list[float]:
    integers, unit = scaled(values, 30)
    return [float32(float64(Fraction(sum(integers[: i + 1]))) * unit) for i in range(len(integers))]


def uniform(key: Sequence[int], stream: int, count: int) -> list[float]:
    words: list[int] = []
    for block in range((count + 3) // 4):
        counter = [block % 2**32, block >> 32, stream % 2**32, stream >> 32 & 0xFFFF_FFFF]
        words += philox(key[0] % 2**32 | key[1] % 2**32 << 32, counter)
    return [(word >> 8) / 2**24 for word in words[:count]]


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

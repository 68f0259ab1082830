"""Learning rates and other numbers that depend on the step, as data.

Each is computed with integers and fractions, or with float64 operations in a stated order, and rounded to float32 once;
no library function is involved, so it is the same everywhere.
"""

from fractions import Fraction
from typing import Annotated, Final

import msgspec

Decimal = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,18})?\Z")]
"""A number as decimal text, read exactly."""
Steps = Annotated[int, msgspec.Meta(ge=0, le=10**7)]
COSINE_BITS: Final = 128
PI: Final = 0x3243F6A8885A308D313198A2E03707344A4093822299F31D008  # pi * 2**200
PI_BITS: Final = 200


class ConstantRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="constant"):
    """The same at every step."""

    rate: Decimal


class StepRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="step"):
    """`rate`, multiplied by `factor` after every `every` steps."""

    rate: Decimal
    every: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    factor: Decimal


class CosineRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cosine"):
    """Up in a line over `warm_up` steps, then from `rate` to `last` along half a cosine, ending at step `steps`."""

    rate: Decimal
    last: Decimal
    steps: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    warm_up: Steps = 0


class LinearRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="linear"):
    """Up in a line over `warm_up` steps, then from `rate` to `last` in a line, ending at step `steps`."""

    rate: Decimal
    last: Decimal
    steps: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    warm_up: Steps = 0


Rate = ConstantRate | StepRate | CosineRate | LinearRate


def rate_at(schedule: Rate, step: int) -> float:
    """The learning rate at `step`, as the float64 nearest to the exact value (within 2**-100 for the cosine)."""
    match schedule:
        case ConstantRate():
            exact = Fraction(schedule.rate)
        case StepRate():
            exact = Fraction(schedule.rate)
            for _ in range(step // schedule.every):
                exact = _short(exact * Fraction(schedule.factor))
        case _:
            exact = _falling(schedule, step)
    return float(exact)


def _short(value: Fraction) -> Fraction:
    """`value` rounded down to a multiple of 2**-256, so that powers do not grow without bound."""
    return Fraction(value.numerator * 2**256 // value.denominator, 2**256)


def _falling(schedule: CosineRate | LinearRate, step: int) -> Fraction:
    first, last = Fraction(schedule.rate), Fraction(schedule.last)
    if step < schedule.warm_up:
        return first * (step + 1) / schedule.warm_up
    span = max(schedule.steps - schedule.warm_up, 1)
    gone = Fraction(min(step - schedule.warm_up, span), span)
    share = 1 - gone if isinstance(schedule, LinearRate) else (1 + cosine_of_half_turns(gone)) / 2
    return last + (first - last) * share


def cosine_of_half_turns(part: Fraction) -> Fraction:
    """cos(pi * part) for 0 <= part <= 1, by its power series in integers with COSINE_BITS bits after the point.

    >>> float(cosine_of_half_turns(Fraction(1, 3)))
    0.5
    """
    if part > Fraction(1, 2):
        return -cosine_of_half_turns(1 - part)
    one = 1 << COSINE_BITS
    angle = PI * part.numerator // part.denominator >> (PI_BITS - COSINE_BITS)
    square = angle * angle >> COSINE_BITS
    total, term, n = one, one, 0
    while term:
        n += 2
        term = (term * square >> COSINE_BITS) // (n * (n - 1))
        total += term if n % 4 == 0 else -term
    return Fraction(total, one)


class RateScalar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="rate"):
    """The learning rate of the step."""


class BiasCorrection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="bias_correction"):
    """1 - beta**(step + 1), of Adam (Kingma and Ba 2015, section 3)."""

    beta: Decimal


Scalar = RateScalar | BiasCorrection
"""What an update may take besides tensors: a number that follows from the step."""


def scalar_at(scalar: Scalar, schedule: Rate, step: int) -> float:
    """The value of `scalar` at `step`, float64."""
    if isinstance(scalar, RateScalar):
        return rate_at(schedule, step)
    return 1.0 - power(float(Fraction(scalar.beta)), step + 1)


def power(base: float, exponent: int) -> float:
    """base**exponent by squaring, from the lowest bit of the exponent up: each product is one float64 multiplication.

    >>> power(0.5, 10)
    0.0009765625
    """
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result

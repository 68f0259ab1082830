"""Learning rates and bias corrections: the same numbers as everybody else's, from integers and stated orders."""

import math
from fractions import Fraction

import pytest

from tallystick.program.schedule import (
    BiasCorrection,
    ConstantRate,
    CosineRate,
    LinearRate,
    Rate,
    RateScalar,
    StepRate,
    cosine_of_half_turns,
    power,
    rate_at,
    scalar_at,
)


def rates(schedule: Rate, *steps: int) -> list[float]:
    return [rate_at(schedule, step) for step in steps]


def test_a_constant_rate_is_read_exactly() -> None:
    assert rates(ConstantRate("0.1"), 0, 10**6) == [0.1, 0.1]


def test_a_step_rate_falls_by_its_factor() -> None:
    assert rates(StepRate("0.8", 10, "0.5"), 0, 9, 10, 19, 20, 35) == [0.8, 0.8, 0.4, 0.4, 0.2, 0.1]


def test_a_step_rate_stays_cheap_after_many_steps() -> None:
    assert 0 < rate_at(StepRate("1", 1, "0.999999"), 10_000) < 1


def test_a_linear_rate_warms_up_and_falls_to_its_last() -> None:
    schedule = LinearRate("1", "0.2", steps=14, warm_up=4)
    assert rates(schedule, 0, 1, 3, 4, 9, 14, 100) == [0.25, 0.5, 1.0, 1.0, 0.6, 0.2, 0.2]


def test_a_cosine_rate_is_half_way_down_in_the_middle() -> None:
    schedule = CosineRate("1", "0", steps=100)
    assert rates(schedule, 0, 50, 100, 5000) == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("denominator", [3, 7, 64, 1000])
def test_the_integer_cosine_is_the_cosine(denominator: int) -> None:
    for numerator in range(denominator + 1):
        part = Fraction(numerator, denominator)
        assert math.isclose(float(cosine_of_half_turns(part)), math.cos(math.pi * part), abs_tol=4e-16)


def test_scalars_follow_from_the_step() -> None:
    assert scalar_at(RateScalar(), ConstantRate("0.5"), 3) == 0.5
    assert scalar_at(BiasCorrection("0.5"), ConstantRate("0.5"), 2) == 0.875
    assert scalar_at(BiasCorrection("0.9"), ConstantRate("0.5"), 0) == 1.0 - 0.9


def test_powers_by_squaring_agree_with_repeated_multiplication() -> None:
    for exponent in range(50):
        assert math.isclose(power(0.999, exponent), math.prod([0.999] * exponent), rel_tol=1e-14)

"""Rounding to float32, the one policy for small results, and the one NaN."""

import math
from fractions import Fraction

import pytest
import torch

from reference import fractional as reference
from tallystick.errors import NonFiniteError
from tallystick.exact.rounding import (
    canonical,
    canonical_number,
    exponent_above,
    one_nan,
    peak_along,
    power_of_two,
    require_finite,
    settle,
    to_float32,
)

ULP = 2.0**-23
SMALLEST = 2.0**-126


def float32_bits(x: torch.Tensor) -> list[int]:
    bits: list[int] = x.view(torch.int32).tolist()
    return bits


@pytest.mark.parametrize(
    ("wide", "expected"),
    [
        (1 + ULP / 2, 1.0),  # ties go to the even neighbor
        (1 + 3 * ULP / 2, 1 + 2 * ULP),
        (1 + ULP / 2 + 2.0**-52, 1 + ULP),
        (-(1 + ULP / 2), -1.0),
        (2.0**128 - 2.0**104, 2.0**128 - 2.0**104),  # the largest float32
        (2.0**128 - 2.0**103 - 2.0**76, 2.0**128 - 2.0**104),
        (2.0**128 - 2.0**103, math.inf),
        (-(2.0**128), -math.inf),
        (SMALLEST, 0.0),
        (-SMALLEST, 0.0),
        (SMALLEST * (1 + ULP / 2), 0.0),  # rounds to 2**-126 first
        (SMALLEST * (1 + ULP / 2 + 2.0**-50), SMALLEST * (1 + ULP)),
        (-SMALLEST * (1 + ULP), -SMALLEST * (1 + ULP)),
        (SMALLEST * (1 - 2.0**-30), 0.0),  # rounds up to 2**-126 where subnormals are kept
        (2.0**-149, 0.0),
        (-(2.0**-300), 0.0),
        (-0.0, 0.0),
    ],
)
def test_float64_rounds_to_nearest_even_and_small_results_become_plus_zero(wide: float, expected: float) -> None:
    got = to_float32(torch.full((9,), wide, dtype=torch.float64))
    assert float32_bits(got) == [reference.bits(expected)] * 9
    assert reference.bits(reference.float32(Fraction(wide))) == reference.bits(expected)


def test_canonical_keeps_everything_above_the_smallest_magnitude() -> None:
    kept = [SMALLEST * (1 + ULP), -SMALLEST * (1 + ULP), 1.0, math.inf, -math.inf]
    gone = [SMALLEST, -SMALLEST, 2.0**-149, -(2.0**-149), -0.0]
    assert canonical(torch.tensor(kept)).tolist() == kept
    assert float32_bits(canonical(torch.tensor(gone))) == [0] * len(gone)


def test_a_python_number_is_rounded_to_a_canonical_float32() -> None:
    numbers = [0.1, 1e300, -1e300, 1e-40, -0.0, 7]
    assert [canonical_number(x) for x in numbers] == [0.10000000149011612, math.inf, -math.inf, 0.0, 0.0, 7.0]
    assert math.copysign(1, canonical_number(-0.0)) == 1


def test_every_nan_becomes_the_one_with_the_bits_7fc00000() -> None:
    patterns = torch.tensor([0x7FC00001, 0x7F800001, -0x400000, -1, 0x7FC00000], dtype=torch.int32)
    assert float32_bits(one_nan(patterns.view(torch.float32))) == [0x7FC00000] * 5
    plain = torch.tensor([math.inf, -math.inf, 0.0, 3.4e38, -1.5])
    assert torch.equal(one_nan(plain), plain)


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("count", [1, 7, 16, 1000])
def test_settling_follows_the_bits_in_vectors_and_in_what_is_left_over(count: int, flush: bool) -> None:
    edges = [0, 1, 0x7FFFFF, 0x800000, 0x800001, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]
    patterns = torch.tensor(edges + [bits - 2**31 for bits in edges], dtype=torch.int32)
    magnitude = patterns & 0x7FFFFFFF
    expected = torch.where(magnitude <= 0x800000, 0, patterns)
    expected = torch.where(magnitude > 0x7F800000, 0x7FC00000, expected).to(torch.int32)
    torch.set_flush_denormal(flush)
    try:
        for given, wanted in zip(patterns, expected, strict=True):
            got = settle(given.repeat(count).view(torch.float32))
            assert got.view(torch.int32).tolist() == [int(wanted)] * count
            kept = canonical(given.repeat(count).view(torch.float32))
            assert torch.equal(one_nan(kept).view(torch.int32), got.view(torch.int32))
    finally:
        torch.set_flush_denormal(False)


def test_settling_leaves_integers_alone() -> None:
    assert settle(torch.tensor([1, -(2**40)])).tolist() == [1, -(2**40)]


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1)])
def test_a_peak_is_the_largest_magnitude_and_never_minus_zero(dims: tuple[int, ...]) -> None:
    x = torch.tensor([[1.0, -3.0], [0.0, 2.0], [0.0, 0.0]])
    assert torch.equal(peak_along(x, dims), x.abs().amax(dims, keepdim=True))
    assert set(float32_bits(peak_along(torch.zeros(3, 2), dims).reshape(-1))) == {0}
    assert peak_along(torch.tensor([[1.0, math.nan], [2.0, 3.0]]), dims).isnan().any()


def test_exponent_above_is_the_smallest_power_that_is_larger() -> None:
    magnitudes = [0.0, SMALLEST * (1 + ULP), 0.5, 1 - 2.0**-24, 1.0, 1.5, 2.0, 2.0**128 - 2.0**104]
    expected = [reference.exponent_above(Fraction(m)) for m in magnitudes]
    assert exponent_above(torch.tensor(magnitudes)).tolist() == expected == [-126, -125, 0, 0, 1, 1, 2, 128]


def test_power_of_two_is_exact_over_its_whole_range() -> None:
    exponents = range(-1022, 1024)
    assert power_of_two(torch.tensor(exponents)).tolist() == [math.ldexp(1.0, e) for e in exponents]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_require_finite_names_the_operand(bad: float) -> None:
    require_finite(torch.tensor([1.0, 3e38]), "it")
    with pytest.raises(NonFiniteError, match="the operand holds an infinity or a NaN"):
        require_finite(torch.tensor([1.0, bad]), "the operand")

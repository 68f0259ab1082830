"""Corners of element-wise operators, conversions and running sums that ATen leaves to the machine."""

import math
from fractions import Fraction

import pytest
import torch

from reference import fractional as reference
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.creation import arange, to_copy
from tallystick.exact.elementwise import clamp, floor_divide, maximum, minimum, multiply, remainder, rounding, sign
from tallystick.exact.reductions import amin, cumsum, log_softmax, place_of, softmax

GENERATOR = torch.Generator().manual_seed(8)
LOWEST = -(2**63)
I32, I64, U8 = torch.int32, torch.int64, torch.uint8


def bits(x: torch.Tensor) -> list[int]:
    flat: list[int] = x.reshape(-1).view(torch.int32).tolist()
    return flat


@pytest.mark.parametrize("dtype", [I32, I64])
def test_the_smallest_integer_can_be_divided_by_minus_one(dtype: torch.dtype) -> None:
    """On x86 the processor's own division stops the process here."""
    lowest = torch.iinfo(dtype).min
    x = torch.tensor([lowest, lowest + 1, 7, -7] * 8, dtype=dtype)
    for divisor in (torch.tensor(-1, dtype=dtype), -1):
        assert floor_divide(x, divisor).tolist() == [lowest, -(lowest + 1), -7, 7] * 8
        assert remainder(x, divisor).tolist() == [0] * 32


def test_quotients_are_rounded_down_and_remainders_have_the_sign_of_the_divisor() -> None:
    a = torch.tensor([7, -7, 7, -7, LOWEST])
    b = torch.tensor([2, 2, -2, -2, 3])
    assert floor_divide(a, b).tolist() == [3, -4, -4, 3, LOWEST // 3]
    assert remainder(a, b).tolist() == [1, 1, -1, -1, LOWEST % 3]


def test_an_integer_divided_by_zero_is_refused() -> None:
    for kernel in (floor_divide, remainder):
        with pytest.raises(Refused) as refused:
            kernel(torch.tensor([1, 2]), torch.tensor([1, 0]))
        assert refused.value.code == "division_by_zero"


def test_integers_wrap_around() -> None:
    assert multiply(torch.tensor([2**62]), 2).tolist() == [LOWEST]
    assert to_copy(torch.tensor([256, -1]), U8).tolist() == [0, 255]


def test_float32_becomes_an_integer_without_its_fraction_and_within_its_range() -> None:
    x = torch.tensor([1.9, -1.9, 3e9, -3e9, 3e38, -3e38, math.inf, -math.inf, 2.0**63, 254.99] * 4)
    limit = 2**31
    small = [1, -1, limit - 1, -limit, limit - 1, -limit, limit - 1, -limit, limit - 1, 254]
    assert to_copy(x, I32).tolist() == small * 4
    large = [1, -1, 3 * 10**9, -3 * 10**9, 2**63 - 1, LOWEST, 2**63 - 1, LOWEST, 2**63 - 1, 254]
    assert to_copy(x, I64).tolist() == large * 4
    assert to_copy(x, U8).tolist() == [1, 0, 255, 0, 255, 0, 255, 0, 255, 254] * 4
    assert to_copy(torch.tensor([0.0, 0.5, math.nan]), torch.bool).tolist() == [False, True, True]
    with pytest.raises(NonFiniteError):
        to_copy(torch.tensor([math.nan]), I64)


def test_nan_is_larger_and_smaller_than_any_number() -> None:
    x, y = torch.tensor([math.nan, 1.0, math.nan]), torch.tensor([1.0, math.nan, math.inf])
    for result in (maximum(x, y), minimum(x, y), clamp(x, y), clamp(y, 0.0, x)):
        assert bits(result) == [0x7FC00000] * 3
    assert bits(amin(x, [0])) == [0x7FC00000]
    line = torch.tensor([1.0, math.inf, math.nan, 9.0, math.nan])
    assert place_of(largest=True)(line, 0).item() == place_of(largest=False)(line, 0).item() == 2
    assert sign(torch.tensor([math.nan, -math.inf, 0.0])).tolist() == [0.0, -1.0, 0.0]


def test_the_first_of_equal_extremes_is_found() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 0.0, 0.0]]).repeat(3, 20)
    assert place_of(largest=True)(x, 1).tolist() == [1] * 3
    assert place_of(largest=False)(x, 1).tolist() == [3] * 3
    assert place_of(largest=True)(x, None).item() == 1


def test_rounding_makes_no_negative_zero() -> None:
    x = torch.tensor([-0.25, -0.5, 0.5, 1.5, 2.5] * 4)
    assert bits(rounding(torch.round)(x)) == bits(torch.tensor([0.0, 0.0, 0.0, 2.0, 2.0] * 4))
    assert bits(rounding(torch.ceil)(x)[:2]) == [0, 0]
    assert bits(rounding(torch.trunc)(x)[:2]) == [0, 0]


def test_a_line_that_is_masked_completely_is_nan_and_disturbs_no_other() -> None:
    scores = torch.tensor([[-math.inf] * 3, [0.0, -math.inf, 0.0]])
    assert bits(softmax(scores, 1)) == [0x7FC00000] * 3 + [reference.bits(v) for v in (0.5, 0.0, 0.5)]
    assert bits(log_softmax(scores, 1)[0]) == [0x7FC00000] * 3
    lowest = torch.full((1, 4), -3.4028234663852886e38)
    assert softmax(lowest, 1).tolist() == [[0.25] * 4]


def test_running_sums_have_the_bits_of_the_reference() -> None:
    x = torch.randn(3, 50, generator=GENERATOR) * torch.exp(8 * torch.randn(3, 50, generator=GENERATOR))
    expected = [reference.bits(value) for row in x.tolist() for value in reference.running_totals(row)]
    assert bits(cumsum(x, 1)) == expected
    assert bits(cumsum(x.t(), 0).t()) == expected


@pytest.mark.parametrize(("start", "end", "step"), [(0.0, 1.0, 0.1), (-3.5, 70.0, 0.3), (5, -5, -0.7)])
def test_a_range_of_fractions_is_rounded_once_to_float32(start: float, end: float, step: float) -> None:
    got = arange(start, end, step)
    expected = [reference.float32(reference.float64(i * Fraction(step)) + Fraction(start)) for i in range(len(got))]
    assert bits(got) == [reference.bits(value) for value in expected]
    assert len(got) == math.ceil((end - start) / step)


def test_a_range_of_integers_that_does_not_fit_is_refused() -> None:
    assert arange(0, 256, 5, U8).tolist() == list(range(0, 256, 5))
    with pytest.raises(Refused, match="256 is not a value"):
        arange(0, 257, 1, U8)

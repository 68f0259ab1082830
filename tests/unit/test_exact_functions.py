"""exp and log: every bit as the reference, special values, and how far from the true function."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import exact_reference as reference
from tallystick.exact.functions import exp, log

PATTERNS = torch.arange(0, 0x7F80_0000, 1_048_573, dtype=torch.int32)
"""About two thousand float32 bit patterns, spread over all exponents."""
NORMAL = PATTERNS.view(torch.float32)[PATTERNS.view(torch.float32) > 2.0**-126]


def same_bits(got: Tensor, expected: list[float]) -> bool:
    return got.view(torch.int32).tolist() == [reference.bits(value) for value in expected]


def test_exp_has_the_bits_of_the_reference_from_underflow_to_overflow() -> None:
    x = torch.cat([torch.linspace(-105, 90, 1501), NORMAL[:500:5], -NORMAL[:500:5]])
    assert same_bits(exp(x), [reference.exp(v) for v in x.tolist()])


def test_log_has_the_bits_of_the_reference_over_all_exponents() -> None:
    x = torch.cat([NORMAL, torch.linspace(0.99, 1.01, 301), torch.linspace(1.41, 1.42, 101)])
    assert same_bits(log(x), [reference.log(v) for v in x.tolist()])


@pytest.mark.parametrize(
    ("kernel", "x", "expected"),
    [
        (exp, -math.inf, 0.0),
        (exp, math.inf, math.inf),
        (exp, 0.0, 1.0),
        (exp, 88.72283, math.exp(88.72283172607422)),  # the last finite result
        (exp, 88.72284, math.inf),
        (exp, -87.33655, 0.0),  # the true result is below 2**-126
        (exp, 3e38, math.inf),
        (exp, -3e38, 0.0),
        (log, 0.0, -math.inf),
        (log, 1.0, 0.0),
        (log, math.inf, math.inf),
        (log, -1.0, math.nan),
        (log, -math.inf, math.nan),
        (log, math.nan, math.nan),
        (exp, math.nan, math.nan),
    ],
)
def test_special_values(kernel: Callable[[Tensor], Tensor], x: float, expected: float) -> None:
    assert same_bits(kernel(torch.full((9,), x)), [expected] * 9)


def rounded(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(torch.float32)


def test_nearly_every_exp_is_the_correctly_rounded_one_and_none_is_off_by_two() -> None:
    x = torch.linspace(-87, 88, 20_001)
    off = (exp(x).view(torch.int32) - rounded([math.exp(v) for v in x.tolist()]).view(torch.int32)).abs()
    assert int(off.max()) <= 1
    assert int(off.sum()) <= 2


def test_nearly_every_log_is_the_correctly_rounded_one_and_none_is_off_by_two() -> None:
    x = torch.cat([NORMAL, torch.linspace(0.5, 2, 20_001)])
    off = (log(x).view(torch.int32) - rounded([math.log(v) for v in x.tolist()]).view(torch.int32)).abs()
    assert int(off.max()) <= 1
    assert int(off.sum()) <= 2


def test_log_of_an_integer_tensor_is_the_log_of_its_values() -> None:
    numbers = [1, 2, 10, 255]
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert same_bits(log(torch.tensor(numbers, dtype=dtype)), [reference.log(float(n)) for n in numbers])

"""exp, log and their kin: every bit as the reference, special values, and how far from the true function."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reference import fractional as reference
from tallystick.errors import NonFiniteError
from tallystick.exact import functions, roots, trigonometry
from tallystick.exact.functions import erf, exp, expm1, log, log1p, sigmoid, tanh
from tallystick.exact.roots import reciprocal, rsqrt, sqrt
from tallystick.exact.trigonometry import cos, sin

Function = Callable[[Tensor], Tensor]
PATTERNS = torch.arange(0, 0x7F80_0000, 1_048_573, dtype=torch.int32)
"""About two thousand float32 bit patterns, spread over all exponents."""
NORMAL = PATTERNS.view(torch.float32)[PATTERNS.view(torch.float32) > 2.0**-126]
BOTH = torch.cat([NORMAL[::4], -NORMAL[::4]])
ANGLES = torch.cat([BOTH[BOTH.abs() < 2**20], torch.arange(1, 600_000, 4_001) * (math.pi / 2)])


def same_bits(got: Tensor, expected: list[float]) -> bool:
    bits: list[int] = got.view(torch.int32).tolist()
    return bits == [reference.bits(value) for value in expected]


ARGUMENTS: list[tuple[Function, Callable[[float], float], Tensor]] = [
    (exp, reference.exp, torch.cat([torch.linspace(-105, 90, 1501), BOTH])),
    (expm1, reference.expm1, torch.cat([torch.linspace(-105, 90, 301), torch.linspace(-1, 1, 301), BOTH])),
    (tanh, reference.tanh, torch.cat([torch.linspace(-11, 11, 601), BOTH])),
    (sigmoid, reference.sigmoid, torch.cat([torch.linspace(-105, 90, 601), BOTH])),
    (erf, reference.erf, torch.cat([torch.linspace(-4.1, 4.1, 601), BOTH])),
    (log, reference.log, torch.cat([NORMAL, torch.linspace(0.99, 1.01, 301), torch.linspace(1.41, 1.42, 101)])),
    (log1p, reference.log1p, torch.cat([BOTH, torch.linspace(-1, 1, 601), torch.tensor([0.25, -0.25])])),
    (sin, reference.sin, ANGLES),
    (cos, reference.cos, ANGLES),
    (sqrt, reference.sqrt, torch.cat([NORMAL, torch.linspace(0.99, 1.01, 301)])),
]
TRUE: list[tuple[Function, Callable[[float], float], Tensor]] = [
    (exp, math.exp, torch.linspace(-87, 88, 5_001)),
    (expm1, math.expm1, torch.cat([torch.linspace(-20, 88, 2_001), torch.linspace(-1, 1, 2_001)])),
    (tanh, math.tanh, torch.cat([torch.linspace(-10, 10, 2_001), torch.linspace(-0.01, 0.01, 501)])),
    (sigmoid, lambda x: 1 / (1 + math.exp(-x)), torch.linspace(-87, 20, 4_001)),
    (erf, math.erf, torch.cat([torch.linspace(-4, 4, 4_001), torch.linspace(-0.01, 0.01, 501)])),
    (log, math.log, torch.cat([NORMAL, torch.linspace(0.5, 2, 3_001)])),
    (log1p, math.log1p, torch.cat([NORMAL, torch.linspace(-0.999, 2, 3_001)])),
    (sin, math.sin, torch.cat([ANGLES, torch.linspace(-7, 7, 2_001)])),
    (cos, math.cos, torch.cat([ANGLES, torch.linspace(-7, 7, 2_001)])),
]


@pytest.mark.parametrize(("function", "expected", "x"), ARGUMENTS)
def test_a_function_has_the_bits_of_the_reference(
    function: Function, expected: Callable[[float], float], x: Tensor
) -> None:
    assert same_bits(function(x), [expected(v) for v in x.tolist()])


def wide_ones(x: Tensor) -> list[tuple[Tensor, Callable[[Fraction], Fraction]]]:
    """What functions make of float64 `x` within 0..4 before they round, and the reference's."""
    s = (x - 2) / 16
    return [
        (functions.exp_wide(-x), lambda v: reference.exp_wide(-v)),
        (functions.expm1_wide(x - 2), lambda v: reference.expm1_wide(v - 2)),
        (functions.erf_wide(x), reference.erf_wide),
        (
            functions.log_wide(torch.full_like(x, 3), s),
            lambda v: reference.log_wide(3, reference.float64((v - 2) / 16)),
        ),
        (trigonometry.sine_wide(x, 0), lambda v: reference.sine_wide(v, 0)),
        (trigonometry.sine_wide(x, 1), lambda v: reference.sine_wide(v, 1)),
    ]


def test_every_bit_of_float64_is_that_of_the_reference_before_the_one_rounding() -> None:
    """Most bits of a coefficient show only here: float32 results are the same for many coefficients."""
    x = torch.rand(400, generator=torch.Generator().manual_seed(1)).to(torch.float64) * 4
    for got, expected in wide_ones(x):
        assert [Fraction(value) for value in got.tolist()] == [expected(Fraction(v)) for v in x.tolist()]


@pytest.mark.parametrize(("function", "true", "x"), TRUE)
def test_nearly_every_result_is_the_correctly_rounded_one_and_none_is_off_by_two(
    function: Function, true: Callable[[float], float], x: Tensor
) -> None:
    rounded = [true(v) for v in x.tolist()]  # in float64, which is right to far more bits than are compared
    off = function(x).view(torch.int32) - torch.tensor(rounded, dtype=torch.float64).float().view(torch.int32)
    assert int(off.abs().max()) <= 1
    assert int(off.abs().sum()) <= 2


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
        (expm1, -math.inf, -1.0),
        (expm1, math.inf, math.inf),
        (expm1, 0.0, 0.0),
        (expm1, 2.0**-125, 2.0**-125),
        (tanh, math.inf, 1.0),
        (tanh, -math.inf, -1.0),
        (tanh, 0.0, 0.0),
        (tanh, 9.02, 1.0),
        (tanh, -(2.0**-125), -(2.0**-125)),
        (sigmoid, math.inf, 1.0),
        (sigmoid, -math.inf, 0.0),
        (sigmoid, 0.0, 0.5),
        (sigmoid, -88.0, 0.0),  # the true result is below 2**-126
        (erf, math.inf, 1.0),
        (erf, -math.inf, -1.0),
        (erf, 0.0, 0.0),
        (erf, 3.93, 1.0),
        (log, 0.0, -math.inf),
        (log, 1.0, 0.0),
        (log, math.inf, math.inf),
        (log, -1.0, math.nan),
        (log, -math.inf, math.nan),
        (log1p, -1.0, -math.inf),
        (log1p, 0.0, 0.0),
        (log1p, math.inf, math.inf),
        (log1p, -1.5, math.nan),
        (log1p, -math.inf, math.nan),
        (sin, 0.0, 0.0),
        (cos, 0.0, 1.0),
        (sqrt, 0.0, 0.0),
        (sqrt, 4.0, 2.0),
        (sqrt, math.inf, math.inf),
        (sqrt, -1.0, math.nan),
        (sqrt, -math.inf, math.nan),
        (rsqrt, 0.0, math.inf),
        (rsqrt, math.inf, 0.0),
        (rsqrt, -1.0, math.nan),
        (reciprocal, 0.0, math.inf),
        (reciprocal, -math.inf, 0.0),
        (reciprocal, 3e38, 0.0),
    ],
)
def test_special_values(kernel: Function, x: float, expected: float) -> None:
    assert same_bits(kernel(torch.full((9,), x)), [expected] * 9)


@pytest.mark.parametrize("kernel", [exp, expm1, tanh, sigmoid, erf, log, log1p, sqrt, rsqrt, reciprocal])
def test_nan_gives_the_one_nan(kernel: Function) -> None:
    assert same_bits(kernel(torch.full((9,), math.nan)), [math.nan] * 9)


@pytest.mark.parametrize("kernel", [tanh, erf, sin])
def test_odd_functions_are_odd_to_the_last_bit(kernel: Function) -> None:
    x = ANGLES[ANGLES > 0]
    assert torch.equal(kernel(-x), -kernel(x))


@pytest.mark.parametrize("angle", [2.0**20, -(2.0**20), 3e38, math.inf, math.nan])
def test_an_angle_that_is_too_large_for_its_reduction_is_refused(angle: float) -> None:
    for kernel in (sin, cos):
        with pytest.raises(NonFiniteError, match="1048576"):
            kernel(torch.tensor([0.0, angle]))


def test_an_integer_tensor_counts_as_the_float32_values_nearest_to_it() -> None:
    numbers = [1, 2, 10, 255]
    for dtype in (torch.uint8, torch.int32, torch.int64):
        for kernel, expected in ((log, reference.log), (tanh, reference.tanh), (sqrt, reference.sqrt)):
            assert same_bits(kernel(torch.tensor(numbers, dtype=dtype)), [expected(float(n)) for n in numbers])
    large = torch.tensor([2**24 + 1, 2**53 + 1])
    for kernel in (log, log1p, sqrt, rsqrt):
        assert torch.equal(kernel(large), kernel(large.float()))


def test_the_square_root_does_not_trust_that_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([NORMAL, torch.linspace(0.5, 2, 1001)])
    right, original = sqrt(x), torch.sqrt
    for error in (-1.0, 1.0):
        monkeypatch.setattr(torch, "sqrt", lambda wide, e=error: original(wide) * (1 + e * 2.0**-24))
        assert torch.equal(sqrt(x), right)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 5, 7, 10, -1, -2, -3, -6])
def test_integer_powers_have_the_bits_of_the_reference(exponent: int) -> None:
    x = torch.cat([torch.linspace(-3, 3, 300), BOTH[::5]])
    x = x if abs(exponent) < 3 else x[(x.abs() > 2.0**-60) & (x.abs() < 2.0**60)]
    assert same_bits(roots.power(x, exponent), [reference.power(v, exponent) for v in x.tolist()])
    assert torch.equal(roots.power(x, float(exponent)), roots.power(x, exponent))


def test_the_document_states_every_coefficient() -> None:
    text = (Path(__file__).parents[2] / "docs" / "exact-v1.md").read_text()
    tables = (functions.EXP_TERMS, functions.LOG_TERMS, functions.EXPM1_TERMS, functions.ERF_UPPER, functions.ERF_LOWER)
    angles = (trigonometry.SIN_TERMS, trigonometry.COS_TERMS, trigonometry.HALF_PI, (trigonometry.TWO_OVER_PI,))
    reduction = (functions.LOG2_E, functions.LN2_HIGH, functions.LN2_LOW, functions.SQRT_2)
    for constant in (value for table in (*tables, *angles, reduction) for value in table):
        assert constant.hex() in text, constant.hex()

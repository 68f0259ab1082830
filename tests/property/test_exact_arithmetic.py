"""Products, sums and accumulation: the bits of the slow reference, whatever the order, and near the true result."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from reference import fractional as reference
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact import products
from tallystick.exact.accumulate import entry_bits, loss_to_fixed, mean_of, next_exponent, peak_of, to_fixed
from tallystick.exact.functions import exp, log
from tallystick.exact.products import FULL_BITS, exact_terms, matmul, max_terms
from tallystick.exact.sums import exact_sum

Rows = list[list[float]]
SEEDS = st.integers(0, 2**32)
FLOATS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.floats(-4, 4, width=32, allow_subnormal=False),
    st.sampled_from([0.0, 1.0, -1.0, 2.0**-125, -(2.0**-125), 3.4028234663852886e38, 1 - 2.0**-24, 2.0**20 + 1]),
).map(lambda x: reference.float32(Fraction(x)))
"""Canonical float32 values over the whole range."""


@contextmanager
def flushing(on: bool) -> Iterator[None]:
    torch.set_flush_denormal(on)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def bits(x: Tensor) -> list[int]:
    flat: list[int] = x.contiguous().view(-1).view(torch.int32).tolist()
    return flat


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Rows, Rows]:
    m, k, n = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    row = st.lists(FLOATS, min_size=k, max_size=k)
    a = draw(st.lists(row, min_size=m, max_size=m))
    columns = draw(st.lists(row, min_size=n, max_size=n))
    return a, [list(values) for values in zip(*columns, strict=True)]


@settings(deadline=None)
@given(matrices(), st.booleans())
def test_a_product_has_the_bits_of_the_reference(
    pair: tuple[list[list[float]], list[list[float]]], flush: bool
) -> None:
    a, b = pair
    with flushing(flush):
        got = bits(matmul(torch.tensor(a), torch.tensor(b)))
    assert got == [reference.bits(x) for row in reference.matmul(a, b) for x in row]


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=12), st.booleans())
@example([2.0**127, -(2.0**127), 1.0], False)
@example([2.0**-125, -(2.0**-125) * (1 - 2.0**-23)], True)
def test_a_sum_has_the_bits_of_the_reference(values: list[float], flush: bool) -> None:
    with flushing(flush):
        got = bits(exact_sum(torch.tensor(values), ()))
    assert got == [reference.bits(reference.total(values))]


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=8), st.booleans())
def test_exp_and_log_have_the_bits_of_the_reference(values: list[float], flush: bool) -> None:
    with flushing(flush):
        got = bits(exp(torch.tensor(values))), bits(log(torch.tensor(values)))
    assert got[0] == [reference.bits(reference.exp(x)) for x in values]
    assert got[1] == [reference.bits(reference.log(x)) for x in values]


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 3 * exact_terms(FULL_BITS)), st.sampled_from([1.0, 1e-3, 1e30]))
@example(0, 3 * exact_terms(FULL_BITS), 1.0)
def test_permuting_the_inner_dimension_changes_no_bit(seed: int, terms: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(3, terms, generator=generator) * size, torch.randn(terms, 2, generator=generator)
    order = torch.randperm(terms, generator=generator)
    assert bits(matmul(a, b)) == bits(matmul(a[:, order], b[order]))
    assert bits(exact_sum(a, (1,))) == bits(exact_sum(a[:, order], (1,)))
    assert bits(exact_sum(a, ())) == bits(exact_sum(a.t().contiguous()[order], ()))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 300), st.sampled_from([1.0, 1e-20, 1e15]))
def test_results_are_as_near_to_the_true_ones_as_the_scales_allow(seed: int, terms: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(4, terms, generator=generator) * size, torch.randn(terms, 3, generator=generator)
    true = a.double() @ b.double()
    largest = a.double().abs().amax(1, keepdim=True) * b.double().abs().amax(0, keepdim=True)
    # Each factor is off by at most 2**-20 of the largest; then one rounding to float32.
    bound = terms * largest * 2.01 * 2.0**-20 + true.abs() * 2.0**-24
    assert bool(((matmul(a, b).double() - true).abs() <= bound).all())
    total = a.double().sum(1)
    bound = terms * a.double().abs().amax(1) * 2.0**-30 + total.abs() * 2.0**-24
    assert bool(((exact_sum(a, (1,)).double() - total).abs() <= bound).all())


@pytest.mark.parametrize("terms", [exact_terms(FULL_BITS), exact_terms(FULL_BITS) + 1, 3 * exact_terms(FULL_BITS) + 5])
def test_the_largest_integers_still_add_up_exactly(terms: int) -> None:
    """Every entry rounds to 2**INTEGER_BITS, so the sum reaches 2**53, and goes beyond it in int64."""
    near_two = 2 - 2.0**-23
    a, b = torch.full((1, terms), near_two), torch.full((terms, 1), near_two)
    b[0] = 2.0**-19  # an odd integer, so that one lost unit would show
    expected = float(Fraction((terms - 1) * 2**40 + 2**20) / 2**38)
    assert matmul(a, b).item() == reference.float32(Fraction(expected))
    integers = 2.0**20 - 1 - 2 * (torch.arange(terms, dtype=torch.float64) % 5)  # odd, so that a lost unit would show
    exact = sum(int(value) ** 2 for value in integers.tolist())
    zero = torch.zeros(1, 1, dtype=torch.int64)
    row, column = products.Rounded(integers[None], zero), products.Rounded(integers[:, None], zero)
    assert products.float64_product(row, column, FULL_BITS).item() == float(exact)


def test_a_product_over_too_many_terms_is_refused() -> None:
    vector = torch.zeros(1).expand(max_terms(FULL_BITS) + 1)
    with pytest.raises(Refused) as refused:
        matmul(vector[None], vector[:, None])
    assert refused.value.code == "too_large"


def test_a_sum_beyond_float64_is_taken_in_int64() -> None:
    many = torch.ones(2**23 + 1)
    many[0] = 2.0**-20
    # 2**23 terms of 2**29 units and one of 2**9: beyond 2**52 units, rounded to float64 and to float32.
    assert exact_sum(many, ()).item() == reference.float32(Fraction(2**23) + Fraction(1, 2**20))


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=6), st.integers(0, 5), st.sampled_from([math.inf, -math.inf, math.nan]))
def test_what_is_not_finite_is_refused_wherever_it_stands(values: list[float], place: int, bad: float) -> None:
    x = torch.tensor(values)
    x[place % len(values)] = bad
    meetings: list[Callable[[], Tensor]] = [
        lambda: exact_sum(x, ()),
        lambda: matmul(x[None], torch.ones(len(values), 1)),
        lambda: matmul(torch.ones(1, len(values)), x[:, None]),
        lambda: peak_of(x),
        lambda: loss_to_fixed(x[place % len(values)]),
    ]
    for meet in meetings:
        with pytest.raises(NonFiniteError):
            meet()


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=8), st.integers(-120, 132), st.integers(1, 4096))
def test_accumulation_has_the_bits_of_the_reference(values: list[float], exponent: int, micro_batches: int) -> None:
    gradient, e = torch.tensor(values), torch.tensor(exponent, dtype=torch.int32)
    units = to_fixed(gradient, e, micro_batches)
    assert units.dtype == torch.int32
    assert units.tolist() == [reference.to_fixed(x, exponent, micro_batches) for x in values]
    mean = mean_of(units, e, micro_batches)
    assert bits(mean) == [reference.bits(reference.mean_of(u, exponent, micro_batches)) for u in units.tolist()]
    assert peak_of(gradient).item() == reference.exponent_above(max(abs(Fraction(x)) for x in values))


@settings(deadline=None)
@given(st.integers(1, 4096))
def test_the_largest_entries_of_all_micro_batches_fit_in_int32(micro_batches: int) -> None:
    largest = to_fixed(torch.tensor([3e38, -3e38]), torch.tensor(0, dtype=torch.int32), micro_batches)
    assert largest.tolist() == [2 ** entry_bits(micro_batches), -(2 ** entry_bits(micro_batches))]
    assert micro_batches * 2 ** entry_bits(micro_batches) <= 2**30


@settings(deadline=None)
@given(st.integers(-126, 132), st.integers(-126, 128))
def test_an_exponent_rises_at_once_and_falls_by_one(exponent: int, peak: int) -> None:
    got = next_exponent(torch.tensor(exponent, dtype=torch.int32), torch.tensor(peak, dtype=torch.int32))
    assert (got.item(), got.dtype) == (max(peak + 4, exponent - 1), torch.int32)


@settings(deadline=None)
@given(FLOATS)
def test_a_loss_is_rounded_to_its_unit_and_4096_of_them_fit_in_int64(loss: float) -> None:
    units = loss_to_fixed(torch.tensor(loss)).item()
    assert units == max(-(2**50), min(2**50, round(Fraction(loss) * 2**20)))
    assert abs(units) * 4096 < 2**63


def test_a_parameter_without_entries_has_the_lowest_peak() -> None:
    assert peak_of(torch.zeros(0, 3)).item() == -126

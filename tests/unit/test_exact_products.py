"""Matrix products: compiled kernels at every level, float64, int8 and plain integers have the same bits."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from exact_levels import HIGHEST, LEVELS, computing, dot, patterns, wide_numbers
from reference import fractional as reference
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.products import (
    FAST_BITS,
    FULL_BITS,
    Product,
    digits_of,
    exact_terms,
    float64_product,
    int8_product,
    matmul,
    scaled_product,
)

PROFILES = [FULL_BITS, FAST_BITS]
LARGEST_BELOW_ONE = 1 - 2.0**-24
"""Rounds to the largest integer, 2**bits."""


def by_integers(a: Tensor, b: Tensor, bits: int) -> Tensor:
    rows = [reference.scaled(row, bits) for row in a.tolist()]
    columns = [reference.scaled(column, bits) for column in b.t().tolist()]
    return torch.tensor([[dot(p, q, u * v) for q, v in columns] for p, u in rows])


@pytest.mark.parametrize("bits", PROFILES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 1, 1), (2, 3, 5), (12, 32, 32), (13, 33, 33), (7, 31, 17), (25, 64, 16), (1, 130, 65), (30, 2, 1)],
)
def test_a_product_has_the_bits_of_plain_integers(m: int, k: int, n: int, level: int, bits: int) -> None:
    a, b = wide_numbers(m, m, k, low=-12, high=12), wide_numbers(n, k, n, low=-12, high=12)
    expected = patterns(by_integers(a, b, bits))
    with computing(level):
        assert torch.equal(patterns(matmul(a, b, bits)), expected)
    assert torch.equal(patterns(scaled_product(a, b, bits, float64_product)), expected)
    assert torch.equal(patterns(scaled_product(a, b, bits, int8_product)), expected)


@pytest.mark.parametrize("bits", PROFILES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("terms", [15, 30, 31, 32, 33, 2016, 2017, 2018, 4032, 4033, 9001])
def test_the_largest_integers_add_up_exactly_over_any_number_of_terms(terms: int, level: int, bits: int) -> None:
    """Every number at its bound, all signs alike: what overflows first where a bound is wrong."""
    for sign, value in ((1, LARGEST_BELOW_ONE), (-1, LARGEST_BELOW_ONE), (1, 0.75), (-1, 1 - 2.0**-11)):
        a, b = torch.full((13, terms), value), torch.full((terms, 17), sign * value)
        (pa, ua), (pb, ub) = (reference.scaled(x, bits) for x in (a[0].tolist(), b[:, 0].tolist()))
        expected = torch.full((13, 17), dot(pa, pb, ua * ub))
        with computing(level):
            assert torch.equal(patterns(matmul(a, b, bits)), patterns(expected))
        if level == LEVELS[0]:
            assert torch.equal(patterns(scaled_product(a, b, bits, int8_product)), patterns(expected))


@pytest.mark.parametrize("bits", PROFILES)
@pytest.mark.parametrize("level", LEVELS)
def test_the_extreme_digits_add_up_exactly(level: int, bits: int) -> None:
    """Integers whose pieces in the compiled kernels are all at an end of their range, together with a large one."""
    terms = 2016
    for piece in (2 * 512, 1023, 511, 512, -512, -513):
        a = torch.full((12, terms), piece / 2.0**bits + 0.5)
        a[:, -1] = LARGEST_BELOW_ONE
        b = -a.t().contiguous()
        expected = patterns(scaled_product(a, b, bits, int8_product))
        with computing(level):
            assert torch.equal(patterns(matmul(a, b, bits)), expected)
        assert torch.equal(patterns(scaled_product(a, b, bits, float64_product)), expected)


def strided(seed: int, rows: int, columns: int) -> list[Tensor]:
    """Matrices of one size that lie in memory in different ways."""
    whole = wide_numbers(seed, 3 * rows, 3 * columns, low=-9, high=9)
    return [
        whole[:rows, :columns].contiguous(),
        whole[:rows, :columns],
        whole[: 3 * rows : 3, 1 : 1 + columns],
        whole.t()[:columns, :rows].t(),
        whole[:rows, : 2 * columns : 2],
        whole[: 2 * rows : 2, : 3 * columns : 3],
        whole[:1, :columns].expand(rows, columns),
        whole[:rows, :1].expand(rows, columns),
    ]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bits", PROFILES)
def test_operands_may_lie_in_memory_in_any_way(level: int, bits: int) -> None:
    for i, a in enumerate(strided(1, 40, 70)):
        for j, b in enumerate(strided(2, 70, 35)):
            if i == 0 or j in {0, i}:
                expected = scaled_product(a, b, bits, float64_product)
                with computing(level):
                    got = matmul(a, b, bits)
                assert got.is_contiguous()
                assert torch.equal(patterns(got), patterns(expected))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", PROFILES)
def test_stacks_of_matrices_are_multiplied_one_by_one(bits: int, threads: int) -> None:
    for shape_a, shape_b in [
        ((5, 9, 33), (5, 33, 20)),
        ((40, 50, 64), (40, 64, 50)),
        ((2, 3, 64, 90), (2, 3, 90, 200)),
    ]:
        a, b = wide_numbers(3, *shape_a, low=-5, high=5), wide_numbers(4, *shape_b, low=-5, high=5)
        expected = patterns(scaled_product(a, b, bits, float64_product))
        with computing(HIGHEST, threads):
            assert torch.equal(patterns(matmul(a, b, bits)), expected)
            swapped = a.transpose(0, 1).contiguous().transpose(0, 1)
            assert torch.equal(patterns(matmul(swapped, b, bits)), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(("m", "k", "n"), [(300, 700, 500), (1, 5000, 300), (900, 40, 900), (40, 9000, 40)])
def test_the_number_of_threads_changes_no_bit(m: int, k: int, n: int, threads: int) -> None:
    a, b = wide_numbers(5, m, k, low=-3, high=3), wide_numbers(6, k, n, low=-3, high=3)
    for bits in PROFILES:
        expected = patterns(scaled_product(a, b, bits, float64_product))
        with computing(HIGHEST, threads):
            assert torch.equal(patterns(matmul(a, b, bits)), expected)


def test_a_product_larger_than_a_block_is_put_together_from_blocks() -> None:
    for m, k, n in [(1500, 2100, 70), (30, 4100, 800)]:
        a, b = wide_numbers(7, m, k, low=-3, high=3), wide_numbers(8, k, n, low=-3, high=3)
        expected = patterns(scaled_product(a, b, FULL_BITS, float64_product))
        with computing(3, 2):
            assert torch.equal(patterns(matmul(a, b, FULL_BITS)), expected)


@pytest.mark.parametrize("bits", PROFILES)
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_rows_and_columns_may_be_as_small_and_as_large_as_float32_is(level: int, flush: bool, bits: int) -> None:
    a, b = wide_numbers(9, 20, 40), wide_numbers(10, 40, 20)
    a[0], b[:, 0] = 3e38, 3e38
    a[1], b[:, 1] = 2.0**-126 * 1.5, 2.0**-126 * 1.5
    a[2], b[:, 2] = 0.0, 0.0
    a[3, 1:], b[1:, 3] = 0.0, 0.0
    expected = patterns(by_integers(a, b, bits))
    with computing(level, flush=flush):
        assert torch.equal(patterns(matmul(a, b, bits)), expected)
        assert torch.equal(patterns(scaled_product(a, b, bits, float64_product)), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_results_up_to_the_smallest_magnitude_become_plus_zero(level: int) -> None:
    a = torch.tensor([[2.0**-63], [-(2.0**-63)], [2.0**-63 * 1.5], [2.0**-100]])
    with computing(level):
        got = matmul(a, torch.full((1, 9), 2.0**-63))
    assert not patterns(got[[0, 1, 3]]).any()
    assert (got[2] == 2.0**-126 * 1.5).all()


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)])
def test_empty_operands_give_zeros_of_the_right_shape(m: int, k: int, n: int) -> None:
    for product in (float64_product, int8_product):
        assert torch.equal(scaled_product(torch.ones(m, k), torch.ones(k, n), FULL_BITS, product), torch.zeros(m, n))
    assert torch.equal(matmul(torch.ones(m, k), torch.ones(k, n)), torch.zeros(m, n))
    assert torch.equal(matmul(torch.ones(2, m, k), torch.ones(2, k, n)), torch.zeros(2, m, n))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_not_finite_is_refused_wherever_it_stands(level: int, bad: float) -> None:
    for row, column in [(0, 0), (36, 49), (17, 31), (36, 0)]:
        by_rows = torch.ones(37, 50)
        by_rows[row, column] = bad
        for a in (by_rows, by_rows.t().contiguous().t()):
            for pair in ((a, torch.ones(50, 3)), (torch.ones(3, 37), a), (a[None], torch.ones(1, 50, 3))):
                with computing(level, 2), pytest.raises(NonFiniteError, match="an operand of a matrix product holds"):
                    matmul(*pair)


@pytest.mark.parametrize("shapes", [((2, 3), (4, 2)), ((2, 2, 3), (3, 3, 2)), ((3,), (3,)), ((2, 3), (1, 3, 2))])
def test_shapes_that_do_not_fit_never_reach_the_compiled_kernels(shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = (torch.ones(shape) for shape in shapes)
    try:
        got = matmul(a, b)
    except (RuntimeError, IndexError):
        return
    assert torch.equal(got, scaled_product(a, b, FULL_BITS, float64_product))


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(Refused) as refused:
        matmul(torch.ones(2, 2, dtype=torch.float64), torch.ones(2, 2))
    assert refused.value.code == "unsupported_dtype"


@pytest.mark.parametrize("bits", PROFILES)
def test_digits_are_balanced_and_add_up(bits: int) -> None:
    numbers = torch.arange(-(2**bits), 2**bits + 1, 7, dtype=torch.float64)
    numbers = torch.cat([numbers, torch.tensor([2.0**bits, -(2.0**bits)])])
    digits = digits_of(numbers, -(-bits // 7))
    assert torch.equal(torch.stack([d.to(torch.float64) * 128.0**i for i, d in enumerate(digits)]).sum(0), numbers)
    assert all(int(d.to(torch.int32).abs().max()) <= 64 for d in digits)


def saturating(a: Tensor, b: Tensor) -> Tensor:
    """An int8 unit without a wide dot product: pairs of products are added in 16 bits, and stop at their end."""
    terms = (a.to(torch.int32)[:, :, None] + 128) * b.to(torch.int32)[None]
    pairs = terms.unflatten(1, (-1, 2)).sum(2) if a.shape[1] % 2 == 0 else terms
    return pairs.clamp(-(2**14), 2**14 - 1).sum(1) - 128 * b.to(torch.int32).sum(0)


def test_an_int8_unit_that_saturates_gives_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.full((3, 400), LARGEST_BELOW_ONE), torch.full((400, 3), -LARGEST_BELOW_ONE)
    expected = scaled_product(a, b, FULL_BITS, float64_product)
    assert torch.equal(scaled_product(a, b, FULL_BITS, int8_product), expected)
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not torch.equal(scaled_product(a, b, FULL_BITS, int8_product), expected)


@pytest.mark.parametrize("product", [float64_product, int8_product])
def test_sums_beyond_float64_are_exact_in_every_way(product: Product) -> None:
    terms = 2 * exact_terms(FULL_BITS) + 5
    a, b = torch.full((1, terms), LARGEST_BELOW_ONE), torch.full((terms, 1), LARGEST_BELOW_ONE)
    a[0, ::2] = 0.5 + 2.0**-20
    (pa, ua), (pb, ub) = (reference.scaled(x.flatten().tolist(), FULL_BITS) for x in (a, b))
    expected = Fraction(dot(pa, pb, ua * ub))
    assert Fraction(float(scaled_product(a, b, FULL_BITS, product))) == expected
    assert Fraction(float(matmul(a, b))) == expected


def test_int8_products_of_a_row_whose_strides_are_unusual() -> None:
    """`torch._int_mm` took such a row for a column on a processor with VNNI."""
    a = torch.tensor([[1.9925, 1.5365]]).as_strided((1, 2), (1, 1))
    b = torch.tensor([[1.5], [-0.5]])
    assert torch.equal(scaled_product(a, b, 20, int8_product), scaled_product(a, b, 20, float64_product))

"""Compiled products and convolutions against torch's own operators: any shape, layout and thread count."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from exact_levels import LEVELS, computing, patterns, wide_numbers
from tallystick.exact import convolution as exact
from tallystick.exact.products import float64_product, int8_product, matmul, scaled_product

SEEDS = st.integers(0, 2**32)
LEVEL = st.sampled_from(LEVELS)
BITS = st.sampled_from([20, 13])
THREADS = st.integers(1, 4)
SPREAD = st.sampled_from([(0, 0), (-3, 3), (-126, -100), (90, 127), (-126, 127)])
SIZES = st.integers(1, 40) | st.sampled_from([12, 32, 63, 64, 65, 100])
INNER = st.integers(1, 70) | st.sampled_from([255, 2015, 2016, 2017, 4100])


@st.composite
def laid_out(draw: st.DrawFn, rows: int, columns: int) -> Tensor:
    """A matrix with some layout in memory."""
    low, high = draw(SPREAD)
    step_r, step_c = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3), (2, 2)]))
    swap = draw(st.booleans())
    shape = (columns * step_c, rows * step_r) if swap else (rows * step_r, columns * step_c)
    whole = wide_numbers(draw(SEEDS), *shape, low=low, high=high)
    return (whole.t() if swap else whole)[::step_r, ::step_c]


@settings(deadline=None, max_examples=150)
@given(st.data(), SIZES, INNER, SIZES, LEVEL, BITS, THREADS, st.booleans())
def test_a_product_has_the_same_bits_in_every_way(
    data: st.DataObject, m: int, k: int, n: int, level: int, bits: int, threads: int, flush: bool
) -> None:
    a, b = data.draw(laid_out(m, k)), data.draw(laid_out(k, n))
    expected = patterns(scaled_product(a, b, bits, float64_product))
    with computing(level, threads, flush):
        assert torch.equal(patterns(matmul(a, b, bits)), expected)
    if k < 100:
        assert torch.equal(patterns(scaled_product(a, b, bits, int8_product)), expected)


@settings(deadline=None, max_examples=40)
@given(SEEDS, SIZES, INNER, SIZES, LEVEL, BITS)
def test_permuting_the_inner_dimension_changes_no_bit(seed: int, m: int, k: int, n: int, level: int, bits: int) -> None:
    a, b = wide_numbers(seed, m, k, low=-20, high=20), wide_numbers(seed + 1, k, n, low=-20, high=20)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    with computing(level, 2):
        assert torch.equal(patterns(matmul(a[:, order], b[order], bits)), patterns(matmul(a, b, bits)))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, exact.Geometry]:
    """Input, weight, the output's gradient, geometry."""
    groups, channels, outputs = draw(st.sampled_from([(1, 3, 16), (1, 17, 5), (2, 2, 3), (7, 1, 1), (1, 8, 33)]))
    axes = [[draw(st.integers(1, high)) for high in (4, 3, 3)] + [draw(st.integers(0, 3))] for _ in "yx"]
    kernel, stride, dilation, padding = (list(values) for values in zip(*axes, strict=True))
    size = [draw(st.integers(1, 14)) for _ in "yx"]
    room = [n + 2 * p - d * (k - 1) - 1 for n, k, d, p in zip(size, kernel, dilation, padding, strict=True)]
    assume(min(room) >= 0)
    samples, seed = draw(st.integers(1, 4)), draw(SEEDS)
    low, high = draw(SPREAD)
    x = wide_numbers(seed, samples, channels * groups, *size, low=low, high=high)
    weight = wide_numbers(seed + 1, outputs * groups, channels, *kernel, low=-6, high=6)
    sizes = [r // s + 1 for r, s in zip(room, stride, strict=True)]
    gradient = wide_numbers(seed + 2, samples, outputs * groups, *sizes, low=-6, high=6)
    return x, weight, gradient, (stride, padding, dilation, False, [0, 0], groups)


@settings(deadline=None, max_examples=150)
@given(convolutions(), LEVEL, BITS, THREADS, st.booleans())
def test_a_convolution_has_the_same_bits_in_every_way(
    case: tuple[Tensor, Tensor, Tensor, exact.Geometry], level: int, bits: int, threads: int, flush: bool
) -> None:
    x, weight, gradient, geometry = case
    backward = (gradient, x, weight, None, *geometry)
    expected = [
        exact.float64_output(x, weight, geometry, bits),
        exact.float64_gradient_of_input(gradient, x, weight, geometry, bits),
        exact.float64_gradient_of_weight(gradient, x, weight, geometry, bits),
    ]
    with computing(level, threads, flush):
        got = [
            exact.convolution(x, weight, None, *geometry, bits=bits),
            exact.gradient_of_input(*backward, [True, False, False], bits=bits),
            exact.gradient_of_weight(*backward, [False, True, False], bits=bits),
        ]
    same = [torch.equal(patterns(p), patterns(q)) for p, q in zip(got, expected, strict=True)]
    assert same == [True, True, True]

"""Convolutions and their gradients: compiled kernels, torch's float64 and plain integers have the same bits."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from exact_levels import HIGHEST, LEVELS, computing, dot, patterns, wide_numbers
from reference import fractional as reference
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact import convolution as exact
from tallystick.exact.products import FAST_BITS, FULL_BITS

PROFILES = [FULL_BITS, FAST_BITS]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    samples: int
    channels: int
    """Of one group, as are the outputs."""
    outputs: int
    size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def operands(self, seed: int, spread: int = 6) -> tuple[Tensor, Tensor, Tensor]:
        """Input, weight, gradient of the output."""
        x = wide_numbers(seed, self.samples, self.channels * self.groups, *self.size, low=-spread, high=spread)
        shape = (self.outputs * self.groups, self.channels, *self.kernel)
        weight = wide_numbers(seed + 1, *shape, low=-spread, high=spread)
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
        gradient = wide_numbers(seed + 2, self.samples, shape[0], *sizes, low=-spread, high=spread)
        return x, weight, gradient

    @property
    def geometry(self) -> exact.Geometry:
        return (list(self.stride), list(self.padding), list(self.dilation), False, [0, 0], self.groups)


def compiled(case: Case, x: Tensor, weight: Tensor, gradient: Tensor, bits: int) -> list[Tensor]:
    backward = (gradient, x, weight, None, *case.geometry)
    return [
        exact.convolution(x, weight, None, *case.geometry, bits=bits),
        exact.gradient_of_input(*backward, [True, False, False], bits=bits),
        exact.gradient_of_weight(*backward, [False, True, False], bits=bits),
    ]


def by_float64(case: Case, x: Tensor, weight: Tensor, gradient: Tensor, bits: int) -> list[Tensor]:
    return [
        exact.float64_output(x, weight, case.geometry, bits),
        exact.float64_gradient_of_input(gradient, x, weight, case.geometry, bits),
        exact.float64_gradient_of_weight(gradient, x, weight, case.geometry, bits),
    ]


Index = tuple[int, ...]
Scaled = tuple[dict[Index, int], dict[Index, Fraction]]


def scaled(x: Tensor, unit_of: Any, bits: int) -> Scaled:
    """Integers by index, and the unit of each; entries for which `unit_of` is equal share one."""
    indices = list(itertools.product(*(range(n) for n in x.shape)))
    integers: dict[Index, int] = {}
    units: dict[Index, Fraction] = {}
    for key in {unit_of(i) for i in indices}:
        mine = [i for i in indices if unit_of(i) == key]
        values, unit = reference.scaled([float(x[i]) for i in mine], bits)
        integers.update(zip(mine, values, strict=True))
        units.update(dict.fromkeys(mine, unit))
    return integers, units


def by_integers(case: Case, x: Tensor, weight: Tensor, gradient: Tensor, bits: int) -> list[Tensor]:
    """Every product of every sum, in the three convolutions, found by walking over all outputs and taps."""
    group_of = case.outputs
    pairs: list[dict[Index, list[tuple[Index, Index]]]] = [{}, {}, {}]
    for n, o, i, j in itertools.product(*(range(size) for size in gradient.shape)):
        for c, ky, kx in itertools.product(range(case.channels), *(range(k) for k in case.kernel)):
            y = i * case.stride[0] + ky * case.dilation[0] - case.padding[0]
            z = j * case.stride[1] + kx * case.dilation[1] - case.padding[1]
            if 0 <= y < case.size[0] and 0 <= z < case.size[1]:
                at, tap, out = (n, o // group_of * case.channels + c, y, z), (o, c, ky, kx), (n, o, i, j)
                pairs[0].setdefault(out, []).append((at, tap))
                pairs[1].setdefault(at, []).append((out, tap))
                pairs[2].setdefault(tap, []).append((out, at))
    by_channel = scaled(weight, lambda w: (w[0] // group_of, w[1]), bits)
    operands = [
        (scaled(x, lambda p: p[0], bits), scaled(weight, lambda w: w[0], bits)),
        (scaled(gradient, lambda p: p[0], bits), by_channel),
        (scaled(gradient, lambda p: p[1], bits), scaled(x, lambda p: p[1], bits)),
    ]
    results = [torch.zeros_like(gradient), torch.zeros_like(x), torch.zeros_like(weight)]
    for result, found, ((qa, ua), (qb, ub)) in zip(results, pairs, operands, strict=True):
        for place, terms in found.items():
            unit = ua[terms[0][0]] * ub[terms[0][1]]
            result[place] = dot([qa[p] for p, _ in terms], [qb[q] for _, q in terms], unit)
    return results


SMALL = [
    Case(1, 1, 1, (1, 1), (1, 1)),
    Case(2, 3, 2, (5, 4), (3, 3), padding=(1, 1)),
    Case(1, 2, 3, (6, 7), (3, 2), stride=(2, 3), padding=(1, 0)),
    Case(2, 1, 1, (5, 5), (3, 3), padding=(2, 1), dilation=(2, 1), groups=3),
    Case(1, 2, 2, (4, 4), (1, 1), stride=(2, 2), groups=2),
]


@pytest.mark.parametrize("bits", PROFILES)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_three_convolutions_have_the_bits_of_plain_integers(case: Case, bits: int) -> None:
    operands = case.operands(11)
    expected = by_integers(case, *operands, bits)
    for level in LEVELS:
        with computing(level):
            got = compiled(case, *operands, bits)
        assert all(torch.equal(patterns(x), patterns(y)) for x, y in zip(got, expected, strict=True)), level
    fallback = by_float64(case, *operands, bits)
    assert all(torch.equal(patterns(x), patterns(y)) for x, y in zip(fallback, expected, strict=True))


LARGER = [
    Case(3, 16, 16, (9, 8), (3, 3), padding=(1, 1)),
    Case(5, 3, 40, (12, 12), (5, 5), stride=(2, 2), padding=(2, 2)),
    Case(2, 33, 13, (8, 9), (3, 3), stride=(2, 1), padding=(0, 1)),
    Case(4, 1, 1, (10, 10), (3, 3), padding=(1, 1), groups=20),
    Case(4, 1, 2, (10, 10), (3, 3), stride=(2, 2), padding=(1, 1), groups=9),
    Case(2, 4, 8, (16, 16), (4, 4), stride=(4, 4)),
    Case(2, 4, 5, (7, 7), (1, 1)),
    Case(2, 3, 5, (9, 9), (2, 2), stride=(3, 3)),
    Case(2, 3, 5, (13, 11), (3, 3), stride=(2, 3), padding=(3, 2), dilation=(3, 2)),
    Case(1, 2, 3, (1, 40), (1, 7), padding=(0, 3)),
    Case(2, 2, 2, (3, 3), (3, 3), padding=(5, 4)),
    Case(2, 7, 50, (3, 3), (3, 3)),
]


@pytest.mark.parametrize("bits", PROFILES)
@pytest.mark.parametrize("case", LARGER, ids=str)
def test_compiled_kernels_have_the_bits_of_float64(case: Case, bits: int) -> None:
    operands = case.operands(17, spread=12)
    expected = by_float64(case, *operands, bits)
    for level, threads in [*((level, 1) for level in LEVELS), (HIGHEST, 2), (HIGHEST, 3)]:
        with computing(level, threads, flush=threads == 2):
            got = compiled(case, *operands, bits)
        same = [torch.equal(patterns(x), patterns(y)) for x, y in zip(got, expected, strict=True)]
        assert same == [True, True, True], (level, threads)


@pytest.mark.parametrize("axis", [0, 1])
def test_every_small_geometry_reads_padding_where_there_is_padding(axis: int) -> None:
    """Grids share the padding between rows, and between samples, where it is wide enough for both."""
    ranges = (range(1, 6), range(1, 5), range(1, 4), range(5), range(1, 3))
    for size, kernel, stride, padding, dilation in itertools.product(*ranges):
        if size + 2 * padding <= dilation * (kernel - 1):
            continue
        along = [
            (n, m) if axis else (m, n) for n, m in ((3, size), (2, kernel), (1, stride), (1, padding), (1, dilation))
        ]
        case = Case(2, 1, 1, along[0], along[1], along[2], along[3], along[4])
        operands = case.operands(53)
        got, expected = compiled(case, *operands, FULL_BITS), by_float64(case, *operands, FULL_BITS)
        assert all(torch.equal(p, q) for p, q in zip(got, expected, strict=True)), case


@pytest.mark.parametrize("bits", PROFILES)
def test_sums_longer_than_a_block_and_than_float64_holds_are_exact(bits: int) -> None:
    """More than 2016 and more than 8192 terms in each of the three, all at the bound and of one sign."""
    for case in (Case(1, 1000, 1000, (3, 3), (3, 3), padding=(1, 1)), Case(3, 1, 1, (60, 50), (1, 1))):
        x, weight, gradient = (torch.full_like(t, 1 - 2.0**-24) for t in case.operands(23))
        gradient = -gradient
        expected = by_float64(case, x, weight, gradient, bits)
        for level in LEVELS[-2:]:
            with computing(level, 2):
                got = compiled(case, x, weight, gradient, bits)
            assert all(torch.equal(patterns(p), patterns(q)) for p, q in zip(got, expected, strict=True)), level
    assert float(got[2]) == -9000.0


@pytest.mark.parametrize("groups", [1, 3])
def test_one_spatial_dimension_is_a_plane_of_height_one(groups: int) -> None:
    case = Case(2, 4, 5, (1, 30), (1, 5), stride=(1, 2), padding=(0, 2), dilation=(1, 2), groups=groups)
    x, weight, gradient = case.operands(29)
    expected = compiled(case, x, weight, gradient, FULL_BITS)
    x, weight, gradient = x[:, :, 0], weight[:, :, 0], gradient[:, :, 0]
    geometry: exact.Geometry = ([2], [2], [2], False, [0], groups)
    backward = (gradient, x, weight, None, *geometry)
    got = [
        exact.convolution(x, weight, None, *geometry, bits=FULL_BITS),
        exact.gradient_of_input(*backward, [True, False, False], bits=FULL_BITS),
        exact.gradient_of_weight(*backward, [False, True, False], bits=FULL_BITS),
    ]
    for found, plane in zip(got, expected, strict=True):
        assert torch.equal(found, plane.squeeze(2))
    assert torch.equal(got[0], exact.float64_output(x, weight, geometry, FULL_BITS))


def test_operands_may_lie_in_memory_in_any_way() -> None:
    case = LARGER[0]
    operands = case.operands(31)
    expected = compiled(case, *operands, FULL_BITS)
    x, weight, gradient = (t.to(memory_format=torch.channels_last) for t in operands)
    got = compiled(case, x, weight, gradient, FULL_BITS)
    assert all(torch.equal(p, q) for p, q in zip(got, expected, strict=True))


def test_a_bias_is_added_to_the_rounded_result() -> None:
    case = LARGER[0]
    x, weight, _ = case.operands(37)
    bias = wide_numbers(41, 16, low=-3, high=8)
    plain = exact.convolution(x, weight, None, *case.geometry, bits=FULL_BITS)
    got = exact.convolution(x, weight, bias, *case.geometry, bits=FULL_BITS)
    assert torch.equal(got, plain + bias.reshape(1, -1, 1, 1))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_is_refused_wherever_it_stands(bad: float) -> None:
    case = LARGER[1]
    for which in range(3):
        operands = case.operands(43)
        operands[which].view(-1)[-1] = bad
        x, weight, gradient = operands
        backward = (gradient, x, weight, None, *case.geometry)
        calls: list[Callable[[], Tensor]] = [
            partial(exact.convolution, x, weight, None, *case.geometry, bits=FULL_BITS),
            partial(exact.gradient_of_input, *backward, [True, False, False], bits=FULL_BITS),
            partial(exact.gradient_of_weight, *backward, [False, True, False], bits=FULL_BITS),
        ]
        for call, uses in zip(calls, ((0, 1), (1, 2), (0, 2)), strict=True):
            if which in uses:
                with computing(3, 2), pytest.raises(NonFiniteError, match="holds an infinity or a NaN"):
                    call()
            else:
                assert bool(torch.isfinite(call()).all())


@pytest.mark.parametrize(
    ("x", "weight", "gradient", "geometry"),
    [
        ((1, 2, 5, 5), (3, 2, 3, 3), (1, 3, 4, 3), ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
        ((1, 2, 5, 5), (3, 2, 3, 3), (2, 3, 3, 3), ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
        ((1, 2, 5, 5), (3, 4, 3, 3), (1, 3, 3, 3), ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
        ((1, 2, 5, 5), (3, 1, 3, 3), (1, 3, 3, 3), ([1, 1], [0, 0], [1, 1], False, [0, 0], 2)),
    ],
)
def test_gradients_of_shapes_that_do_not_fit_are_refused(
    x: tuple[int, ...], weight: tuple[int, ...], gradient: tuple[int, ...], geometry: exact.Geometry
) -> None:
    backward = (torch.ones(gradient), torch.ones(x), torch.ones(weight), None, *geometry)
    for call in (exact.gradient_of_input, exact.gradient_of_weight):
        with pytest.raises(Refused) as refused:
            call(*backward, [True, True, False], bits=FULL_BITS)
        assert refused.value.code == "bad_shape"


def test_transposed_convolutions_are_refused() -> None:
    geometry: exact.Geometry = ([1, 1], [0, 0], [1, 1], True, [0, 0], 1)
    with pytest.raises(Refused) as refused:
        exact.convolution(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), None, *geometry, bits=FULL_BITS)
    assert refused.value.code == "unsupported_operator"

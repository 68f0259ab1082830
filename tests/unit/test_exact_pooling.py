"""Pooling and its gradients: the bits of the reference, windows one by one."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from reference import fractional as reference
from tallystick.errors import Refused
from tallystick.exact import pooling

GENERATOR = torch.Generator().manual_seed(5)
H, W = 7, 10
X = torch.randn(2, 2, H, W, generator=GENERATOR) * torch.exp(3 * torch.randn(2, 2, H, W, generator=GENERATOR))
Places = list[tuple[int, int]]
Regular = tuple[int, int, int, bool]
REGULAR: list[Regular] = [(2, 2, 0, False), (3, 2, 1, False), (3, 2, 1, True), (3, 1, 1, False), (2, 3, 0, True)]
ADAPTIVE = [(1, 1), (3, 4), (7, 10), (5, 3), (9, 13)]


def same_bits(got: Tensor, expected: list[float]) -> bool:
    flat: list[int] = got.reshape(-1).view(torch.int32).tolist()
    return flat == [reference.bits(value) for value in expected]


def line(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> list[list[int]]:
    """The windows along one dimension by ATen's rule, padding left out."""
    reach = size + 2 * padding - kernel
    count = (-(-reach // stride) if ceil_mode else reach // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    starts = [o * stride - padding for o in range(count)]
    return [[p for p in range(start, start + kernel) if 0 <= p < size] for start in starts]


def windows(rows: list[list[int]], columns: list[list[int]]) -> list[Places]:
    return [[(y, x) for y in ys for x in xs] for ys in rows for xs in columns]


def regular(kernel: int, stride: int, padding: int, ceil_mode: bool) -> list[Places]:
    return windows(line(H, kernel, stride, padding, ceil_mode), line(W, kernel, stride, padding, ceil_mode))


def adaptive(rows: int, columns: int) -> list[Places]:
    ys, xs = (
        [list(range(o * size // count, -((o + 1) * size // -count))) for o in range(count)]
        for size, count in ((H, rows), (W, columns))
    )
    return windows(ys, xs)


def images(x: Tensor) -> Iterator[list[list[float]]]:
    yield from x.reshape(-1, *x.shape[-2:]).tolist()


def averages(x: Tensor, found: list[Places]) -> list[float]:
    return [
        reference.divide(reference.total([image[r][c] for r, c in places]), float(len(places)))
        for image in images(x)
        for places in found
    ]


def spread(terms: Tensor, found: list[Places]) -> list[float]:
    """For each entry of the input, the sum of the terms of the windows that cover it."""
    result = []
    for image in images(terms):
        flat = [term for row in image for term in row]
        for place in ((r, c) for r in range(H) for c in range(W)):
            landed = [term for term, places in zip(flat, found, strict=True) if place in places]
            result.append(reference.total(landed) if landed else 0.0)
    return result


def shares(gradient: Tensor, found: list[Places]) -> Tensor:
    """Each window's gradient divided by its count."""
    counts = torch.tensor([len(places) for places in found], dtype=torch.float32).view(gradient.shape[-2:])
    return gradient / counts


@pytest.mark.parametrize("options", REGULAR)
def test_an_average_and_its_gradient_have_the_bits_of_the_reference(options: Regular) -> None:
    kernel, stride, padding, ceil_mode = options
    found = regular(*options)
    got = pooling.average_pool(X, kernel, stride, padding, ceil_mode, False)
    assert same_bits(got, averages(X, found))
    gradient = torch.sin(19 * got)
    back = pooling.average_pool_gradient(gradient, X, kernel, stride, padding, ceil_mode, False, None)
    assert same_bits(back, spread(shares(gradient, found), found))


@pytest.mark.parametrize("size", ADAPTIVE)
def test_an_adaptive_average_and_its_gradient_have_the_bits_of_the_reference(size: tuple[int, int]) -> None:
    found = adaptive(*size)
    got = pooling.adaptive_average_pool(X, size)
    assert same_bits(got, averages(X, found))
    gradient = torch.sin(19 * got)
    assert same_bits(pooling.adaptive_average_pool_gradient(gradient, X), spread(shares(gradient, found), found))


def largest(x: Tensor, found: list[Places]) -> list[int]:
    chosen = []
    for image in images(x):
        for places in found:
            best = places[0]
            for r, c in places:
                value = image[r][c]
                if math.isnan(value) or value > image[best[0]][best[1]]:
                    best = (r, c)
            chosen.append(best[0] * W + best[1])
    return chosen


@pytest.mark.parametrize("options", REGULAR)
def test_a_maximum_is_the_first_of_equals_and_its_gradient_one_exact_sum(options: Regular) -> None:
    x = torch.round(X)
    x[0, 0, 2, 3] = x[0, 0, 3, 3] = math.nan
    x[0, 1] = -math.inf
    x[1, 1] = 0.0
    places = pooling.max_pool_places(x, *options[:3], 1, options[3])
    assert places.reshape(-1).tolist() == largest(x, regular(*options))
    values = pooling.max_pool(x, *options[:3], 1, options[3])
    assert torch.equal(values.nan_to_num(), x.flatten(2).gather(2, places.flatten(2)).view(values.shape).nan_to_num())
    gradient = torch.randn(values.shape, generator=GENERATOR)
    back = pooling.max_pool_gradient(gradient, x, *options[:3], 1, options[3], places)
    assert same_bits(back, gathered(gradient, places))


def gathered(gradient: Tensor, places: Tensor) -> list[float]:
    result = []
    for terms, image in zip(gradient.flatten(0, 1).flatten(1), places.flatten(0, 1).flatten(1), strict=True):
        for place in range(H * W):
            landed = terms[image == place].tolist()
            result.append(reference.total(landed) if landed else 0.0)
    return result


@pytest.mark.parametrize("size", ADAPTIVE)
def test_an_adaptive_maximum_is_found_where_the_reference_finds_it(size: tuple[int, int]) -> None:
    places = pooling.adaptive_max_pool_places(torch.round(X), size)
    assert places.reshape(-1).tolist() == largest(torch.round(X), adaptive(*size))
    gradient = torch.randn(places.shape, generator=GENERATOR)
    assert same_bits(pooling.adaptive_max_pool_gradient(gradient, X, places), gathered(gradient, places))


def test_padding_counts_where_it_should_and_what_ceil_mode_adds_never_does() -> None:
    ones = torch.ones(1, 1, 4, 4)
    assert pooling.average_pool(ones, 2, 2, 1, False, True)[0, 0, 0].tolist() == [0.25, 0.5, 0.25]
    assert pooling.average_pool(ones, 2, 2, 1, False, False)[0, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert pooling.average_pool(torch.ones(1, 1, 5, 5), 2, 2, 0, True, True)[0, 0, 2].tolist() == [1.0, 1.0, 1.0]
    assert pooling.average_pool(ones, 2, 2, 0, False, True, 8)[0, 0, 0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("place", [-1, H * W])
def test_a_place_outside_of_the_image_is_refused(place: int) -> None:
    with pytest.raises(Refused) as refused:
        pooling.adaptive_max_pool_gradient(torch.ones(2, 2, 1, 1), X, torch.full((2, 2, 1, 1), place))
    assert refused.value.code == "index_out_of_range"


def test_a_share_that_is_too_small_is_zero() -> None:
    corner = torch.tensor([[[[2.0**-125, 0.0], [0.0, 0.0]]]])
    assert same_bits(pooling.average_pool(corner, 2), [0.0])
    back = pooling.average_pool_gradient(-corner[..., :1, :1], corner, 2, 2, 0, False, True, None)
    assert same_bits(back, [0.0] * 4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_gradient_of_another_shape_is_refused_before_there_are_values(device: str) -> None:
    x, gradient = X.to(device), X[:, :, :2, :2].to(device)
    places = torch.zeros(2, 2, 2, 2, dtype=torch.int64, device=device)
    for images in (x[:1], x[:, :1], x[0], x[:, :, :0]):
        with pytest.raises(Refused, match="does not fit"):
            pooling.adaptive_average_pool_gradient(gradient, images)
        with pytest.raises(Refused, match="does not fit"):
            pooling.adaptive_max_pool_gradient(gradient, images, places)
    with pytest.raises(Refused, match="does not fit"):
        pooling.average_pool_gradient(gradient, x, 2, 2, 0, False, True, None)
    for wrong in (places[:1], places.to(torch.int32)):
        with pytest.raises(Refused, match="the places of maxima"):
            pooling.adaptive_max_pool_gradient(gradient, x, wrong)

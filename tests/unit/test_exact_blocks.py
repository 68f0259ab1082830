"""Kernels in PyTorch alone work block by block; where blocks end must not show in the result."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tallystick.exact import functions, products, roots, sums, trigonometry
from tallystick.exact.blocks import by_blocks, entries_at_once

GENERATOR = torch.Generator().manual_seed(3)


def bits_of(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32)


@pytest.mark.parametrize(
    "function",
    [
        functions.exp,
        functions.expm1,
        functions.log,
        functions.log1p,
        functions.tanh,
        functions.sigmoid,
        functions.erf,
        roots.sqrt,
        trigonometry.sin,
        trigonometry.cos,
    ],
)
def test_a_function_of_a_large_tensor_is_that_of_its_parts(function: Callable[[Tensor], Tensor]) -> None:
    columns = 2 * entries_at_once() // 3 + 5
    x = (torch.randn(columns, 4, generator=GENERATOR) * 3).t()  # rows lie across the blocks
    parts = torch.cat([function(part) for part in x.reshape(-1).split(1000)]).view(x.shape)
    assert torch.equal(bits_of(function(x)), bits_of(parts))


def test_blocks_are_no_larger_than_they_should_be() -> None:
    seen = []

    @by_blocks
    def watching(x: Tensor) -> Tensor:
        seen.append(x.numel())
        return x.to(torch.float32)

    watching(torch.arange(2 * entries_at_once() + 1))
    assert seen == [entries_at_once(), entries_at_once(), 1]


def integers_of(x: Tensor, dims: tuple[int, ...], bits: int) -> tuple[Tensor, Tensor]:
    """Entries in units of 2**unit, by arithmetic of its own: int64."""
    exponent = torch.frexp(x.abs().amax(dims, keepdim=True))[1].to(torch.int64)
    return torch.round(torch.ldexp(x.to(torch.float64), bits - exponent)).to(torch.int64), exponent - bits


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_large_sum_is_that_of_its_integers(dims: tuple[int, ...], order: tuple[int, ...]) -> None:
    x = torch.randn(190, 90, 61, generator=GENERATOR).permute(order)
    assert x.numel() > sums.BLOCKS * entries_at_once()
    integers, unit = integers_of(x, dims, sums.TERM_BITS)
    expected = torch.ldexp(integers.sum(dims, keepdim=True).to(torch.float64), unit).to(torch.float32)
    assert torch.equal(bits_of(sums._sums(x, dims)), bits_of(expected))


@pytest.mark.parametrize("shape", [(), (3,), (600,)])
def test_a_large_product_is_that_of_its_integers(shape: tuple[int, ...]) -> None:
    rows, terms, columns = (700, 40, 600) if len(shape) == 0 else (30, 20, 40)
    a = torch.randn(*shape, rows, terms, generator=GENERATOR)
    b = torch.randn(*shape, columns, terms, generator=GENERATOR).transpose(-1, -2)
    (qa, unit_a), (qb, unit_b) = integers_of(a, (-1,), 20), integers_of(b, (-2,), 20)
    expected = torch.ldexp((qa @ qb).to(torch.float64), unit_a + unit_b).to(torch.float32)
    got = products.scaled_product(a, b, 20, products.float64_product)
    assert torch.equal(bits_of(got), bits_of(expected))

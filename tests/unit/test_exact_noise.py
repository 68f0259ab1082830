"""Random numbers of a program: the bits of the reference, by key, stream and element alone, and traceable."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from reference import fractional as reference
from tallystick.errors import Refused
from tallystick.exact.kernels import table
from tallystick.exact.noise import uniform

KEY = torch.tensor([0x9E3779B9, 0x7F4A7C15])


@pytest.mark.parametrize("key", [(0, 0), (1, 2**32 - 1), (0x9E3779B9, 0x7F4A7C15)])
@pytest.mark.parametrize(("stream", "count"), [(0, 1), (3, 4), (2**40 + 1, 9), (7, 0)])
def test_elements_have_the_bits_of_the_reference(key: tuple[int, int], stream: int, count: int) -> None:
    assert uniform(torch.tensor(key), [count], stream).tolist() == reference.uniform(key, stream, count)


def test_an_element_does_not_depend_on_how_many_are_drawn_or_in_what_shape() -> None:
    many = uniform(KEY, [10, 30], 5)
    assert torch.equal(many.view(-1)[:7], uniform(KEY, [7], 5))


def test_keys_and_streams_give_different_numbers() -> None:
    draws = [uniform(torch.tensor([a, b]), [8], s) for a in range(2) for b in range(2) for s in range(3)]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_numbers_are_spread_over_the_unit_interval() -> None:
    draws = uniform(KEY, [100_000], 1)
    assert 0 <= float(draws.min()) < 1e-4
    assert 1 - 1e-4 < float(draws.max()) < 1
    counts = torch.histc(draws, 10, 0, 1)
    assert bool(((counts - 10_000).abs() < 500).all())


@pytest.mark.parametrize("key", [torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.tensor(1)])
def test_a_key_of_another_kind_is_refused(key: Tensor) -> None:
    with pytest.raises(Refused) as refused:
        uniform(key, [2], 0)
    assert refused.value.code == "bad_key"


def test_the_operator_is_recorded_by_tracing_and_is_the_kernel_of_the_table() -> None:
    def loss(x: Tensor, key: Tensor) -> Tensor:
        drawn: Tensor = torch.ops.tallystick.uniform(key, list(x.shape), 2)
        return (x * drawn).sum()

    gradient: Callable[..., Any] = torch.func.functionalize(torch.func.grad(loss))
    recorded = make_fx(gradient, tracing_mode="fake")(torch.ones(2, 3), KEY)
    assert "tallystick.uniform.default" in {str(node.target) for node in recorded.graph.nodes}
    assert torch.equal(gradient(torch.ones(2, 3), KEY), table(20)["tallystick.uniform.default"](KEY, [2, 3], 2))
    assert torch.equal(torch.ops.tallystick.uniform(KEY, [5], 2), uniform(KEY, [5], 2))

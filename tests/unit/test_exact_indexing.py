"""Writing and adding by index: the bits of the reference, whatever the order, and what is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reference import fractional as reference
from tallystick.errors import Refused
from tallystick.exact.indexing import (
    embedding,
    embedding_gradient,
    gather,
    index,
    index_add,
    index_put,
    index_select,
    scatter_add,
    scatter_source,
    select_scatter,
    slice_scatter,
)

GENERATOR = torch.Generator().manual_seed(11)
ROWS, WIDTH, COUNT = 5, 3, 400
PLACES = torch.randint(0, ROWS - 1, (COUNT,), generator=GENERATOR)
TERMS = torch.randn(COUNT, WIDTH, generator=GENERATOR) * torch.exp(4 * torch.randn(COUNT, 1, generator=GENERATOR))
BASE = torch.randn(ROWS, WIDTH, generator=GENERATOR)
ORDER = torch.randperm(COUNT, generator=GENERATOR)


def totals(base: Tensor | None, places: Tensor, terms: Tensor) -> list[float]:
    """For each row and column, the reference's sum of what lands there."""
    found = []
    for row in range(ROWS):
        for column in range(WIDTH):
            landed = terms[places == row, column].tolist() + ([] if base is None else [base[row, column].item()])
            found.append(reference.total(landed) if landed else 0.0)
    return found


def bits(x: Tensor) -> list[int]:
    flat: list[int] = x.reshape(-1).view(torch.int32).tolist()
    return flat


def everywhere(places: Tensor) -> Tensor:
    return places[:, None].expand(COUNT, WIDTH)


ADDING: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda places, terms: index_add(BASE, 0, places, terms),
    lambda places, terms: index_add(BASE.t(), 1, places, terms.t()).t(),
    lambda places, terms: scatter_add(BASE, 0, everywhere(places), terms),
    lambda places, terms: index_put(BASE, [places], terms, True),
    lambda places, terms: index_put(BASE, [places - ROWS], terms, True),
    lambda places, terms: index_put(BASE, [places[:, None], torch.arange(WIDTH)], terms, True),
    lambda places, terms: index_put(BASE.t(), [None, places], terms.t(), True).t(),
]


@pytest.mark.parametrize("add", ADDING)
def test_what_lands_in_one_place_is_one_exact_sum_in_any_order(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    expected = [reference.bits(x) for x in totals(BASE, PLACES, TERMS)]
    assert bits(add(PLACES, TERMS)) == expected
    assert bits(add(PLACES[ORDER], TERMS[ORDER])) == expected


def test_the_gradient_of_an_embedding_is_one_exact_sum_for_each_row_in_any_order() -> None:
    expected = [reference.bits(x) for x in totals(None, PLACES, TERMS)]
    shape = (4, COUNT // 4)
    for order in (torch.arange(COUNT), ORDER):
        got = embedding_gradient(TERMS[order].view(*shape, WIDTH), PLACES[order].view(shape), ROWS, -1, False)
        assert bits(got) == expected


def test_the_row_for_padding_has_no_gradient() -> None:
    got = embedding_gradient(TERMS, PLACES, ROWS, 2, False)
    assert not got[2].any()
    assert torch.equal(got[3], embedding_gradient(TERMS, PLACES, ROWS, -1, False)[3])


def test_integers_are_added_as_they_are() -> None:
    base, terms = torch.tensor([[1], [2**62]]), torch.tensor([[5], [2**62], [7]])
    got = index_add(base, 0, torch.tensor([0, 1, 0]), terms)
    assert got.tolist() == [[13], [-(2**63)]]


def test_of_several_values_for_one_place_the_last_stays() -> None:
    places = torch.arange(COUNT) % ROWS
    last = TERMS[-ROWS:]
    assert torch.equal(index_put(BASE, [places], TERMS), last)
    assert torch.equal(scatter_source(BASE, 0, everywhere(places), TERMS), last)
    assert torch.equal(index_put(BASE, [places[:1]], TERMS[:1])[1:], BASE[1:])


def test_threads_that_write_to_one_place_do_not_race() -> None:
    places, values = torch.zeros(200_000, dtype=torch.int64), torch.arange(200_000.0)
    for _ in range(10):
        assert index_put(torch.zeros(1), [places], values).item() == 199_999
        assert scatter_source(torch.zeros(200_000), 0, places, values)[0].item() == 199_999


@pytest.mark.parametrize("place", [-1, ROWS, 2**40])
def test_a_place_outside_is_refused(place: int) -> None:
    one, term = torch.tensor([place]), TERMS[:1]
    meetings: list[Callable[[], Tensor]] = [
        lambda: index_add(BASE, 0, one, term),
        lambda: scatter_add(BASE, 0, one[:, None], term),
        lambda: scatter_source(BASE, 0, one[:, None], term),
        lambda: gather(BASE, 0, one[:, None]),
        lambda: index_select(BASE, 0, one),
        lambda: embedding(BASE, one),
        lambda: embedding_gradient(term, one, ROWS, -1, False),
        lambda: index(BASE, [one if place >= 0 else one - ROWS]),
        lambda: index_put(BASE, [one if place >= 0 else one - ROWS], term),
    ]
    for meet in meetings:
        with pytest.raises(Refused) as refused:
            meet()
        assert refused.value.code == "index_out_of_range"


def test_an_index_that_names_more_entries_than_there_are_is_refused_before_they_are_built() -> None:
    many = torch.zeros(2**20, dtype=torch.int64)
    with pytest.raises(Refused) as refused:
        index_put(torch.zeros(4, 4), [many[:, None], many], torch.ones(()), True)
    assert refused.value.code == "too_large"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_part_of_another_shape_is_refused_before_there_are_values(device: str) -> None:
    base, row = BASE.to(device), BASE[0].to(device)
    assert slice_scatter(base, base[:2], 0, 1, 3).shape == select_scatter(base, row, 0, -1).shape == BASE.shape
    meetings: list[Callable[[], Tensor]] = [
        lambda: slice_scatter(base, base[:3], 0, 1, 3),
        lambda: slice_scatter(base, row, 0, 1, 3),
        lambda: select_scatter(base, row[:2], 0, 1),
    ]
    for meet in meetings:
        with pytest.raises(Refused) as refused:
            meet()
        assert refused.value.code == "bad_shape"

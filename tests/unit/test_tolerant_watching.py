"""What a loader draws is remembered in order, also when it draws ahead."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tallystick.proof.tolerant.recorder import RecordError
from tallystick.proof.tolerant.watching import watch


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_indices_taken_are_those_of_the_batches(workers: int, drop_last: bool) -> None:
    data = TensorDataset(torch.arange(23))
    loader: DataLoader[Any] = DataLoader(data, batch_size=5, shuffle=True, drop_last=drop_last, num_workers=workers)
    watched = watch(loader)
    for _ in range(3):
        for (batch,) in loader:
            assert watched.take(5) == batch.tolist()


def test_watching_twice_is_watching_once() -> None:
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.arange(4)), batch_size=2)
    assert watch(loader) is watch(loader)


def test_what_has_no_indices_is_refused() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

    with pytest.raises(RecordError, match="map-style"):
        watch(DataLoader(Stream(), batch_size=2))

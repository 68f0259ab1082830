"""Which records a framework's data loader draws, learned from its sampler without changing what it draws."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from tallystick.proof.tolerant.recorder import RecordError


class WatchedSampler:
    """Passes the indices of a sampler on and remembers them; loaders may draw ahead, in the order of the batches."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._drawn: deque[int] = deque()

    def __iter__(self) -> Iterator[int]:
        self._drawn.clear()  # what the last epoch drew and did not use: an incomplete batch that was dropped
        for index in self._sampler:
            self._drawn.append(int(index))
            yield index

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        """Frameworks ask samplers for more than PyTorch does, such as `set_epoch`."""
        return getattr(self._sampler, name)

    def take(self, count: int) -> list[int]:
        """The next indices, fewer than `count` only where the epoch ends."""
        return [self._drawn.popleft() for _ in range(min(count, len(self._drawn)))]


def watch(loader: DataLoader[Any]) -> WatchedSampler:
    """Puts a watch on the sampler of a loader that was not iterated yet; a second call gives the same one.

    Raises:
        RecordError: the loader does not draw records by their index.
    """
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(batches, "sampler", None)
    if isinstance(loader.dataset, IterableDataset) or sampler is None or not getattr(batches, "batch_size", None):
        raise RecordError(
            "the data loader has no batch sampler over indices "
            "use a map-style data set, or call `Recorder.step` with the indices yourself"
        )
    if isinstance(sampler, WatchedSampler):
        return sampler
    watched = WatchedSampler(sampler)
    batches.sampler = watched  # type: ignore[union-attr]
    return watched

"""Virtual time: one heap of events, one trace, and one source of randomness for each concern."""

import heapq
from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Any


class Violation(Exception):
    """An invariant does not hold. Not an `AssertionError`: those are the core's own and are caught apart."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"invariant {number}: {what}")
        self.number = number
        self.what = what


class World:
    def __init__(self, seed: int, *, story: bool = False) -> None:
        self.now = 0
        """Milliseconds since the run began."""
        self.events = 0
        self.story: list[str] | None = [] if story else None
        """What happened, for people; None when nobody reads it, for it takes more time than the run."""
        self._seed = seed
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._trace = blake2b(digest_size=16)
        self.trace: Callable[[bytes], None] = self._trace.update
        """Takes part in the hash that names this run."""

    def random(self, concern: str) -> Random:
        """Each concern draws from its own stream, so that one more draw here changes nothing there."""
        return Random(f"{self._seed}/{concern}")  # noqa: S311 the point is that it can be repeated

    def later(self, delay_ms: int, action: Callable[..., None], *args: Any) -> None:
        """Events of one instant happen in the order in which they were asked for."""
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay_ms, self._order, action, args))

    def run(self, until_ms: int, done: Callable[[], bool] | None = None) -> bool:
        """Lets things happen until that time; stops early, and says so, once `done`, asked every 100 ms."""
        heap = self._heap
        asked = self.now
        while heap and heap[0][0] <= until_ms:
            time, _, action, args = heapq.heappop(heap)
            if done is not None and time >= asked:
                if done():
                    heapq.heappush(heap, (time, _, action, args))
                    return True
                asked = time + 100
            self.now = time
            self.events += 1
            action(*args)
        self.now = until_ms
        return done is not None and done()

    @property
    def trace_hash(self) -> str:
        return self._trace.hexdigest()

    def tell(self, who: str, what: str) -> None:
        """A line of the story. Callers that must work to say `what` look first whether `story` is None."""
        if self.story is not None:
            self.story.append(f"{self.now:>7} ms  {who:<9} {what}")

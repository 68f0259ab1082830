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
        self._times: list[int] = []
        """A heap of the instants at which something will happen."""
        self._due: dict[int, list[tuple[Callable[..., None], tuple[Any, ...]]]] = {}
        """What, in the order in which it was asked for."""
        self._trace = blake2b(digest_size=16)
        self.trace: Callable[[bytes], None] = self._trace.update
        """Takes part in the hash that names this run."""

    def random(self, concern: str) -> Random:
        """Each concern draws from its own stream, so that one more draw here changes nothing there."""
        return Random(f"{self._seed}/{concern}")  # noqa: S311 the point is that it can be repeated

    def later(self, delay_ms: int, action: Callable[..., None], *args: Any) -> None:
        """Events of one instant happen in the order in which they were asked for."""
        time = self.now + delay_ms
        due = self._due.get(time)
        if due is None:
            due = self._due[time] = []
            heapq.heappush(self._times, time)
        due.append((action, args))

    def run(self, until_ms: int, done: Callable[[], bool] | None = None) -> bool:
        """Lets things happen until that time; stops early, and says so, once `done`, asked every 100 ms."""
        times, asked = self._times, self.now
        while times and times[0] <= until_ms:
            time = times[0]
            if done is not None and time >= asked:
                if done():
                    return True
                asked = time + 100
            self.now = time
            due = self._due[time]
            for action, args in due:  # which grows by what is asked for at once
                action(*args)
            self.events += len(due)
            del self._due[heapq.heappop(times)]
        self.now = until_ms
        return done is not None and done()

    @property
    def trace_hash(self) -> str:
        return self._trace.hexdigest()

    def tell(self, who: str, what: str) -> None:
        """A line of the story. Callers that must work to say `what` look first whether `story` is None."""
        if self.story is not None:
            self.story.append(f"{self.now:>7} ms  {who:<9} {what}")

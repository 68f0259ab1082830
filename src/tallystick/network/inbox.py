"""Frames that have arrived and wait for the engine: bounded for each peer, and taken in turns.

A peer that sends faster than the engine works is held back by TCP, and only that peer: the others' frames have queues
of their own.
"""

import asyncio
from collections import deque
from typing import Final

MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""For each peer. One frame is always admitted, whatever its size."""


class Inbox:
    """Queues of frames, one for each peer."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._room = asyncio.Condition()
        self._news = asyncio.Event()

    async def put(self, peer: str, frame: bytes) -> None:
        """Queues `frame`, waiting while that peer's queue is full."""
        queue = self._queues.setdefault(peer, deque())
        async with self._room:
            await self._room.wait_for(lambda: not queue or self._sizes[peer] + len(frame) <= MAX_WAITING_BYTES)
        queue.append(frame)
        self._sizes[peer] = self._sizes.get(peer, 0) + len(frame)
        self._news.set()

    def wake(self) -> None:
        """Ends a `wait` although no frame came."""
        self._news.set()

    async def wait(self, seconds: float) -> None:
        """Returns when there is something to do, or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def take(self, limit: int) -> list[tuple[str, bytes]]:
        """Up to `limit` frames, one of each peer in turn."""
        taken: list[tuple[str, bytes]] = []
        while len(taken) < limit and any(self._queues.values()):
            for peer, queue in self._queues.items():
                if queue:
                    frame = queue.popleft()
                    self._sizes[peer] -= len(frame)
                    taken.append((peer, frame))
        if not any(self._queues.values()):
            self._news.clear()
        async with self._room:
            self._room.notify_all()
        return taken

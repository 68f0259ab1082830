"""Frames that have arrived and wait for the engine: bounded for each peer, and taken in turns.

A peer that sends faster than the engine works is held back by TCP, and only that peer: the others' frames have queues
of their own.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""For each peer, above which no more is taken of it: so one frame may go beyond."""
FRAME_BYTES: Final = 512
"""What a frame counts for beside its own bytes: even an empty one takes memory and time."""


@dataclass
class _Queue:
    frames: deque[bytes] = field(default_factory=deque)
    size: int = 0
    """What they count for."""
    resume: Callable[[], None] | None = None
    """Lets the peer go on sending; None while it may."""


class Inbox:
    """Queues of frames, one for each peer.

    Args:
        news: called when there is something to take.
    """

    def __init__(self, news: Callable[[], None]) -> None:
        self._queues: dict[str, _Queue] = {}
        self._news = news

    def has_room(self, peer: str) -> bool:
        """Whether a frame of `peer` may be put. If not, the caller stops reading and calls `hold`."""
        queue = self._queues.get(peer)
        return queue is None or queue.size <= MAX_WAITING_BYTES

    def put(self, peer: str, frame: bytes) -> None:
        queue = self._queues.setdefault(peer, _Queue())
        queue.frames.append(frame)
        queue.size += len(frame) + FRAME_BYTES
        self._news()

    def hold(self, peer: str, resume: Callable[[], None]) -> None:
        """Calls `resume` as soon as half of the peer's room is free again."""
        self._queues[peer].resume = resume

    def take(self, limit: int) -> list[tuple[str, bytes]]:
        """Up to `limit` frames, one of each peer in turn."""
        taken: list[tuple[str, bytes]] = []
        waiting = [(peer, queue) for peer, queue in self._queues.items() if queue.frames]
        while waiting and len(taken) < limit:
            for peer, queue in waiting:
                frame = queue.frames.popleft()
                queue.size -= len(frame) + FRAME_BYTES
                taken.append((peer, frame))
                if queue.resume is not None and queue.size <= MAX_WAITING_BYTES // 2:
                    resume, queue.resume = queue.resume, None
                    resume()
            waiting = [(peer, queue) for peer, queue in waiting if queue.frames]
        return taken

    @property
    def waiting(self) -> int:
        """What the frames of all peers count for, in bytes."""
        return sum(queue.size for queue in self._queues.values())

    def __bool__(self) -> bool:
        return any(queue.frames for queue in self._queues.values())

    def forget(self, peer: str) -> None:
        """Drops what came from a peer that is none any more."""
        self._queues.pop(peer, None)

"""One TLS channel: frames (4 bytes of length, big-endian, then that many bytes) from the side that opened it.

Protocols of asyncio rather than streams: a frame is handed on within the callback in which its last byte came, and a
turn's frames leave in one write.
"""

import asyncio
import ssl
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, cast

from tallystick.consensus.pbft.limits import MAX_FRAME_BYTES
from tallystick.network.inbox import Inbox

LENGTH_BYTES: Final = 4
MAX_QUEUED_BYTES: Final = 24 * 1024 * 1024
"""Waiting to be sent to one peer, beyond what the system has taken."""
SMALL_BYTES: Final = 1024
"""Frames up to this size, which all votes are, outlive larger ones in a full queue: those can be fetched again."""
BUFFERED_BYTES: Final = 256 * 1024
"""In the channel's own buffer before frames wait in the queue."""
STALL_SECONDS: Final = 10.0
"""A peer that takes nothing off a channel for so long is given up, and the channel opened anew."""


def certificate_of(transport: asyncio.BaseTransport) -> bytes:
    """The certificate (DER) that the other side has proven to hold; empty if none."""
    tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) or b""


class Outgoing(asyncio.Protocol):
    """What we send to one peer. Frames wait until `flush`, and there while the peer takes none.

    Args:
        rejections: where frames that a full queue lost are counted.
    """

    def __init__(self, rejections: Counter[str]) -> None:
        self._rejections = rejections
        self._transport: asyncio.Transport | None = None
        self._frames: deque[bytes] = deque()
        self._paused = False
        self._stalled: asyncio.TimerHandle | None = None
        self.queued = 0
        """Bytes that wait."""
        self.lost = asyncio.get_running_loop().create_future()
        """Done when the channel is gone."""

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None, "the channel is not open yet"
        return self._transport

    def add(self, frame: bytes) -> None:
        """Queues a frame; a full queue loses its oldest large ones, or if there are none the channel."""
        self._frames.append(frame)
        self.queued += len(frame)
        if self.queued > MAX_QUEUED_BYTES:
            self._make_room()

    def flush(self) -> None:
        if self._paused or not self._frames or self.transport.is_closing():
            return
        parts = [part for frame in self._frames for part in (len(frame).to_bytes(LENGTH_BYTES), frame)]
        self.forget()
        self.transport.write(b"".join(parts))

    def forget(self) -> None:
        """Drops what is queued."""
        self._frames.clear()
        self.queued = 0

    def _make_room(self) -> None:
        kept: deque[bytes] = deque()
        for frame in self._frames:
            if self.queued > MAX_QUEUED_BYTES and len(frame) > SMALL_BYTES:
                self.queued -= len(frame)
                self._rejections["peer_queue_full"] += 1
            else:
                kept.append(frame)
        self._frames = kept
        if self.queued > MAX_QUEUED_BYTES:
            self._rejections["peer_too_slow"] += 1
            self.forget()
            self.transport.abort()

    # ---- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=BUFFERED_BYTES)

    def data_received(self, data: bytes) -> None:
        """The other side never speaks on this channel."""
        self._rejections["unexpected_bytes"] += 1
        self.transport.abort()

    def pause_writing(self) -> None:
        self._paused = True
        self._watch(self.transport.get_write_buffer_size())

    def _watch(self, left: int) -> None:
        self._stalled = asyncio.get_running_loop().call_later(STALL_SECONDS, self._give_up_if_stalled, left)

    def _give_up_if_stalled(self, before: int) -> None:
        """A slow line may take longer than that for the largest frame, and must not be cut each time."""
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._watch(left)
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        self._paused = False
        if self._stalled is not None:
            self._stalled.cancel()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        if not self.lost.done():
            self.lost.set_result(None)


class Incoming(asyncio.Protocol):
    """What one peer sends to us.

    Args:
        opened: called with this channel when its handshake is done; returns the peer's identity, or None to refuse it.
        closed: called when the channel is gone.
    """

    def __init__(
        self,
        inbox: Inbox,
        rejections: Counter[str],
        opened: Callable[["Incoming"], str | None],
        closed: Callable[["Incoming"], None],
    ) -> None:
        self._inbox, self._rejections, self._opened, self._closed = inbox, rejections, opened, closed
        self._received = bytearray()
        self._held = False
        """Whether we read nothing more until there is room for what we have."""
        self.transport: asyncio.Transport
        self.peer: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = self._opened(self)
        if self.peer is None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            return
        self._received += data
        if not self._held:
            self._hand_on(self.peer)

    def _hand_on(self, peer: str) -> None:
        """Puts whole frames into the inbox, as long as this peer has room there: a new channel brings no new room."""
        while self._inbox.has_room(peer):
            frame = self._next_frame()
            if frame is None:
                return
            self._inbox.put(peer, frame)
        self._held = True
        self.transport.pause_reading()
        self._inbox.hold(peer, self._resume)

    def _next_frame(self) -> bytes | None:
        """The next whole frame. A length that no frame may have ends the channel, before it takes any memory."""
        if len(self._received) < LENGTH_BYTES:
            return None
        size = int.from_bytes(self._received[:LENGTH_BYTES])
        if size > MAX_FRAME_BYTES:
            self._rejections["oversized_frame"] += 1
            self.peer = None
            self._received.clear()
            self.transport.abort()
            return None
        end = LENGTH_BYTES + size
        if len(self._received) < end:
            return None
        frame = bytes(memoryview(self._received)[LENGTH_BYTES:end])
        del self._received[:end]
        return frame

    def _resume(self) -> None:
        if self.peer is not None and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()
            self._hand_on(self.peer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(self)

"""What strangers on the HTTP port can make this process hold: connections, heads and bodies of requests, and answers
that nobody reads, all bounded.

Nothing is known of who dials in, so only what all of them cost together can be bounded. uvicorn itself bounds none of
it: neither the number of connections, nor the size of a head or the time that it takes, nor that of a body, and it goes
on answering a client that reads nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import ClientDisconnect, Request
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tallystick.errors import Refused

MAX_CONNECTIONS: Final = 512
"""At a time; one that waits for news counts. Channels and files of this process need descriptors too."""
MAX_BESIDE_BYTES: Final = 64 * 1024
"""Of a request, beside its body: its head and trailer, and the framing of chunks."""
MAX_PIPELINED: Final = 16
"""Requests on one connection that were sent before the one ahead of them was answered."""
HEAD_SECONDS: Final = 10.0
"""For a head, from the opening of the connection or from the answer before."""
MAX_BODY_BYTES: Final = 64 * 2**20
"""Of all bodies that are being received or answered, together: eight of the largest."""
BODY_SECONDS: Final = 15.0
"""For a body. With the bound above, whoever wants to use up all room must send 36 Mbit/s without end."""
MAX_UNREAD_BYTES: Final = 64 * 2**20
"""Of all answers that wait for their clients, together, where those are long: twenty of the longest pages."""
STALL_SECONDS: Final = 10.0
"""A client that takes nothing of its answer for so long is given up."""

FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    most: int = MAX_CONNECTIONS
    head_seconds: float = HEAD_SECONDS
    most_unread: int = MAX_UNREAD_BYTES
    stall_seconds: float = STALL_SECONDS
    _beside = 0
    _left = 0
    """Bytes that this client had not taken at the last look."""
    _waiting_since = 0.0
    _next: tuple[RequestResponseCycle, ASGI3Application] | None = None
    """A request that must wait until the answer before it is taken."""
    _looking: asyncio.TimerHandle | None = None
    _timer: asyncio.TimerHandle | None = None
    """Runs while no request is under way."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again(0)
        if len(self.connections) > self.most:
            transport.write(FULL)
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._looking is not None:
            self._looking.cancel()
        self._next = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._beside += len(data)
        super().data_received(data)
        if self._beside > MAX_BESIDE_BYTES and not self.transport.is_closing():
            self.send_400_response("More than 64 KiB beside the body.")

    def on_body(self, body: bytes) -> None:
        """Only the handlers of POST read bodies. What these callbacks raise is answered with 400."""
        if self.scope["method"] != "POST":
            raise ValueError("a body where none belongs")
        self._beside -= len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests ahead of their answers")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._beside = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._await_head()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if self.flow.write_paused:
            self._next = (cycle, app)
        else:
            super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._waiting_since = self.loop.time()
        self._make_room()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._left = 0
        if self._next is not None and not self.transport.is_closing():
            waited, self._next = self._next, None
            super()._start_asgi_task(*waited)

    def _make_room(self) -> None:
        """Gives up those that have taken longest over their answers, but not this one, which has just got its own."""
        others = [one for one in self.connections if isinstance(one, BoundedHttp) and one.flow.write_paused]
        unread = sum(one.transport.get_write_buffer_size() for one in others)
        for one in sorted(others, key=lambda other: other._waiting_since):
            if unread <= self.most_unread:
                return
            if one is not self:
                unread -= one.transport.get_write_buffer_size()
                one.transport.abort()

    def _look_again(self, left: int) -> None:
        self._left = left
        self._looking = self.loop.call_later(self.stall_seconds, self._give_up_if_stalled)

    def _give_up_if_stalled(self) -> None:
        """Also a connection that is closing, which would wait for its client without end."""
        left = self.transport.get_write_buffer_size()
        if left >= self._left > 0:
            self.transport.abort()
        else:
            self._look_again(left)

    def _await_head(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Bodies:
    """Bodies of requests, from their first byte until they are answered."""

    def __init__(self, most: int = MAX_BODY_BYTES, seconds: float = BODY_SECONDS) -> None:
        self._most, self._seconds = most, seconds
        self.held = 0

    @asynccontextmanager
    async def read(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """At most `limit` bytes, whatever the headers promise.

        Raises:
            Refused: `too_large`, `busy`, `too_slow` or `truncated`.
        """
        data = bytearray()
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    async for chunk in request.stream():
                        data += chunk
                        self.held += len(chunk)
                        self._require_room(len(data), limit)
            except TimeoutError:
                raise Refused("too_slow", f"body: not whole after {self._seconds:g} s") from None
            except ClientDisconnect:
                raise Refused("truncated", "body: the connection closed before its end") from None
            yield bytes(data)
        finally:
            self.held -= len(data)

    def _require_room(self, size: int, limit: int) -> None:
        if size > limit:
            raise Refused("too_large", f"body: more than {limit} bytes")
        if self.held > self._most:
            raise Refused("busy", f"body: more than {self._most} bytes in all requests together; send it again later")

"""What strangers on the HTTP port can make this process hold: connections, heads and bodies of requests, all bounded.

Nothing is known of who dials in, so only what all of them cost together can be bounded. uvicorn itself bounds none of
it: neither the number of connections, nor the size of a head or the time that it takes, nor that of a body.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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

FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    most: int = MAX_CONNECTIONS
    head_seconds: float = HEAD_SECONDS
    _beside = 0
    _timer: asyncio.TimerHandle | None = None
    """Runs while no request is under way."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(FULL)
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
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

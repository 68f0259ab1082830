"""One connection from CometBFT: bytes that arrived, and the bytes to answer with.

A frame is a varint length and that many bytes, which are a `Request` or a `Response`. Requests may come faster than
they are answered; answers keep their order, which is how CometBFT tells them apart. After an exception the connection
is over: CometBFT stops when it reads one.
"""

from collections import Counter
from typing import Any, Final, Protocol

from tallystick.consensus.cometbft.messages import REQUESTS, ResponseException, unwrap, wrap
from tallystick.consensus.cometbft.protobuf import MAX_VARINT_BYTES, varint
from tallystick.errors import Refused

MAX_FRAME_BYTES: Final = 24 * 2**20
"""CometBFT itself carries blocks up to our 4 MiB and snapshot chunks up to 16 MB."""


class Answering(Protocol):
    def answer(self, request: Any) -> Any:
        """`Adapter.answer`"""


def frame(message: Any) -> bytes:
    """A message as it goes over the socket."""
    content = wrap(message)
    return varint(len(content)) + content


class Frames:
    """Takes bytes apart into frames. Holds at most one unfinished frame and what came in the same read."""

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole frame's content, or None until more has come.

        Raises:
            Refused: `too_large`, as soon as the length says so, or `malformed`.
        """
        buffer, length = self._buffer, 0
        for index, byte in enumerate(buffer[:MAX_VARINT_BYTES]):
            length |= (byte & 0x7F) << 7 * index
            if length > self._limit:
                raise Refused("too_large", f"frame: {length} bytes, at most {self._limit} are admitted")
            if byte < 0x80:
                start = index + 1
                break
        else:
            if len(buffer) >= MAX_VARINT_BYTES:
                raise Refused("malformed", "frame: its length does not end")
            return None
        if len(buffer) < start + length:
            return None
        content = bytes(buffer[start : start + length])
        del buffer[: start + length]
        return content


class Connection:
    """Answers what arrives on one connection.

    Args:
        rejections: counts what was refused, by reason; shared by all connections.
    """

    def __init__(self, adapter: Answering, rejections: Counter[str], limit: int = MAX_FRAME_BYTES) -> None:
        self._adapter, self._rejections = adapter, rejections
        self._frames = Frames(limit)
        self.broken: str | None = None
        """Why this connection is over; what comes after is not read."""

    def receive(self, data: bytes) -> bytes:
        """The answers to all requests that are complete with `data`."""
        self._frames.feed(data)
        answers = bytearray()
        try:
            while self.broken is None and (content := self._frames.next()) is not None:
                answers += frame(self._adapter.answer(unwrap(REQUESTS, content)))
        except Refused as refused:
            self._rejections[refused.code] += 1
            self.broken = str(refused)
            answers += frame(ResponseException(self.broken))
        return bytes(answers)

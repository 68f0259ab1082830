"""Channels between validators: framed, mutually authenticated, one for each direction of each pair.

A channel carries frames (4 bytes of length, big-endian, then that many bytes) from the side that opened it. Nothing
here is reliable and nothing needs to be: a peer may vanish at any moment, what it missed is sent again by the state
machine or fetched as blocks. So queues are short-lived: a full one loses its oldest frames, and those of a channel
that broke are forgotten.
"""

import asyncio
import ssl
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tallystick.canon.identity import Key
from tallystick.consensus.pbft.limits import MAX_FRAME_BYTES
from tallystick.network.inbox import Inbox
from tallystick.network.tls import client_context, pinned_form, server_context

LENGTH_BYTES: Final = 4
MAX_QUEUED_BYTES: Final = 16 * 1024 * 1024
"""Waiting to be sent to one peer."""
HANDSHAKE_SECONDS: Final = 5.0
STALL_SECONDS: Final = 10.0
"""A peer that takes nothing off a channel for so long is given up, and the channel opened anew."""
FIRST_RETRY_SECONDS: Final = 0.05
LAST_RETRY_SECONDS: Final = 1.0
"""Waits between attempts double from the first to the last."""


@dataclass(frozen=True)
class Validator:
    """A validator as the genesis file lists it."""

    identity: str
    address: str
    """`host:port` where it accepts channels."""
    certificate: str
    """PEM, as `make_certificate` gives it."""


@dataclass
class _Outgoing:
    """What waits to be sent to one peer."""

    frames: deque[bytes] = field(default_factory=deque)
    size: int = 0
    connected: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, frame: bytes) -> None:
        if not self.connected:
            return
        self.frames.append(frame)
        self.size += len(frame)
        while self.size > MAX_QUEUED_BYTES:
            self.size -= len(self.frames.popleft())
        self.news.set()

    def take(self) -> list[bytes]:
        frames = list(self.frames)
        self.clear()
        return frames

    def clear(self) -> None:
        self.frames.clear()
        self.size = 0
        self.news.clear()


class Peers:
    """Keeps a channel to every other validator, and accepts theirs.

    Args:
        listen: `host:port` to accept on, if not the address in the list of validators.
        inbox: where incoming frames go, under the identity that the channel has proven.
        opened: called with a peer's identity when the channel to it is open.

    Raises:
        Refused: `bad_certificate`, if a certificate in the list is not its validator's.
    """

    def __init__(
        self, key: Key, validators: Sequence[Validator], listen: str, inbox: Inbox, opened: Callable[[str], None]
    ) -> None:
        self.rejections: Counter[str] = Counter()
        """How often a channel was closed for what came over it, by reason code."""
        self._others = {v.identity: v for v in validators if v.identity != key.identity}
        self._pins = {pinned_form(v.identity, v.certificate): v.identity for v in self._others.values()}
        self._outgoing = {identity: _Outgoing() for identity in self._others}
        self._incoming: dict[str, asyncio.Task[None]] = {}
        self._listen, self._inbox, self._opened = listen, inbox, opened
        certificates = [v.certificate for v in validators]
        self._server_tls = server_context(key, certificates)
        self._client_tls = client_context(key, certificates)

    @property
    def connected(self) -> tuple[str, ...]:
        """Peers that what we send now will go to."""
        return tuple(identity for identity, outgoing in self._outgoing.items() if outgoing.connected)

    def send(self, peer: str, frame: bytes) -> None:
        """Queues `frame` for `peer`; forgets it if there is no channel."""
        self._outgoing[peer].add(frame)

    def broadcast(self, frame: bytes) -> None:
        for outgoing in self._outgoing.values():
            outgoing.add(frame)

    async def run(self) -> None:
        """Works until cancelled, and then leaves no channel open."""
        host, port = split_address(self._listen)
        server = await asyncio.start_server(
            self._accept, host, port, ssl=self._server_tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for validator in self._others.values():
                    tasks.create_task(self._keep_open(validator))
                tasks.create_task(asyncio.Event().wait())  # a group of one has no channels but still runs
        finally:
            server.close()
            for task in (accepted := list(self._incoming.values())):
                task.cancel()
            await asyncio.gather(*accepted, return_exceptions=True)

    # ---- opening

    async def _keep_open(self, validator: Validator) -> None:
        wait = FIRST_RETRY_SECONDS
        while True:
            try:
                reader, writer = await self._open(validator)
            except (OSError, TimeoutError):
                await asyncio.sleep(wait)
                wait = min(2 * wait, LAST_RETRY_SECONDS)
                continue
            if self._identity_of(writer) != validator.identity:
                self.rejections["wrong_peer"] += 1
                await _close(writer)
                await asyncio.sleep(LAST_RETRY_SECONDS)
                continue
            wait = FIRST_RETRY_SECONDS
            await self._serve_outgoing(validator.identity, reader, writer)
            await asyncio.sleep(wait)

    async def _open(self, validator: Validator) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = split_address(validator.address)
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            return await asyncio.open_connection(host, port, ssl=self._client_tls)

    async def _serve_outgoing(self, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outgoing = self._outgoing[peer]
        outgoing.connected = True
        self._opened(peer)
        # The other side never speaks on this channel, so a read returns when it has closed it.
        tasks = {asyncio.ensure_future(_send_all(outgoing, writer)), asyncio.ensure_future(reader.read(1))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outgoing.connected = False
            outgoing.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _close(writer)

    # ---- accepting

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = self._identity_of(writer)
        if peer is None:
            self.rejections["unpinned_certificate"] += 1
            await _close(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        older = self._incoming.get(peer)
        if older is not None:
            older.cancel()  # the peer came back before we noticed that it was gone
        self._incoming[peer] = task
        try:
            await self._receive(peer, reader)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            pass  # a channel ends when its peer goes, another takes its place, or we stop: no task awaits this one
        finally:
            if self._incoming.get(peer) is task:
                del self._incoming[peer]
            await _close(writer)

    async def _receive(self, peer: str, reader: asyncio.StreamReader) -> None:
        while True:
            size = int.from_bytes(await reader.readexactly(LENGTH_BYTES))
            if size > MAX_FRAME_BYTES:
                self.rejections["oversized_frame"] += 1
                return
            await self._inbox.put(peer, await reader.readexactly(size))

    def _identity_of(self, writer: asyncio.StreamWriter) -> str | None:
        """Whose pinned certificate the other side has proven to hold."""
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return self._pins.get(tls.getpeercert(binary_form=True) or b"")


async def _send_all(outgoing: _Outgoing, writer: asyncio.StreamWriter) -> None:
    while True:
        await outgoing.news.wait()
        for frame in outgoing.take():
            writer.write(len(frame).to_bytes(LENGTH_BYTES) + frame)
            async with asyncio.timeout(STALL_SECONDS):
                await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()  # no farewell: a peer that does not answer would hold us up
    with suppress(OSError):
        await writer.wait_closed()


def split_address(address: str) -> tuple[str, int]:
    """`"[::1]:26650"` -> `("::1", 26650)`.

    Raises:
        ValueError: not of the form `host:port`.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not of the form host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)

"""The referee's end of a dispute over the network: keeps the record, tells both seats all of it, and watches deadlines.

The record on disk is all there is. A move is in it before anybody is told, so a host that was killed goes on from its
files, and `tallystick dispute referee` gives the same verdict on them. Only moves that change the game are written.
"""

import asyncio
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from tallystick.canon.encoding import to_json
from tallystick.canon.hashing import DIGEST_BYTES
from tallystick.canon.identity import Key
from tallystick.errors import Refused, TallystickError
from tallystick.network.disputes import wire
from tallystick.network.tls import open_server_context
from tallystick.proof.dispute.game import Game, tick
from tallystick.proof.dispute.messages import MAX_MOVE_BYTES, opened_move
from tallystick.proof.dispute.phases import Terms
from tallystick.proof.dispute.record import MAX_RECORD_BYTES, Agreed, Received, followed, judged, line_of, moves_from
from tallystick.proof.durable import append

MAX_STRANGERS: Final = 64
"""Channels that have not taken a seat yet; more are closed at once."""
MAX_UNASKED: Final = 8
"""Moves on one channel that change nothing. One may cross with a channel opened anew; many are there to tire us."""
PARTING_SECONDS: Final = 5
"""After the game, for telling those who are there or just coming back."""


class HostError(TallystickError):
    """The record cannot be kept."""


class Host:
    """A game whose record is `moves`, a file that this process alone writes.

    Args:
        told: called with the game whenever it has changed.

    Raises:
        HostError, Refused: another process keeps this record, or it cannot be read.
    """

    def __init__(self, key: Key, agreed: Agreed, terms: Terms, moves: Path, told: Callable[[Game], None]) -> None:
        self._key, self._agreed, self._terms, self._moves, self._told = key, agreed, terms, moves, told
        self._tls = open_server_context(key)
        self._lock = locked(moves)
        self._record = moves_from(whole_lines(self._lock))
        self.game = judged(agreed, terms, self._record, now())
        self._changed = asyncio.Event()
        """Set, and replaced by another one, whenever the game changes or a seat learns how it ended."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: dict[int, asyncio.StreamWriter] = {}
        """Of each seat that has dialed in, the latest."""
        self._strangers = 0
        self._knowing: set[int] = set()
        """Seats that have been told the end."""

    async def run(self, listening: socket.socket) -> Game:
        """Accepts channels until the game is over; returns how it ended."""
        server = await asyncio.start_server(
            self._accept,
            sock=listening,
            ssl=self._tls,
            ssl_handshake_timeout=wire.CONNECT_SECONDS,
            limit=MAX_MOVE_BYTES,
        )
        try:
            await self._until_the_end()
            await self._until_all_know()
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return self.game

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._channel(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_the_end(self) -> None:
        while self.game.outcome is None:
            try:
                async with asyncio.timeout(max(0, self.game.deadline + 1 - time.time())):
                    await self._changed.wait()
            except TimeoutError:
                self._become(tick(self.game, now()))

    async def _until_all_know(self) -> None:
        try:
            async with asyncio.timeout(PARTING_SECONDS):
                while len(self._knowing) < len(self._terms.identities):
                    await self._changed.wait()
        except TimeoutError:
            return

    def _become(self, game: Game) -> None:
        if game is not self.game:
            self.game = game
            self._told(game)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _channel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One channel, from its handshake to its end. A seat that dials in again has lost the channel before."""
        try:
            seat = await self._seated(reader, writer)
            before, self._channels[seat] = self._channels.get(seat), writer
            if before is not None:
                before.transport.abort()
            telling = asyncio.create_task(self._tell(writer))
            try:
                await self._listen(reader)
            finally:
                if telling.done():
                    self._knowing.add(seat)
                    self._wake()
                telling.cancel()
                if self._channels[seat] is writer:
                    del self._channels[seat]
        except Refused as refused:
            await _refuse(writer, refused)
        except (OSError, EOFError):
            pass  # gone; it may come back
        finally:
            writer.transport.abort()

    async def _seated(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """Greets whoever has dialed in, and finds out which seat it has."""
        if self._strangers >= MAX_STRANGERS:
            raise Refused("too_many", f"host: {MAX_STRANGERS} others are being seated; try again")
        self._strangers += 1
        try:
            async with asyncio.timeout(wire.CONNECT_SECONDS):
                nonce = secrets.token_bytes(DIGEST_BYTES)
                await _send(writer, wire.Greeting(self._agreed, len(self._record), nonce))
                seating = await _frame(reader, wire.MAX_SEATING_BYTES)
        except TimeoutError:
            raise Refused("too_slow", f"host: no seating within {wire.CONNECT_SECONDS} seconds") from None
        finally:
            self._strangers -= 1
        return wire.seat_of(seating, self._terms, self._key.identity, nonce)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Takes a seat's moves until it closes the channel."""
        unasked = 0
        while True:
            data = await _frame(reader, MAX_MOVE_BYTES)
            opened_move(data)  # refuses what nobody has signed
            if not self._took(Received(now(), data)):
                unasked += 1
                if unasked > MAX_UNASKED:
                    raise Refused("unasked", f"host: {unasked} moves that were not asked for")

    def _took(self, received: Received) -> bool:
        """Whether a move changes the game; then it is on record, and everybody hears of it."""
        after = followed(self.game, received) if self.game.outcome is None else self.game
        if after is self.game:
            return False
        append(self._moves, line_of(received))
        self._record.append(received)
        self._become(after)
        return True

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        """Sends the record from its beginning, as fast as the seat takes it, and then the end."""
        sent = 0
        try:
            while True:
                for received in self._record[sent:]:
                    await _send(writer, wire.Recorded(received))
                    sent += 1
                if sent < len(self._record):
                    continue
                if self.game.outcome is not None:
                    await _send(writer, wire.Ended(now()))
                    return
                await self._changed.wait()
        except OSError:
            return  # gone


def now() -> int:
    """Seconds since 1970: what the record's times and the deadlines are in."""
    return int(time.time())


def locked(path: Path) -> BinaryIO:
    """The record, opened for this process alone as long as it lives."""
    file: BinaryIO | None = None
    try:
        file = path.open("r+b")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HostError(f"{path}: another process hosts this game; wait for it or stop it") from None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; make a game with `tallystick dispute open`") from None
    return file


def whole_lines(file: BinaryIO) -> bytes:
    """The record, after cutting off a line that a crash left unfinished: nobody was told of it."""
    data = file.read(MAX_RECORD_BYTES + 1)
    end = data.rfind(b"\n") + 1
    if end < len(data) <= MAX_RECORD_BYTES:
        file.truncate(end)
        os.fsync(file.fileno())
    return data


async def _frame(reader: asyncio.StreamReader, limit: int) -> bytes:
    return await reader.readexactly(wire.length_of(await reader.readexactly(wire.LENGTH_BYTES), limit))


async def _send(writer: asyncio.StreamWriter, news: wire.News) -> None:
    writer.write(wire.framed(to_json(news)))
    await writer.drain()


async def _refuse(writer: asyncio.StreamWriter, refused: Refused) -> None:
    """Says why, if the other side listens, and lets it read that before the channel closes."""
    try:
        async with asyncio.timeout(1):
            await _send(writer, wire.refusal_of(refused))
            writer.close()
            await writer.wait_closed()
    except OSError:
        return

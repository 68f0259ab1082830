"""A seat's end of a dispute over the network: dials the host, follows the record, and answers what it is asked.

The seat judges the game itself, from the moves as their makers signed them; it takes the host's word only for the
times. A channel that breaks is opened anew and told the record from its beginning.
"""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

from tallystick.canon.identity import Key
from tallystick.errors import Refused, TallystickError
from tallystick.network.disputes import wire
from tallystick.network.tls import check_shown, unpinned_client_context
from tallystick.proof.dispute.game import Game, start, tick
from tallystick.proof.dispute.messages import Answer, Move, sealed_move
from tallystick.proof.dispute.phases import Terms
from tallystick.proof.dispute.record import MAX_MOVES, Agreed, followed

RETRY_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 600
"""After so long without news the channel is opened anew, in case the host is gone without a word."""
PIECE_BYTES: Final = 2**16


class HostUnreachableError(TallystickError):
    """The host does not answer."""


class Seat:
    """What a side brings to a game: its key, the terms as it knows them, and its answers."""

    def __init__(self, key: Key, agreed: Agreed, terms: Terms, answer: Callable[[Game], Answer | None]) -> None:
        self.key, self.agreed, self.terms, self.answer = key, agreed, terms, answer
        self.number = terms.identities.index(key.identity)

    def move(self, game: Game) -> bytes | None:
        answer = self.answer(game)
        return None if answer is None else sealed_move(self.key, Move(self.terms.name, game.round, self.number, answer))


Take = Callable[[Agreed], Seat]
"""What makes a seat from a game's terms, or refuses them."""


class Channel:
    """A TLS channel to the host, who has shown to be `identity`."""

    def __init__(self, address: tuple[str, int], identity: str) -> None:
        raw = socket.create_connection(address, timeout=wire.CONNECT_SECONDS)
        self._tls = unpinned_client_context().wrap_socket(raw)  # closes it if the handshake fails
        try:
            check_shown(identity, self._tls.getpeercert(binary_form=True) or b"")
        except Refused:
            self._tls.close()
            raise
        self._received = bytearray()

    def __enter__(self) -> "Channel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tls.close()

    def send(self, data: bytes) -> None:
        self._tls.settimeout(IDLE_SECONDS)
        self._tls.sendall(wire.framed(data))

    def news(self, seconds: float = IDLE_SECONDS) -> wire.News:
        """The host's next message. What it refuses is raised."""
        self._tls.settimeout(seconds)
        news = wire.news_from(self._bytes(wire.length_of(self._bytes(wire.LENGTH_BYTES), wire.MAX_NEWS_BYTES)))
        if isinstance(news, wire.Refusal):
            raise Refused(news.code, f"the host refuses: {news.reason}")
        return news

    def has_news(self) -> bool:
        """Whether a message is there, or on its way."""
        self._tls.settimeout(0)
        with suppress(ssl.SSLWantReadError):
            self._read()
        return bool(self._received)

    def _bytes(self, count: int) -> bytes:
        while len(self._received) < count:
            self._read()
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _read(self) -> None:
        piece = self._tls.recv(PIECE_BYTES)
        if not piece:
            raise ConnectionResetError("closed by the host")
        self._received += piece


def play(address: tuple[str, int], host: str, take: Take, told: Callable[[Game], None]) -> Game:
    """Plays a seat of the game at `address` to its end.

    Args:
        host: the identity that the host has to show.
        told: called with the game whenever this seat has answered.

    Raises:
        Refused, HostUnreachableError
    """
    seat: Seat | None = None
    lost: float | None = None
    while True:
        try:
            with Channel(address, host) as channel:
                seat, greeting = _greeted(channel, host, take, seat)
                lost = None
                return _played(channel, seat, greeting.moves, told)
        except OSError as error:
            lost = lost or time.monotonic()
            if seat is None or time.monotonic() - lost > seat.agreed.seconds:
                host_at = f"{address[0]}:{address[1]}"
                raise HostUnreachableError(f"{host_at}: {error}; is `tallystick dispute host` running there?") from None
            time.sleep(RETRY_SECONDS)


def _greeted(channel: Channel, host: str, take: Take, seat: Seat | None) -> tuple[Seat, wire.Greeting]:
    greeting = channel.news(wire.CONNECT_SECONDS)
    if not isinstance(greeting, wire.Greeting):
        raise Refused("no_greeting", f"the host begins with {type(greeting).__name__.lower()}, not with a greeting")
    seat = seat or take(greeting.agreed)
    if greeting.agreed != seat.agreed:
        raise Refused("other_game", "the host has another game now")
    channel.send(wire.sealed_seating(seat.key, seat.terms, host, greeting.nonce))
    return seat, greeting


def _played(channel: Channel, seat: Seat, before: int, told: Callable[[Game], None]) -> Game:
    """The game on one channel. There were `before` moves; until they are read, it may not be this seat's turn."""
    game = start(seat.terms, seat.agreed.opened)
    count, answered = 0, -1
    move: bytes | None = None
    while count <= MAX_MOVES:
        if count >= before and game.round > answered and seat.number in game.waiting:
            move, answered = seat.move(game), game.round
        if move is not None and not channel.has_news():  # it may be the end, which a channel reset under us would lose
            channel.send(move)
            told(game)
            move = None
        match channel.news():
            case wire.Recorded(received):
                game, count = followed(game, received), count + 1
            case wire.Ended(at):
                return _checked(tick(game, at))
            case other:
                raise Refused("unexpected", f"the host says {type(other).__name__.lower()} in the midst of a game")
    raise Refused("too_many", f"the host has sent {count} moves, more than a game has")


def _checked(game: Game) -> Game:
    if game.outcome is None:
        raise Refused("no_verdict", f"the host ended the game in round {game.round}, in which nobody has lost yet")
    return game

"""A game as files: what was agreed, and one line for each move, from which anyone can judge it again.

`game.json` has the terms, `moves.jsonl` the moves as they were signed, each with the time at which the file's keeper
received it. The referee trusts the keeper for the times, and for leaving nothing out. Nothing here loads torch.
"""

import json
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Final, Literal

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import parse_identity
from tallystick.errors import Refused
from tallystick.proof.dispute.game import Game, receive, start, tick
from tallystick.proof.dispute.messages import MAX_MOVE_BYTES, opened_move
from tallystick.proof.dispute.phases import Terms

MAX_GAME_BYTES: Final = 4096
MAX_LINE_BYTES: Final = 2 * MAX_MOVE_BYTES
MAX_MOVES: Final = 256
"""More than the longest game has; a file with more is not read further."""
MAX_RECORD_BYTES: Final = MAX_MOVES * MAX_LINE_BYTES
Time = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Agreed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a game is about."""

    format: Literal["tallystick-dispute-v1"]
    spec: Name
    steps: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    roots: tuple[Name, Name]
    """The state root after the last step, as each seat has reported it."""
    identities: tuple[Name, Name]
    seconds: Annotated[int, msgspec.Meta(ge=1, le=10**9)]
    """How long a round may last."""
    opened: Time


class Received(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A move, and when it came."""

    at: Time
    move: Annotated[bytes, msgspec.Meta(max_length=MAX_MOVE_BYTES)]


def agreed_from(data: bytes) -> Agreed:
    """Raises Refused: `too_large`, `malformed` or `not_canonical`."""
    return from_json(data, Agreed, limit=MAX_GAME_BYTES, what="game")


def terms_of(agreed: Agreed, program: bytes, spec: bytes) -> Terms:
    """The terms, with the specification and the program that they name.

    Raises:
        Refused: `wrong_spec`, `bad_spec`, `wrong_program` or `bad_identity`.
    """
    if blob_name(spec) != agreed.spec:
        raise Refused("wrong_spec", f"game: the specification is not {agreed.spec}, which the game is about")
    try:
        read = json.loads(spec)
        wanted = read["program"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("bad_spec", "game: the specification is not the JSON of one") from None
    if blob_name(program) != wanted:
        raise Refused("wrong_program", f"game: the program is not {wanted}, which the specification names")
    first, second = (parse_identity(identity, "game") for identity in agreed.identities)
    roots = (bytes.fromhex(agreed.roots[0]), bytes.fromhex(agreed.roots[1]))
    name = bytes.fromhex(agreed.spec)
    return Terms(json.loads(program), read, name, agreed.steps, roots, (first, second), agreed.seconds)


def judged(agreed: Agreed, terms: Terms, moves: Iterable[Received], now: int) -> Game:
    """The game after all `moves`, and with the clock at `now`."""
    game = start(terms, agreed.opened)
    for received in islice(moves, MAX_MOVES):
        if game.outcome is not None:
            break
        game = followed(game, received)
    return tick(game, now)


def followed(game: Game, received: Received) -> Game:
    """The game after one more move of the record. A move that nobody signed changes nothing."""
    try:
        sender, move = opened_move(received.move)
    except Refused:
        return game
    return receive(game, sender, move, max(received.at, game.since))


def line_of(received: Received) -> bytes:
    return to_json(received) + b"\n"


def moves_from(data: bytes) -> list[Received]:
    """The moves of a record. What is behind the last whole line is one that is being written, or never was.

    Raises:
        Refused: `malformed`, `not_canonical` or `too_large`.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise Refused("too_large", f"moves: {len(data)} bytes, more than a game has")
    *lines, _ = data.split(b"\n")
    return [from_json(line, Received, limit=MAX_LINE_BYTES, what=f"moves: line {n}") for n, line in enumerate(lines, 1)]

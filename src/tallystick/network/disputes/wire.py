"""What goes over a channel between the host of a dispute and a seat.

    frame = 4 bytes of length, big-endian | that many bytes

    host                                            seat
    Greeting: the terms, a nonce           ──────▶
                                           ◀──────  sealed Seating: "I am the holder of this seat's key"
    Recorded: every move so far, in order  ──────▶
                                           ◀──────  sealed moves, the same bytes as on file
    Recorded, as moves come in             ──────▶
    Ended, when somebody has lost          ──────▶

Channels are TLS 1.3. The host proves its key in the handshake, a seat in its first frame, which signs the host's nonce.
A frame's length is compared with what may come before any of it is read. Whoever is refused is told why in `Refusal`.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final, cast

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.identity import Key
from tallystick.canon.sealed import open_sealed, seal
from tallystick.errors import Refused
from tallystick.proof.dispute.phases import Terms
from tallystick.proof.dispute.record import MAX_LINE_BYTES, MAX_MOVES, Agreed, Received, Time
from tallystick.proof.dispute.referee.openings import Digest

LENGTH_BYTES: Final = 4
MAX_NEWS_BYTES: Final = MAX_LINE_BYTES + 64
"""From the host; the largest is a recorded move."""
MAX_SEATING_BYTES: Final = 512
SEATING: Final = "tallystick/dispute/seat"
CONNECT_SECONDS: Final = 10
"""For connecting and the TLS handshake, and then for the first frame of either side."""
MAX_REASON: Final = 300
UNPRINTABLE: Final = re.compile(r"[^ -~]")


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="greeting"):
    """What the game is about, how many moves it has had, and what the seat has to sign."""

    agreed: Agreed
    moves: Annotated[int, msgspec.Meta(ge=0, le=MAX_MOVES)]
    nonce: Digest


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="recorded"):
    """The next move of the record."""

    received: Received


class Ended(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ended"):
    """The game is over; `at` is the host's time."""

    at: Time


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="refused"):
    """Why the host closes the channel."""

    code: Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,40}\Z")]
    reason: Annotated[str, msgspec.Meta(pattern=r"^[ -~]{0,300}\Z")]


News = Greeting | Recorded | Ended | Refusal


class Seating(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Signed for one channel: the game, the host's key and its nonce."""

    game: Digest
    host: Digest
    nonce: Digest


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH_BYTES) + data


def length_of(head: bytes, limit: int) -> int:
    """How many bytes follow a frame's first ones.

    Raises:
        Refused: `too_large`.
    """
    size = int.from_bytes(head)
    if size > limit:
        raise Refused("too_large", f"frame: says to have {size} bytes, at most {limit} are admitted here")
    return size


def news_from(data: bytes) -> News:
    """Raises Refused: `too_large`, `malformed` or `not_canonical`."""
    return from_json(data, cast(Callable[..., News], News), limit=MAX_NEWS_BYTES, what="message of the host")


def refusal_of(refused: Refused) -> Refusal:
    return Refusal(refused.code, UNPRINTABLE.sub("?", refused.reason)[:MAX_REASON])


def sealed_seating(key: Key, terms: Terms, host: str, nonce: bytes) -> bytes:
    return seal(key, SEATING, to_json(Seating(terms.name, bytes.fromhex(host), nonce)))


def seat_of(data: bytes, terms: Terms, host: str, nonce: bytes) -> int:
    """The seat that a first frame is signed for.

    Raises:
        Refused: not a signed seating, or for another game, host or channel, or of a key that has no seat.
    """
    opened = open_sealed(data, SEATING, limit=MAX_SEATING_BYTES, what="seating")
    if opened.sender not in terms.identities:
        raise Refused("no_seat", f"seating: {opened.sender[:12]} has no seat in this game")
    if opened.payload != to_json(Seating(terms.name, bytes.fromhex(host), nonce)):
        raise Refused("wrong_seating", "seating: was signed for another game, host or channel")
    return terms.identities.index(opened.sender)

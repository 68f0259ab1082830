"""What the parties of a dispute say: moves, each an answer to what the game asks, signed by whoever makes it.

    sealed move = identity | signature | {"game":...,"round":n,"seat":n,"answer":{"kind":...}}

Byte strings inside are base64. Everything is bounded before it is looked at.
"""

from typing import Annotated, Final

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import digest
from tallystick.canon.identity import Key
from tallystick.canon.sealed import open_sealed, seal
from tallystick.errors import Refused
from tallystick.proof.dispute.referee.openings import CHUNK_BYTES, Digest, Opening, Path

MAX_MOVE_BYTES: Final = 2**17
DOMAIN: Final = "tallystick/dispute/move"
FANOUT: Final = 16
"""Points, or nodes of a tree, that one answer gives."""
PARTS: Final = 32
"""Partial sums that one answer gives."""
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step did: state root after it, root of its summed contribution, and its loss in units of 2**-20."""

    state: Digest
    total: Digest
    loss: Int64


def first_link(spec: bytes, initial_root: bytes) -> bytes:
    """What every run of this specification starts from."""
    return digest("tallystick/dispute/start", spec, initial_root)


def next_link(link: bytes, entry: Entry) -> bytes:
    """Stands for all steps up to this one."""
    return digest("tallystick/dispute/step", link, entry.state, entry.total, entry.loss.to_bytes(8, "big", signed=True))


class Links(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="links"):
    """The links after some steps."""

    links: Annotated[list[Digest], msgspec.Meta(max_length=FANOUT - 1)]


class Entries(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="entries"):
    """The disputed step's entry; and the entry before it with the link before that, unless it is the first."""

    entry: Entry
    before: Entry | None
    link: Digest | None


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="claim"):
    """The entry of the last step, and the link before it."""

    link: Digest
    entry: Entry


class Nodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="nodes"):
    """Nodes of a tree."""

    nodes: Annotated[list[Digest], msgspec.Meta(max_length=FANOUT)]


class StepRoot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="step"):
    """The root over all lines of the step, and that the disputed tensor, with this root over its chunks, is in it."""

    root: Digest
    tensor: Digest
    path: Path


class Chunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="chunk"):
    """A chunk of the disputed line."""

    data: Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES)]


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="totals"):
    """Sums of ranges of an element's terms, modulo 2**64."""

    totals: Annotated[list[Int64], msgspec.Meta(max_length=PARTS)]


class Openings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="openings"):
    """Chunks of agreed lines; `witness` is the term that attains a claimed extreme, -1 if none is needed."""

    openings: Annotated[list[Opening], msgspec.Meta(max_length=16)]
    witness: Int64 = -1


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="bound"):
    """That an input is under the agreed root."""

    path: Path


Answer = Claim | Links | Entries | Nodes | StepRoot | Chunk | Totals | Openings | Bound


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer of one party."""

    game: Digest
    round: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    seat: Annotated[int, msgspec.Meta(ge=0, le=1)]
    answer: Answer


def sealed_move(key: Key, move: Move) -> bytes:
    return seal(key, DOMAIN, to_json(move))


def opened_move(data: bytes) -> tuple[str, Move | Refused]:
    """Who signed a move, and the move; or why there is none in what they signed, which is theirs to answer for.

    Raises:
        Refused: nobody can be held to these bytes: too large, truncated or with a bad signature.
    """
    opened = open_sealed(data, DOMAIN, limit=MAX_MOVE_BYTES, what="move")
    try:
        return opened.sender, from_json(opened.payload, Move, limit=MAX_MOVE_BYTES, what="move")
    except Refused as refusal:
        return opened.sender, refusal

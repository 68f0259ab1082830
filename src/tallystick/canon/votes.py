"""What validators sign when they agree, and what it proves when one of them signs two things that exclude each other.

A vote names chain (through the domain it is sealed in), epoch, kind (the tag), view, height and digest, so a signature
given for one of these says nothing for another. Votes live here, below both the engine that counts them and the
ledger that slashes for them: a pair of conflicting votes convinces anybody, with no other knowledge.
"""

import functools
from typing import Annotated, Final

import msgspec

from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.canon.identity import Key
from tallystick.canon.sealed import Opened, open_sealed, seal
from tallystick.errors import Refused

MAX_VOTE_BYTES: Final = 512
"""One sealed vote; it takes about 170."""
REMEMBERED_VOTES: Final = 32_768
"""Votes whose signature was checked lately. One vote comes many times: alone, in certificates, in view changes."""

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Base of all messages of consensus: only what msgspec needs to tell them apart."""

    epoch: Count


class PrePrepare(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="pre_prepare"):
    """The primary's vote: this block, at this height, in this view."""

    view: Count
    height: Count
    digest: Digest


class Prepare(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="prepare"):
    """A backup accepted that proposal and will accept no other for this view and height."""

    view: Count
    height: Count
    digest: Digest


class Commit(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="commit"):
    """The sender saw a quorum behind that proposal."""

    view: Count
    height: Count
    digest: Digest


class Checkpoint(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="checkpoint"):
    """The sender has executed everything up to `height`, and `digest` names what came out."""

    height: Count
    digest: Digest


Vote = PrePrepare | Prepare | Commit | Checkpoint
_VOTE: Final[msgspec.msgpack.Decoder[Vote]] = msgspec.msgpack.Decoder(Vote)


def vote_domain(chain: str) -> str:
    """The domain in which every message of a chain's consensus is sealed."""
    return f"tallystick/{chain}/consensus"


def seal_vote(key: Key, chain: str, vote: Vote) -> bytes:
    return seal(key, vote_domain(chain), to_bytes(vote))


def open_authentic(chain: str, sealed: bytes, *, limit: int) -> Opened:
    """Checks size and signature of a message of consensus; the payload is still unparsed.

    Raises:
        Refused: `too_large`, `truncated` or `bad_signature`.
    """
    if len(sealed) <= MAX_VOTE_BYTES:
        return _open_small(chain, sealed)
    return open_sealed(sealed, vote_domain(chain), limit=limit, what="message")


@functools.lru_cache(REMEMBERED_VOTES)
def _open_small(chain: str, sealed: bytes) -> Opened:
    return open_sealed(sealed, vote_domain(chain), limit=MAX_VOTE_BYTES, what="message")


def open_vote(chain: str, sealed: bytes) -> tuple[str, Vote]:
    """Checks a sealed vote; whether its sender has one is for the caller.

    Raises:
        Refused: `too_large`, `truncated`, `bad_signature` or `malformed`.
    """
    opened = open_authentic(chain, sealed, limit=MAX_VOTE_BYTES)
    vote: Vote = from_bytes(opened.payload, _VOTE, limit=MAX_VOTE_BYTES, what="vote")
    return opened.sender, vote


def culprit(chain: str, first: bytes, second: bytes) -> tuple[str, Vote]:
    """Who signed both votes, although they exclude each other; and the first of them.

    Raises:
        Refused: `no_conflict`, or what `open_vote` raises.
    """
    (sender, one), (other, two) = open_vote(chain, first), open_vote(chain, second)
    if sender != other or slot(one) != slot(two) or one.digest == two.digest:
        raise Refused("no_conflict", "the two votes do not exclude each other: they prove nothing against anybody")
    return sender, one


def slot(vote: Vote) -> tuple[str, int, int, int]:
    """What an honest validator votes on once: kind, epoch, view and height. A checkpoint has no view."""
    view = 0 if isinstance(vote, Checkpoint) else vote.view
    return type(vote).__name__, vote.epoch, view, vote.height

"""What replicas say to one another, and the block they say it about.

Every message is MessagePack, sealed with its sender's key in the domain of the chain. Votes are in `canon.votes`; the
rest carries votes, blocks and transactions to where they are needed.
"""

from typing import Annotated, Final

import msgspec

from tallystick.canon.chunks import CHUNK_BYTES, MAX_CHUNKS, MAX_MANIFEST_BYTES
from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.canon.identity import Key
from tallystick.canon.sealed import seal
from tallystick.canon.votes import (
    MAX_VOTE_BYTES,
    Checkpoint,
    Commit,
    Count,
    Digest,
    Message,
    Prepare,
    PrePrepare,
    Vote,
    open_authentic,
    open_vote,
    vote_domain,
)
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    MAX_BLOCKS_PER_ANSWER,
    MAX_CERTIFICATE_BYTES,
    MAX_CHECKPOINT_BYTES,
    MAX_FRAME_BYTES,
    MAX_INTERVAL,
    MAX_PROOFS_PER_ANSWER,
    MAX_TRANSACTION_BYTES,
    MAX_VALIDATORS,
    MAX_VIEW_CHANGE_BYTES,
)
from tallystick.errors import Refused

TransactionBytes = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_TRANSACTION_BYTES)]
BlockBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_BLOCK_BYTES)]
VoteBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_VOTE_BYTES)]
ProofBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_CHECKPOINT_BYTES)]
Identity = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
NOBODY: Final = ""


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    height: Count
    time_ms: Count
    """The proposer's clock. The block's own time is this or its predecessor's, whichever is later."""
    proposer: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    """Who made the block; another primary may propose it again in a later view. Nobody made a null block."""
    transactions: Annotated[list[TransactionBytes], msgspec.Meta(max_length=MAX_BLOCK_TRANSACTIONS)]


class CheckpointContent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What executing everything up to a height gave: all that somebody who starts there has to know."""

    epoch: Count
    start: Count
    """Of that epoch."""
    since: Count
    """The checkpoint at which the epoch's validators took office: no change of validators can be left out."""
    height: Count
    head: Digest
    """Names the chain up to here."""
    time_ms: Count
    root: Digest
    """Of the application's snapshot."""
    validators: Annotated[list[Identity], msgspec.Meta(min_length=1, max_length=MAX_VALIDATORS)]
    """Who agrees on the heights after this one."""


class StableCheckpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A checkpoint with the sealed votes of a quorum."""

    content: Annotated[bytes, msgspec.Meta(max_length=4096)]
    votes: Annotated[list[VoteBytes], msgspec.Meta(max_length=MAX_VALIDATORS)]


class Proposal(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="proposal"):
    """A sealed `PrePrepare` with the block it names. Apart, so that the vote stays small wherever it is kept."""

    pre_prepare: VoteBytes
    block: BlockBytes


class Forward(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="forward"):
    """Transactions that wait to be ordered."""

    again: bool
    """Whether they have waited for long, so that who takes them for settled should look once more."""
    transactions: Annotated[list[TransactionBytes], msgspec.Meta(max_length=MAX_BLOCK_TRANSACTIONS)]


class Status(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="status"):
    """Where the sender stands. Its epoch may be any."""

    view: Count
    active: bool
    """Whether it takes part in that view, or waits for its primary to open it."""
    height: Count
    """Of the last block it delivered."""
    stable: Count
    """Of the last stable checkpoint that it can prove."""


class Fetch(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="fetch"):
    """Asks for the blocks from `first` to `last`, both included; the answer may stop earlier."""

    first: Count
    last: Count


class CertifiedBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    block: BlockBytes
    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_CERTIFICATE_BYTES)]


class Blocks(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="blocks"):
    """The answer to a `Fetch`: consecutive blocks, each with its certificate."""

    blocks: Annotated[list[CertifiedBlock], msgspec.Meta(max_length=MAX_BLOCKS_PER_ANSWER)]


class FetchBody(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="fetch_body"):
    """Asks for an undecided block that a new view proposes again and the sender does not have."""

    height: Count
    digest: Digest


class Body(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="body"):
    block: BlockBytes


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A quorum stood behind `digest` at `height` in `view`; `votes` prove it (`certificate.verify_claim`)."""

    height: Count
    view: Count
    digest: Digest
    votes: Annotated[list[VoteBytes], msgspec.Meta(max_length=MAX_VALIDATORS)]


class ViewChange(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="view_change"):
    """The sender left all views below `view`, and shows everything it may have helped to decide."""

    view: Count
    base: Count
    """Its low watermark: the last stable checkpoint, or the start of the epoch."""
    checkpoint: ProofBytes
    """Proof of `base`; empty at the start of the epoch, which nobody in it doubts."""
    claims: Annotated[list[Claim], msgspec.Meta(max_length=2 * MAX_INTERVAL)]
    """In order of height, each above `base`."""


class NewView(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="new_view"):
    """The primary of `view` opens it: a quorum's view changes, and what follows from them."""

    view: Count
    view_changes: Annotated[
        list[Annotated[bytes, msgspec.Meta(max_length=MAX_VIEW_CHANGE_BYTES)]], msgspec.Meta(max_length=MAX_VALIDATORS)
    ]
    pre_prepares: Annotated[list[VoteBytes], msgspec.Meta(max_length=2 * MAX_INTERVAL)]


class Checkpoints(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="checkpoints"):
    """Stable checkpoints for one who trails: those at which the validators changed, in order, then the last one."""

    proofs: Annotated[list[ProofBytes], msgspec.Meta(min_length=1, max_length=MAX_PROOFS_PER_ANSWER)]


class FetchChunk(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="fetch_chunk"):
    """Asks for a part of the snapshot at a stable checkpoint. With index 0 comes the manifest."""

    height: Count
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CHUNKS)]


class Chunk(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="chunk"):
    height: Count
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CHUNKS)]
    manifest: Annotated[bytes, msgspec.Meta(max_length=MAX_MANIFEST_BYTES)]
    data: Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES)]
    """Empty, with an empty manifest, if the sender does not hold that snapshot (any more)."""


Following = Status | Fetch | Blocks | Checkpoints | FetchChunk | Chunk | Forward
"""What is understood between nodes of different epochs."""
Demand = Fetch | FetchChunk | FetchBody
"""What is answered within the sender's share (`serving`)."""
OnChannel = Proposal | PrePrepare | Prepare | Commit | Checkpoint | FetchBody | Body | ViewChange | NewView | Following
_ON_CHANNEL: Final[msgspec.msgpack.Decoder[OnChannel]] = msgspec.msgpack.Decoder(OnChannel)


def encode_block(block: Block) -> bytes:
    return to_bytes(block)


def decode_block(data: bytes) -> Block:
    """Raises `Refused`: `too_large` or `malformed`."""
    block: Block = from_bytes(data, Block, limit=MAX_BLOCK_BYTES, what="block")
    return block


def null_block(height: int) -> bytes:
    """What fills a height that nobody can have decided. One encoding, nobody's signature."""
    return encode_block(Block(height, 0, NOBODY, []))


def seal_message(key: Key, group: Group, message: Message) -> bytes:
    return seal(key, vote_domain(group.chain), to_bytes(message))


def open_message(group: Group, data: bytes) -> tuple[str, OnChannel]:
    """Checks size, signature and form of what came over a channel, in this order.

    Raises:
        Refused: `too_large`, `truncated`, `bad_signature` or `malformed`.
    """
    opened = open_authentic(group.chain, data, limit=MAX_FRAME_BYTES)
    message: OnChannel = from_bytes(opened.payload, _ON_CHANNEL, limit=MAX_FRAME_BYTES, what="message")
    return opened.sender, message


def open_view_change(group: Group, data: bytes) -> tuple[str, ViewChange]:
    """The same for a sealed view change inside a new view; and that it is of this epoch, from one of its validators.

    Raises:
        Refused: as `open_message`; `not_a_view_change`, `not_a_validator` or `wrong_epoch`.
    """
    sender, message = open_message(group, data)
    if not isinstance(message, ViewChange):
        raise Refused("not_a_view_change", f"{sender[:12]}'s message is something else than a view change")
    check_member(group, sender, message)
    return sender, message


def open_member_vote(group: Group, data: bytes) -> tuple[str, Vote]:
    """A sealed vote inside another message or in a certificate, by a validator of `group` in its epoch.

    Raises:
        Refused: what `open_vote` raises, `not_a_validator` or `wrong_epoch`.
    """
    sender, vote = open_vote(group.chain, data)
    check_member(group, sender, vote)
    return sender, vote


def check_member(group: Group, sender: str, message: Message) -> None:
    if sender not in group.validators:
        raise Refused("not_a_validator", f"{sender[:12]} is no validator of epoch {group.epoch}")
    if message.epoch != group.epoch:
        raise Refused("wrong_epoch", f"{sender[:12]}'s message is of epoch {message.epoch}, ours is {group.epoch}")

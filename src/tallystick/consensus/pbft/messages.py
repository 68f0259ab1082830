"""What replicas say to one another, and the block they say it about.

Every message is MessagePack, sealed with its sender's key in the domain of the chain. A vote names epoch, type (the
tag), view, height and digest, so a signature given for one of these says nothing for another.
"""

from typing import Annotated

import msgspec

from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.canon.identity import Key
from tallystick.canon.sealed import Opened, open_sealed, seal
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    MAX_BLOCKS_PER_ANSWER,
    MAX_CERTIFICATE_BYTES,
    MAX_FRAME_BYTES,
    MAX_TRANSACTION_BYTES,
    MAX_VOTE_BYTES,
)
from tallystick.errors import Refused

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
TransactionBytes = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_TRANSACTION_BYTES)]
BlockBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_BLOCK_BYTES)]


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    height: Count
    parent: Digest
    time_ms: Count
    proposer: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """Who made the block; another primary may propose it again in a later view."""
    transactions: Annotated[list[TransactionBytes], msgspec.Meta(max_length=MAX_BLOCK_TRANSACTIONS)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Base of all messages: only what msgspec needs to tell them apart."""

    epoch: Count


class PrePrepare(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="pre_prepare"):
    """The primary's vote: this block, at this height, in this view. Travels sealed inside a `Proposal`."""

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


class Proposal(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="proposal"):
    """A sealed `PrePrepare` with the block it names. Apart, so that the vote stays small wherever it is kept."""

    pre_prepare: Annotated[bytes, msgspec.Meta(max_length=MAX_VOTE_BYTES)]
    block: BlockBytes


class Forward(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="forward"):
    """Transactions that wait to be ordered."""

    transactions: Annotated[list[TransactionBytes], msgspec.Meta(max_length=MAX_BLOCK_TRANSACTIONS)]


class Status(Message, frozen=True, forbid_unknown_fields=True, array_like=True, tag="status"):
    """Where the sender stands: its view, and the height of the last block it delivered."""

    view: Count
    height: Count


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


Vote = PrePrepare | Prepare | Commit
OnChannel = Proposal | Prepare | Commit | Forward | Status | Fetch | Blocks


def encode_block(block: Block) -> bytes:
    return to_bytes(block)


def decode_block(data: bytes) -> Block:
    """Raises `Refused`: `too_large` or `malformed`."""
    block: Block = from_bytes(data, Block, limit=MAX_BLOCK_BYTES, what="block")
    return block


def seal_message(key: Key, group: Group, message: Message) -> bytes:
    return seal(key, group.domain, to_bytes(message))


def open_message(group: Group, data: bytes) -> tuple[str, OnChannel]:
    """Checks what came over a channel: size, signature, membership, form, epoch, in this order.

    Raises:
        Refused: `too_large`, `truncated`, `bad_signature`, `not_a_validator`, `malformed` or `wrong_epoch`.
    """
    opened = _open(group, data, MAX_FRAME_BYTES)
    message: OnChannel = from_bytes(opened.payload, OnChannel, limit=MAX_FRAME_BYTES, what="message")
    _check_epoch(group, message)
    return opened.sender, message


def open_vote(group: Group, data: bytes) -> tuple[str, Vote]:
    """The same for a sealed vote inside another message or in a certificate."""
    opened = _open(group, data, MAX_VOTE_BYTES)
    vote: Vote = from_bytes(opened.payload, Vote, limit=MAX_VOTE_BYTES, what="vote")
    _check_epoch(group, vote)
    return opened.sender, vote


def _open(group: Group, data: bytes, limit: int) -> Opened:
    opened = open_sealed(data, group.domain, limit=limit, what="consensus message")
    if opened.sender not in group.validators:
        raise Refused("not_a_validator", f"{opened.sender[:12]} is no validator of epoch {group.epoch}")
    return opened


def _check_epoch(group: Group, message: Message) -> None:
    if message.epoch != group.epoch:
        raise Refused("wrong_epoch", f"message of epoch {message.epoch}, ours is {group.epoch}")

"""What the messages of ABCI 2.0 (`messages`) are made of, field by field.

From proto/tendermint/abci/types.proto, types/params.proto, types/validator.proto and crypto/{keys,proof}.proto of
CometBFT v0.38.25; the names are theirs.
"""

# ruff: noqa: RUF009 -- the calls in these dataclasses declare fields, as dataclasses.field does

from dataclasses import dataclass
from enum import IntEnum

from tallystick.consensus.cometbft.protobuf import (
    Kind,
    boolean,
    bytes_,
    int32,
    int64,
    message,
    messages,
    one_of_bytes,
    repeated,
    string,
    uint32,
    uint64,
)


@dataclass(frozen=True)
class Timestamp:
    seconds: int = int64(1)
    """Since the Unix epoch."""
    nanos: int = int32(2)


@dataclass(frozen=True)
class Duration:
    seconds: int = int64(1)
    nanos: int = int32(2)


@dataclass(frozen=True)
class BlockParams:
    max_bytes: int = int64(1)
    max_gas: int = int64(2)


@dataclass(frozen=True)
class EvidenceParams:
    max_age_num_blocks: int = int64(1)
    max_age_duration: Duration | None = message(2, Duration)
    max_bytes: int = int64(3)


@dataclass(frozen=True)
class ValidatorParams:
    pub_key_types: tuple[str, ...] = repeated(1, Kind.STRING)


@dataclass(frozen=True)
class VersionParams:
    app: int = uint64(1)


@dataclass(frozen=True)
class ABCIParams:
    vote_extensions_enable_height: int = int64(1)


@dataclass(frozen=True)
class ConsensusParams:
    block: BlockParams | None = message(1, BlockParams)
    evidence: EvidenceParams | None = message(2, EvidenceParams)
    validator: ValidatorParams | None = message(3, ValidatorParams)
    version: VersionParams | None = message(4, VersionParams)
    abci: ABCIParams | None = message(5, ABCIParams)


@dataclass(frozen=True)
class PublicKey:
    """A oneof: exactly one is set."""

    ed25519: bytes | None = one_of_bytes(1)
    secp256k1: bytes | None = one_of_bytes(2)


@dataclass(frozen=True)
class ValidatorUpdate:
    pub_key: PublicKey | None = message(1, PublicKey)
    power: int = int64(2)
    """0 removes the validator."""


@dataclass(frozen=True)
class Validator:
    address: bytes = bytes_(1)
    """The first 20 bytes of the SHA-256 of the public key."""
    power: int = int64(3)


@dataclass(frozen=True)
class VoteInfo:
    validator: Validator | None = message(1, Validator)
    block_id_flag: int = int32(3)
    """1 absent, 2 for the block, 3 for nil."""


@dataclass(frozen=True)
class ExtendedVoteInfo:
    validator: Validator | None = message(1, Validator)
    vote_extension: bytes = bytes_(3)
    extension_signature: bytes = bytes_(4)
    block_id_flag: int = int32(5)


@dataclass(frozen=True)
class CommitInfo:
    round: int = int32(1)
    votes: tuple[VoteInfo, ...] = messages(2, VoteInfo)


@dataclass(frozen=True)
class ExtendedCommitInfo:
    round: int = int32(1)
    votes: tuple[ExtendedVoteInfo, ...] = messages(2, ExtendedVoteInfo)


class MisbehaviorType(IntEnum):
    UNKNOWN = 0
    DUPLICATE_VOTE = 1
    LIGHT_CLIENT_ATTACK = 2


@dataclass(frozen=True)
class Misbehavior:
    type: int = int32(1)
    validator: Validator | None = message(2, Validator)
    height: int = int64(3)
    time: Timestamp | None = message(4, Timestamp)
    total_voting_power: int = int64(5)


@dataclass(frozen=True)
class EventAttribute:
    key: str = string(1)
    value: str = string(2)
    index: bool = boolean(3)


@dataclass(frozen=True)
class Event:
    type: str = string(1)
    attributes: tuple[EventAttribute, ...] = messages(2, EventAttribute)


@dataclass(frozen=True)
class ExecTxResult:
    code: int = uint32(1)
    data: bytes = bytes_(2)
    log: str = string(3)
    info: str = string(4)
    gas_wanted: int = int64(5)
    gas_used: int = int64(6)
    events: tuple[Event, ...] = messages(7, Event)
    codespace: str = string(8)


@dataclass(frozen=True)
class ProofOp:
    type: str = string(1)
    key: bytes = bytes_(2)
    data: bytes = bytes_(3)


@dataclass(frozen=True)
class ProofOps:
    ops: tuple[ProofOp, ...] = messages(1, ProofOp)


@dataclass(frozen=True)
class Snapshot:
    height: int = uint64(1)
    format: int = uint32(2)
    chunks: int = uint32(3)
    hash: bytes = bytes_(4)
    metadata: bytes = bytes_(5)

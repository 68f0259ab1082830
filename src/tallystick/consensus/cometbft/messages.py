"""The messages of ABCI 2.0 as CometBFT 0.38 writes them, field by field.

From proto/tendermint/abci/types.proto of CometBFT v0.38.25; the names of messages and fields are theirs. Enums are
plain numbers with the constants beside them. 0.39 and later add two requests for mempools in the application, which
are refused here as unknown.
"""

# ruff: noqa: RUF009 -- the calls in these dataclasses declare fields, as dataclasses.field does

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from tallystick.consensus.cometbft.protobuf import (
    Kind,
    boolean,
    bytes_,
    decode,
    delimited,
    encode,
    int32,
    int64,
    message,
    messages,
    repeated,
    split_field,
    string,
    uint32,
    uint64,
)
from tallystick.consensus.cometbft.values import (
    CommitInfo,
    ConsensusParams,
    Event,
    ExecTxResult,
    ExtendedCommitInfo,
    Misbehavior,
    ProofOps,
    Snapshot,
    Timestamp,
    ValidatorUpdate,
)
from tallystick.errors import Refused

# ---- requests


@dataclass(frozen=True)
class RequestEcho:
    message: str = string(1)


@dataclass(frozen=True)
class RequestFlush:
    pass


@dataclass(frozen=True)
class RequestInfo:
    version: str = string(1)
    block_version: int = uint64(2)
    p2p_version: int = uint64(3)
    abci_version: str = string(4)


@dataclass(frozen=True)
class RequestInitChain:
    time: Timestamp | None = message(1, Timestamp)
    chain_id: str = string(2)
    consensus_params: ConsensusParams | None = message(3, ConsensusParams)
    validators: tuple[ValidatorUpdate, ...] = messages(4, ValidatorUpdate)
    app_state_bytes: bytes = bytes_(5)
    initial_height: int = int64(6)


@dataclass(frozen=True)
class RequestQuery:
    data: bytes = bytes_(1)
    path: str = string(2)
    height: int = int64(3)
    prove: bool = boolean(4)


class CheckTxType(IntEnum):
    NEW = 0
    RECHECK = 1


@dataclass(frozen=True)
class RequestCheckTx:
    tx: bytes = bytes_(1)
    type: int = int32(2)


@dataclass(frozen=True)
class RequestCommit:
    pass


@dataclass(frozen=True)
class RequestListSnapshots:
    pass


@dataclass(frozen=True)
class RequestOfferSnapshot:
    snapshot: Snapshot | None = message(1, Snapshot)
    app_hash: bytes = bytes_(2)
    """Checked by CometBFT's light client; the only thing here that is not a stranger's word."""


@dataclass(frozen=True)
class RequestLoadSnapshotChunk:
    height: int = uint64(1)
    format: int = uint32(2)
    chunk: int = uint32(3)


@dataclass(frozen=True)
class RequestApplySnapshotChunk:
    index: int = uint32(1)
    chunk: bytes = bytes_(2)
    sender: str = string(3)


@dataclass(frozen=True)
class RequestPrepareProposal:
    max_tx_bytes: int = int64(1)
    txs: tuple[bytes, ...] = repeated(2, Kind.BYTES)
    local_last_commit: ExtendedCommitInfo | None = message(3, ExtendedCommitInfo)
    misbehavior: tuple[Misbehavior, ...] = messages(4, Misbehavior)
    height: int = int64(5)
    time: Timestamp | None = message(6, Timestamp)
    next_validators_hash: bytes = bytes_(7)
    proposer_address: bytes = bytes_(8)


@dataclass(frozen=True)
class RequestProcessProposal:
    txs: tuple[bytes, ...] = repeated(1, Kind.BYTES)
    proposed_last_commit: CommitInfo | None = message(2, CommitInfo)
    misbehavior: tuple[Misbehavior, ...] = messages(3, Misbehavior)
    hash: bytes = bytes_(4)
    height: int = int64(5)
    time: Timestamp | None = message(6, Timestamp)
    next_validators_hash: bytes = bytes_(7)
    proposer_address: bytes = bytes_(8)


@dataclass(frozen=True)
class RequestExtendVote:
    hash: bytes = bytes_(1)
    height: int = int64(2)
    time: Timestamp | None = message(3, Timestamp)
    txs: tuple[bytes, ...] = repeated(4, Kind.BYTES)
    proposed_last_commit: CommitInfo | None = message(5, CommitInfo)
    misbehavior: tuple[Misbehavior, ...] = messages(6, Misbehavior)
    next_validators_hash: bytes = bytes_(7)
    proposer_address: bytes = bytes_(8)


@dataclass(frozen=True)
class RequestVerifyVoteExtension:
    hash: bytes = bytes_(1)
    validator_address: bytes = bytes_(2)
    height: int = int64(3)
    vote_extension: bytes = bytes_(4)


@dataclass(frozen=True)
class RequestFinalizeBlock:
    txs: tuple[bytes, ...] = repeated(1, Kind.BYTES)
    decided_last_commit: CommitInfo | None = message(2, CommitInfo)
    misbehavior: tuple[Misbehavior, ...] = messages(3, Misbehavior)
    hash: bytes = bytes_(4)
    height: int = int64(5)
    time: Timestamp | None = message(6, Timestamp)
    next_validators_hash: bytes = bytes_(7)
    proposer_address: bytes = bytes_(8)


# ---- responses


@dataclass(frozen=True)
class ResponseException:
    error: str = string(1)


@dataclass(frozen=True)
class ResponseEcho:
    message: str = string(1)


@dataclass(frozen=True)
class ResponseFlush:
    pass


@dataclass(frozen=True)
class ResponseInfo:
    data: str = string(1)
    version: str = string(2)
    app_version: int = uint64(3)
    last_block_height: int = int64(4)
    last_block_app_hash: bytes = bytes_(5)


@dataclass(frozen=True)
class ResponseInitChain:
    consensus_params: ConsensusParams | None = message(1, ConsensusParams)
    validators: tuple[ValidatorUpdate, ...] = messages(2, ValidatorUpdate)
    app_hash: bytes = bytes_(3)


@dataclass(frozen=True)
class ResponseQuery:
    code: int = uint32(1)
    log: str = string(3)
    info: str = string(4)
    index: int = int64(5)
    key: bytes = bytes_(6)
    value: bytes = bytes_(7)
    proof_ops: ProofOps | None = message(8, ProofOps)
    height: int = int64(9)
    codespace: str = string(10)


@dataclass(frozen=True)
class ResponseCheckTx:
    code: int = uint32(1)
    data: bytes = bytes_(2)
    log: str = string(3)
    info: str = string(4)
    gas_wanted: int = int64(5)
    gas_used: int = int64(6)
    events: tuple[Event, ...] = messages(7, Event)
    codespace: str = string(8)


@dataclass(frozen=True)
class ResponseCommit:
    retain_height: int = int64(3)


@dataclass(frozen=True)
class ResponseListSnapshots:
    snapshots: tuple[Snapshot, ...] = messages(1, Snapshot)


class Offer(IntEnum):
    UNKNOWN = 0
    ACCEPT = 1
    ABORT = 2
    REJECT = 3
    REJECT_FORMAT = 4
    REJECT_SENDER = 5


@dataclass(frozen=True)
class ResponseOfferSnapshot:
    result: int = int32(1)


@dataclass(frozen=True)
class ResponseLoadSnapshotChunk:
    chunk: bytes = bytes_(1)


class Applied(IntEnum):
    UNKNOWN = 0
    ACCEPT = 1
    ABORT = 2
    RETRY = 3
    RETRY_SNAPSHOT = 4
    REJECT_SNAPSHOT = 5


@dataclass(frozen=True)
class ResponseApplySnapshotChunk:
    result: int = int32(1)
    refetch_chunks: tuple[int, ...] = repeated(2, Kind.UINT32)
    reject_senders: tuple[str, ...] = repeated(3, Kind.STRING)


@dataclass(frozen=True)
class ResponsePrepareProposal:
    txs: tuple[bytes, ...] = repeated(1, Kind.BYTES)


class Verdict(IntEnum):
    """On a proposal, and on a vote extension."""

    UNKNOWN = 0
    ACCEPT = 1
    REJECT = 2


@dataclass(frozen=True)
class ResponseProcessProposal:
    status: int = int32(1)


@dataclass(frozen=True)
class ResponseExtendVote:
    vote_extension: bytes = bytes_(1)


@dataclass(frozen=True)
class ResponseVerifyVoteExtension:
    status: int = int32(1)


@dataclass(frozen=True)
class ResponseFinalizeBlock:
    events: tuple[Event, ...] = messages(1, Event)
    tx_results: tuple[ExecTxResult, ...] = messages(2, ExecTxResult)
    validator_updates: tuple[ValidatorUpdate, ...] = messages(3, ValidatorUpdate)
    consensus_param_updates: ConsensusParams | None = message(4, ConsensusParams)
    app_hash: bytes = bytes_(5)


# ---- the two oneofs that everything travels in

REQUESTS: Final[dict[int, type[Any]]] = {
    1: RequestEcho,
    2: RequestFlush,
    3: RequestInfo,
    5: RequestInitChain,
    6: RequestQuery,
    8: RequestCheckTx,
    11: RequestCommit,
    12: RequestListSnapshots,
    13: RequestOfferSnapshot,
    14: RequestLoadSnapshotChunk,
    15: RequestApplySnapshotChunk,
    16: RequestPrepareProposal,
    17: RequestProcessProposal,
    18: RequestExtendVote,
    19: RequestVerifyVoteExtension,
    20: RequestFinalizeBlock,
}

RESPONSES: Final[dict[int, type[Any]]] = {
    1: ResponseException,
    2: ResponseEcho,
    3: ResponseFlush,
    4: ResponseInfo,
    6: ResponseInitChain,
    7: ResponseQuery,
    9: ResponseCheckTx,
    12: ResponseCommit,
    13: ResponseListSnapshots,
    14: ResponseOfferSnapshot,
    15: ResponseLoadSnapshotChunk,
    16: ResponseApplySnapshotChunk,
    17: ResponsePrepareProposal,
    18: ResponseProcessProposal,
    19: ResponseExtendVote,
    20: ResponseVerifyVoteExtension,
    21: ResponseFinalizeBlock,
}

_NUMBERS: Final = {kind: number for table in (REQUESTS, RESPONSES) for number, kind in table.items()}


def wrap(value: Any) -> bytes:
    """The bytes of the `Request` or `Response` that holds `value`."""
    return delimited(_NUMBERS[type(value)], encode(value))


def unwrap(table: dict[int, type[Any]], data: bytes) -> Any:
    """What a `Request` or `Response` holds.

    Raises:
        Refused: `malformed`, `too_many_elements` or `unknown_message`.
    """
    number, content = split_field(data)
    if number not in table:
        raise Refused("unknown_message", f"message {number}: not in ABCI 2.0 as of CometBFT 0.38; use that version")
    return decode(table[number], content)

"""Everything the network agrees on, as values that never change.

Mappings are persistent (`immutables.Map`, a hash array mapped trie), so that a new state shares all but O(log n) of
the old one, and holding on to an old state costs nothing. Bytes of a state are canonical: a mapping is written as
pairs sorted by key, so that equal states have equal bytes, whatever their history.

Invariants, kept by every rule and tested as properties:

- sum(balance) + sum(stake) + sum(escrow) + burned == minted;
- for each account, `locked` is its bonds as a validator, also of the past, plus its bonds in tasks, and never more
  than `stake`.
"""

import types
import typing
from operator import itemgetter
from typing import Any, Final, Literal

import msgspec
from immutables import Map

from tallystick.errors import Refused
from tallystick.ledger.transactions import Amount, Change, Policy

MAX_STATE_BYTES: Final = 2**30
"""Largest snapshot that is read."""
MAX_VALIDATORS: Final = 31
"""Every vote goes to everyone, so messages grow with the square."""

Phase = Literal["unassigned", "assigned", "committed", "revealed", "accepted"]
Standing = Literal["active", "suspended", "leaving", "ejected"]
Status = Literal["open", "done", "expired"]


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, gc=False):
    """What became of the last transaction executed for an account. It is part of the state so that whoever sends the
    transaction again is told, also by a validator that got the state from others, and it is never executed twice.

    Accounts and replies are many and in no cycles, so the collector is spared them (`gc=False`).
    """

    nonce: int = 0
    hash: str = ""
    code: str = ""
    height: int = 0


NO_REPLY: Final = Reply()


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True, gc=False):
    balance: Amount = 0
    stake: Amount = 0
    locked: Amount = 0
    """The part of `stake` that an office or a task holds; the rest can be withdrawn or back another task."""
    last: Reply = NO_REPLY

    @property
    def free(self) -> int:
        return self.stake - self.locked

    @property
    def nonce(self) -> int:
        """Of the last transaction executed for this account."""
        return self.last.nonce


EMPTY: Final = Account()


class Validator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    identity: str
    bond: Amount
    """What is left of the stake that it answers with for its votes and verdicts."""
    address: str
    url: str
    certificate: str


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A change of the validators that some of them want."""

    change: Change
    endorsers: tuple[str, ...]
    opened_ms: int


class Retired(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The bond of a validator that has left: it still answers with it for what it signed before."""

    identity: str
    bond: Amount
    until_ms: int


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Whose key `old` was, for as long as it answers for what it signed with it."""

    old: str
    new: str
    until_ms: int


class Worker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A worker in one task. One that has left is not listed; an ejected one stays listed so that it stays out."""

    standing: Standing
    bond: Amount
    """What it answers with in this task: the policy's stake at enrollment, less what it forfeited since."""


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A validator's verdict on one contribution."""

    validator: str
    root: str


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One micro-batch of a round, and how far it has come."""

    phase: Phase = "unassigned"
    worker: str | None = None
    deadline_ms: int | None = None
    """By when the worker must commit (phase assigned) or reveal (phase committed), in agreed time."""
    commitment: str | None = None
    root: str | None = None
    blob: str | None = None
    drawn: bool = False
    """Whether the audit draw asked for it: revealed and drawn is under audit, accepted and drawn was audited."""
    verdicts: tuple[Vote, ...] = ()


class Attestation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    validator: str
    root: str
    total: str
    loss: int

    @property
    def result(self) -> tuple[str, str, int]:
        return self.root, self.total, self.loss


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One training step in progress."""

    step: int
    beacon: bytes
    """Digest of the block that opened the round, which keys its first deal."""
    opened_ms: int
    assignments: tuple[Assignment, ...]
    """Indexed by micro-batch."""
    due_ms: int | None = None
    """The earliest deadline among the assignments."""
    attestations: tuple[Attestation, ...] = ()

    @property
    def drawn(self) -> tuple[int, ...]:
        """Micro-batches that validators are asked to re-run, or have re-run, as the round stands now."""
        return tuple(index for index, entry in enumerate(self.assignments) if entry.drawn)

    @property
    def settled(self) -> bool:
        """Whether every contribution is accepted, so that the step can be attested."""
        return all(entry.phase == "accepted" for entry in self.assignments)


class StepRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What is kept of a finished round: enough to catch up, and to assemble a proof."""

    root: str
    total: str
    loss: int


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    id: str
    client: str
    spec: str
    initial_root: str
    root: str
    """State root before step `step`."""
    steps: int
    micro_batches: int
    policy: Policy
    reward: Amount
    escrow: Amount
    """What is left of `reward`."""
    opened_ms: int
    status: Status = "open"
    step: int = 0
    """The step in progress, which is also the number of finished ones."""
    workers: Map[str, Worker] = Map()
    round: Round | None = None
    history: tuple[StepRecord, ...] = ()

    @property
    def expires_ms(self) -> int:
        return self.opened_ms + self.policy.expires_ms

    @property
    def active(self) -> list[str]:
        """Workers that can be given work, in the order of their identities."""
        return sorted(identity for identity, worker in self.workers.items() if worker.standing == "active")


class Anchored(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Who put a digest on the ledger first, and when."""

    identity: str
    height: int
    time_ms: int
    number: int
    """How many anchors there were before: which of two was first, even within a block."""


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    chain: str
    height: int
    time_ms: int
    accounts: Map[str, Account]
    tasks: Map[str, Task]
    open_tasks: tuple[str, ...]
    """Tasks with status open, in the order in which they were opened; only these have deadlines."""
    validators: tuple[Validator, ...]
    minted: Amount
    burned: Amount
    anchors: Map[str, Anchored] = Map()
    """By the digest that was anchored."""
    events: int = 0
    """How many events there were so far, so that each has the same number wherever it is stored."""
    proposals: tuple[Proposal, ...] = ()
    retired: tuple[Retired, ...] = ()
    rotations: tuple[Rotation, ...] = ()
    culprits: tuple[str, ...] = ()
    """Identities that were slashed for conflicting votes: never again validators."""
    ended_tasks: tuple[str, ...] = ()
    """The other tasks, in the order in which they ended: whichever ended first is forgotten first."""

    def is_validator(self, identity: str) -> bool:
        return any(validator.identity == identity for validator in self.validators)


def _pairs_of(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Map):
        return sorted(value.items(), key=itemgetter(0))
    raise TypeError(f"a state holds no {type(value).__name__}")


def _map_of(kind: Any, value: Any) -> Map[str, Any]:
    """A mapping's entries may hold mappings (a task's workers), so the conversion needs this hook again."""
    pair = types.GenericAlias(tuple, typing.get_args(kind))
    return Map(msgspec.convert(value, types.GenericAlias(list, (pair,)), dec_hook=_map_of))


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_pairs_of)
_DECODER: Final = msgspec.msgpack.Decoder(State, dec_hook=_map_of)


def dump_state(state: State) -> bytes:
    """What validators agree on at checkpoints, by its hash. It holds the height, so no two blocks share it."""
    return _ENCODER.encode(state)


def load_state(data: bytes) -> State:
    """Reads a snapshot. Its form is checked here; whether it is *the* state is for the caller.

    Raises:
        Refused: `too_large`, `malformed` or `not_canonical`.
    """
    if len(data) > MAX_STATE_BYTES:
        raise Refused("too_large", f"state: {len(data)} bytes, at most {MAX_STATE_BYTES} are admitted")
    try:
        state = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise Refused("malformed", f"state: {error}") from None
    if dump_state(state) != data:
        raise Refused("not_canonical", "state: not in canonical form; fetch the snapshot from another validator")
    return state

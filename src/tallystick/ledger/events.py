"""What people and programs must see of each block: one struct per thing that happened.

Whoever stores events adds the height. They are a record, not a source: everything in them follows from the
transactions, and no rule reads them.
"""

import msgspec


class Result(msgspec.Struct, frozen=True):
    """What became of one transaction."""

    hash: str
    sender: str
    """Empty if the transaction has no form, because then there is no sender."""
    code: str
    """`ok`, or the code of the refusal; `items_refused` for a batch of which some were."""
    reason: str
    """For people; empty if `ok`."""
    items: tuple[str, ...] = ()
    """Codes of a batch's items, in order, if any was refused."""


class TaskOpened(msgspec.Struct, frozen=True, tag="task_opened"):
    task: str
    client: str
    steps: int
    micro_batches: int
    reward: int


class Enrolled(msgspec.Struct, frozen=True, tag="enrolled"):
    task: str
    worker: str


class Left(msgspec.Struct, frozen=True, tag="left"):
    task: str
    worker: str


class RoundOpened(msgspec.Struct, frozen=True, tag="round_opened"):
    task: str
    step: int
    beacon: str


class Assigned(msgspec.Struct, frozen=True, tag="assigned"):
    """Work given to one worker, at the start of a round or later in it."""

    task: str
    step: int
    worker: str
    micro_batches: tuple[int, ...]
    deadline_ms: int


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    task: str
    step: int
    worker: str
    micro_batches: tuple[int, ...]


class Revealed(msgspec.Struct, frozen=True, tag="revealed"):
    task: str
    step: int
    worker: str
    micro_batches: tuple[int, ...]


class AuditDrawn(msgspec.Struct, frozen=True, tag="audit_drawn"):
    task: str
    step: int
    micro_batches: tuple[int, ...]


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    task: str
    step: int
    micro_batches: tuple[int, ...]


class Missed(msgspec.Struct, frozen=True, tag="missed"):
    """A deadline passed."""

    task: str
    step: int
    worker: str
    what: str
    """`commit` or `reveal`."""
    micro_batches: tuple[int, ...]


class Suspended(msgspec.Struct, frozen=True, tag="suspended"):
    task: str
    worker: str
    reason: str
    """`missed_commit`, `missed_reveal` or `unavailable`."""
    forfeited: int
    """Taken from its stake and burned."""


class Slashed(msgspec.Struct, frozen=True, tag="slashed"):
    task: str
    step: int
    micro_batch: int | None
    """None for a fault that concerns the whole step."""
    party: str
    reason: str
    """`commitment_does_not_open`, `wrong_contribution`, `false_audit` or `false_attestation`."""
    amount: int
    finders: tuple[str, ...]
    burned: int
    """What is left of `amount` after the finders' equal shares."""


class RoundFinal(msgspec.Struct, frozen=True, tag="round_final"):
    task: str
    step: int
    root: str
    total: str
    loss: int


class Paid(msgspec.Struct, frozen=True, tag="paid"):
    task: str
    step: int
    party: str
    amount: int
    what: str
    """`contributions` or `attestation`."""


class TaskDone(msgspec.Struct, frozen=True, tag="task_done"):
    task: str
    root: str
    returned: int
    """Left in escrow, and paid back to the client."""


class TaskExpired(msgspec.Struct, frozen=True, tag="task_expired"):
    task: str
    step: int
    returned: int


class AnchorSet(msgspec.Struct, frozen=True, tag="anchor_set"):
    digest: str
    identity: str


class Endorsed(msgspec.Struct, frozen=True, tag="endorsed"):
    """A validator wants a change of the validators."""

    change: str
    """`add_validator` or `remove_validator`."""
    subject: str
    endorser: str
    voices: int
    needed: int
    """A quorum of the validators there are now."""


class ValidatorAdded(msgspec.Struct, frozen=True, tag="validator_added"):
    validator: str
    bond: int


class ValidatorRemoved(msgspec.Struct, frozen=True, tag="validator_removed"):
    validator: str
    bond: int
    """Which it answers with until `until_ms`."""
    until_ms: int


class BondFreed(msgspec.Struct, frozen=True, tag="bond_freed"):
    validator: str
    amount: int


class KeyRotated(msgspec.Struct, frozen=True, tag="key_rotated"):
    old: str
    new: str


class Equivocated(msgspec.Struct, frozen=True, tag="equivocated"):
    """A validator was shown to have signed two votes that exclude each other, and lost its bond and its office."""

    validator: str
    vote: str
    """Kind of the votes: `pre_prepare`, `prepare`, `commit` or `checkpoint`; `by_engine` where another engine than our
    own has proven them, which pays no finder."""
    epoch: int
    height: int
    amount: int
    finder: str
    burned: int
    """What is left of `amount` after the finder's share."""


Event = (
    TaskOpened
    | Enrolled
    | Left
    | RoundOpened
    | Assigned
    | Committed
    | Revealed
    | AuditDrawn
    | Accepted
    | Missed
    | Suspended
    | Slashed
    | RoundFinal
    | Paid
    | TaskDone
    | TaskExpired
    | AnchorSet
    | Endorsed
    | ValidatorAdded
    | ValidatorRemoved
    | BondFreed
    | KeyRotated
    | Equivocated
)

"""What goes into the state machine and what comes out of it.

**Contract.** The shell carries out the effects of a step in their order, and a `Persist` or `Deliver` must be on disk
before any later `Send` or `Broadcast` leaves. A shell may commit all of a batch's records first and send then; it may
never send first. It answers `Deliver` with `Executed` before it hands in anything from the network, `Examine` with
`Examined`, and `ReadBlocks` with `BlocksRead`. It hands in a `Tick` after each batch of other events, and a few dozen
times a second when there are none: proposals, forwards and timers all happen there.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from tallystick.consensus.port import CommittedBlock


class Phase(StrEnum):
    PRE_PREPARE = "pre_prepare"
    PREPARE = "prepare"
    COMMIT = "commit"


@dataclass(frozen=True)
class VoteRecord:
    """A vote we gave. Once it may have left, we never give another for the same epoch, view, height and phase."""

    epoch: int
    view: int
    height: int
    phase: Phase
    digest: bytes
    block: bytes = b""
    """With a pre-prepare or prepare: the block, so that after a restart we still hold what we stand for."""


@dataclass(frozen=True)
class Durable:
    """What a replica starts from: what its disk holds."""

    height: int = 0
    digest: bytes = b""
    """Of the last delivered block; unused at height 0."""
    time_ms: int = 0
    deadline_ms: int | None = None
    """What the application says is due after executing that block."""
    votes: tuple[VoteRecord, ...] = field(default=())


# ---- events


@dataclass(frozen=True)
class Received:
    """A frame came over the channel of `peer`, whose identity the channel has proven."""

    peer: str
    frame: bytes


@dataclass(frozen=True)
class Connected:
    """A channel to `peer` is open (again)."""

    peer: str


@dataclass(frozen=True)
class Submitted:
    """A client's transaction that the application admits. Its step raises `Refused` if there is no room."""

    transaction: bytes


@dataclass(frozen=True)
class Examined:
    """The application's word on the transactions of an `Examine`."""

    accepted: tuple[bytes, ...]
    refused: tuple[tuple[bytes, str], ...]
    """Each with its reason code."""
    again: bool
    """As in that `Examine`."""


@dataclass(frozen=True)
class Executed:
    """The application has executed up to `height`."""

    height: int
    deadline_ms: int | None


@dataclass(frozen=True)
class BlocksRead:
    """Stored blocks that `ReadBlocks` asked for, as (encoded block, certificate)."""

    peer: str
    blocks: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Tick:
    now_ms: int
    """Wall clock, milliseconds since the Unix epoch; only proposals' times come from it."""
    elapsed_ms: int
    """A clock that never jumps; timers run on it, so that setting the wall clock cannot stall or spin them."""


Event = Received | Connected | Submitted | Examined | Executed | BlocksRead | Tick


# ---- effects


@dataclass(frozen=True)
class Persist:
    record: VoteRecord


@dataclass(frozen=True)
class Send:
    peer: str
    frame: bytes


@dataclass(frozen=True)
class Broadcast:
    """To every other validator."""

    frame: bytes


@dataclass(frozen=True)
class Deliver:
    """Store `encoded` with the certificate, then execute `block`."""

    block: CommittedBlock
    encoded: bytes


@dataclass(frozen=True)
class Examine:
    """Ask the application whether it admits these."""

    transactions: tuple[bytes, ...]
    again: bool
    """True if they have waited here for long, false if a peer has just forwarded them."""


@dataclass(frozen=True)
class ReadBlocks:
    """Read stored blocks `first` to `last` for `peer`, stopping before their sizes together pass `max_bytes`."""

    peer: str
    first: int
    last: int
    max_bytes: int


Effect = Persist | Send | Broadcast | Deliver | Examine | ReadBlocks

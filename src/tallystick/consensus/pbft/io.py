"""What goes into the state machine and what comes out of it.

**Contract.** The shell carries out the effects of a step in their order, and a `Persist`, `Deliver`, `SaveChunk` or
`Restore` must be on disk before any later `Send` or `Broadcast` leaves. A shell may commit all of a batch's records
first and send then; it may never send first. A `Relay` may leave at any time. These are answered before anything else
is handed in: `Deliver` with `Executed`, `Restore` with `Restored`, `Examine` with `Examined`, `Verify` with `Verified`,
`ReadBlocks` with `BlocksRead`, `ReadChunk` with `ChunkRead`, `ReadBody` with `BodyRead`. The shell hands in a `Tick`
after each batch of other events, and a few dozen times a second when there are none: proposals, forwards and timers all
happen there. After `Halt` it stops.

A node keeps at least `TRANSFER_GAP + 1` checkpoint intervals of blocks below its stable checkpoint, the snapshots of
its last two stable checkpoints, and those that a `CheckpointRecord` says are wanted, for those who trail. There is one
`Deliver` at a time: the next follows `Executed`.
"""

from enum import StrEnum

import msgspec

from tallystick.consensus.pbft.group import Group
from tallystick.consensus.port import CommittedBlock


class Phase(StrEnum):
    PRE_PREPARE = "pre_prepare"
    PREPARE = "prepare"
    COMMIT = "commit"


# ---- what must survive a crash


class VoteRecord(msgspec.Struct, frozen=True):
    """A vote we gave. Once it may have left, we never give another for the same epoch, view, height and phase.

    The same vote may come again, with the block that was missing the first time or after a restart; a shell replaces
    the record, and refuses one that names another digest. It keeps those above the last stable
    checkpoint, and forgets what a `CheckpointRecord` covers and what is of an epoch that ended.
    """

    epoch: int
    view: int
    height: int
    phase: Phase
    digest: bytes
    block: bytes = b""
    """With a pre-prepare or prepare: the block, so that after a restart we still hold what we stand for."""
    proof: bytes = b""
    """With a commit: the prepare certificate, which a view change will have to show."""


class ViewRecord(msgspec.Struct, frozen=True):
    """We left all views below this one; the last record counts."""

    epoch: int
    view: int
    view_change: bytes = b""
    """The sealed message we sent to get there; empty if a new view took us along."""
    new_view: bytes = b""
    """The sealed message that opened the view; empty while we wait for it."""


class CheckpointRecord(msgspec.Struct, frozen=True):
    """A stable checkpoint. The shell keeps the last one, and each that `ends` the rule of a set of validators."""

    epoch: int
    height: int
    proof: bytes
    """An encoded `StableCheckpoint`."""
    ends: bool
    """Whether other validators follow: newcomers need every such checkpoint, in order, to know whom to believe."""
    wanted: tuple[int, ...] = ()
    """Heights of older snapshots that peers are in the middle of fetching: the shell keeps those it has."""


class EpochRecord(msgspec.Struct, frozen=True):
    """We entered an epoch: its first height is `start` + 1. The last two records count."""

    epoch: int
    start: int
    since: int
    """The checkpoint at which its validators took office."""
    validators: tuple[str, ...]


class MuteRecord(msgspec.Struct, frozen=True):
    """The disk lost what this validator may have signed. It follows, and votes again from epoch `until` on: no epoch
    that its lost signatures can name. `until` is 0 while a quorum has not said yet which epoch it is."""

    until: int = 0


class ContentRecord(msgspec.Struct, frozen=True):
    """What we got by executing to a checkpoint. A shell forgets it when a `CheckpointRecord` covers it."""

    height: int
    content: bytes
    """An encoded `CheckpointContent`."""


Record = VoteRecord | ViewRecord | ContentRecord | CheckpointRecord | EpochRecord | MuteRecord


class Head(msgspec.Struct, frozen=True):
    """Where the delivered chain ends."""

    height: int
    digest: bytes
    """Names this block and all before it."""
    time_ms: int


class Certified(msgspec.Struct, frozen=True):
    """A delivered block above the last stable checkpoint, which a view change may have to prove."""

    height: int
    digest: bytes
    """Of this block alone, as votes name it."""
    certificate: bytes


class Transfer(msgspec.Struct, frozen=True):
    """A state transfer that was under way, and which chunks are here."""

    proofs: tuple[bytes, ...]
    manifest: bytes
    chunks: tuple[int, ...]


class Outcome(msgspec.Struct, frozen=True):
    """What executing up to a checkpoint gave."""

    root: bytes
    """Of the application's snapshot (`canon.chunks.snapshot_root`)."""
    validators: tuple[str, ...]
    """Who should agree on the blocks after it."""


class Durable(msgspec.Struct, frozen=True):
    """What a replica starts from: what its disk holds. All empty for a new one, which then starts at genesis."""

    head: Head | None = None
    """None before the first block."""
    deadline_ms: int | None = None
    """What the application says is due after executing that block."""
    change_due: bool = False
    """Whether the application names other validators than those of the epoch."""
    outcome: Outcome | None = None
    """If the head is a checkpoint: what executing up to it gave, in case the stop came before that was recorded."""
    epoch: EpochRecord | None = None
    previous: EpochRecord | None = None
    """The epoch before that one."""
    view: ViewRecord | None = None
    checkpoint: bytes = b""
    """Proof of the last stable checkpoint."""
    history: tuple[bytes, ...] = ()
    """Proofs of all checkpoints that end the rule of a set of validators, in order."""
    contents: tuple[ContentRecord, ...] = ()
    certified: tuple[Certified, ...] = ()
    """Delivered blocks above the stable checkpoint, in order."""
    votes: tuple[VoteRecord, ...] = ()
    transfer: Transfer | None = None
    mute: MuteRecord | None = None


# ---- events


class Received(msgspec.Struct, frozen=True):
    """A frame came over the channel of `peer`, whose identity the channel has proven."""

    peer: str
    frame: bytes


class Connected(msgspec.Struct, frozen=True):
    """A channel to `peer` is open (again)."""

    peer: str


class Guests(msgspec.Struct, frozen=True):
    """These may become validators soon, and follow in the meantime: they are told what they ask for, and heard on
    nothing else. The last such event counts; a shell keeps channels to them."""

    identities: tuple[str, ...]


class Submitted(msgspec.Struct, frozen=True):
    """A client's transaction that the application admits. Its step raises `Refused` if there is no room."""

    transaction: bytes


class Examined(msgspec.Struct, frozen=True):
    """The application's word on the transactions of an `Examine`."""

    accepted: tuple[bytes, ...]
    refused: tuple[tuple[bytes, str], ...]
    """Each with its reason code."""
    again: bool
    """As in that `Examine`."""
    peer: str = ""
    """The same."""


class Verified(msgspec.Struct, frozen=True):
    """The application's word on the transactions of a `Verify`."""

    digest: bytes
    refused: str = ""
    """The reason code of the first transaction that no honest validator would let pass; empty if all may."""


class Executed(msgspec.Struct, frozen=True):
    """The application has executed up to `height`."""

    height: int
    deadline_ms: int | None
    change_due: bool = False
    """Whether the application names other validators than those that agree now: then a checkpoint is wanted soon."""
    outcome: Outcome | None = None
    """If that `Deliver` was a checkpoint."""


class Restored(msgspec.Struct, frozen=True):
    """The application now holds the snapshot of a `Restore`."""

    height: int
    deadline_ms: int | None


class BlocksRead(msgspec.Struct, frozen=True):
    """Stored blocks that `ReadBlocks` asked for, as (encoded block, certificate). None if the first is not there."""

    peer: str
    blocks: tuple[tuple[bytes, bytes], ...]


class ChunkRead(msgspec.Struct, frozen=True):
    """A part of a snapshot that `ReadChunk` asked for."""

    peer: str
    height: int
    index: int
    manifest: bytes
    """With index 0: the digests of all chunks (`canon.chunks`)."""
    data: bytes


class BodyRead(msgspec.Struct, frozen=True):
    """The block that `ReadBody` asked for; empty if none of our votes holds it."""

    peer: str
    digest: bytes
    block: bytes


class Tick(msgspec.Struct, frozen=True):
    now_ms: int
    """Wall clock, milliseconds since the Unix epoch; only proposals' times come from it."""
    elapsed_ms: int
    """A clock that never jumps; timers run on it, so that setting the wall clock cannot stall or spin them."""


Event = (
    Received
    | Connected
    | Guests
    | Submitted
    | Examined
    | Verified
    | Executed
    | Restored
    | BlocksRead
    | ChunkRead
    | BodyRead
    | Tick
)


# ---- effects


class Persist(msgspec.Struct, frozen=True):
    record: Record


class Send(msgspec.Struct, frozen=True):
    peer: str
    frame: bytes


class Relay(msgspec.Struct, frozen=True):
    """Like `Send`, for what says nothing of ourselves: it waits for no disk."""

    peer: str
    frame: bytes


class Broadcast(msgspec.Struct, frozen=True):
    """To every other validator of the epoch, and to those of the one before who may still need it."""

    frame: bytes


class Deliver(msgspec.Struct, frozen=True):
    """Store `encoded` with the certificate, then execute `block`."""

    block: CommittedBlock
    encoded: bytes
    checkpoint: bool
    """Whether `Executed` must bring an `Outcome`, and the snapshot be kept until a later checkpoint is stable."""


class Examine(msgspec.Struct, frozen=True):
    """Ask the application whether it admits these."""

    transactions: tuple[bytes, ...]
    again: bool
    """True if they have waited here for long, false if a peer has just forwarded them."""
    peer: str = ""
    """Who has."""


class Verify(msgspec.Struct, frozen=True):
    """Ask the application whether every honest validator would let these pass, whatever its state (`check`)."""

    digest: bytes
    """Of the proposed block."""
    transactions: tuple[bytes, ...]


class ReadBlocks(msgspec.Struct, frozen=True):
    """Read stored blocks `first` to `last` for `peer`, stopping before their sizes together pass `max_bytes`."""

    peer: str
    first: int
    last: int
    max_bytes: int


class ReadChunk(msgspec.Struct, frozen=True):
    """Read a chunk of the snapshot at the stable checkpoint `height` for `peer`."""

    peer: str
    height: int
    index: int


class ReadBody(msgspec.Struct, frozen=True):
    """Read the block of this digest from the votes that were saved for `height`, for `peer`, or for us if that is
    empty."""

    peer: str
    height: int
    digest: bytes


class StartTransfer(msgspec.Struct, frozen=True):
    """Forget what an earlier transfer saved, and keep this one's proofs and manifest."""

    proofs: tuple[bytes, ...]
    """Checkpoints that lead to the target, which is the last one."""
    manifest: bytes


class SaveChunk(msgspec.Struct, frozen=True):
    """Keep a checked chunk of the transfer that was started last, so that a restart does not fetch it again."""

    index: int
    data: bytes


class Restore(msgspec.Struct, frozen=True):
    """All chunks are here: the application takes the snapshot, and the chain continues from `head`. Blocks between
    what was stored before and `head` will be missing here; the stored head is `head` from now on."""

    head: Head
    epoch: EpochRecord
    checkpoint: CheckpointRecord
    history: tuple[bytes, ...]


class Regroup(msgspec.Struct, frozen=True):
    """An epoch begins: keep channels to these validators, and to those of the one before until the next one."""

    group: Group


class Accuse(msgspec.Struct, frozen=True):
    """Two sealed votes of one validator that exclude each other: a case for the ledger."""

    culprit: str
    first: bytes
    second: bytes


class Halt(msgspec.Struct, frozen=True):
    """This node's state is not what a quorum agreed on, or it was told so by itself: it must stop, loudly."""

    reason: str


Effect = (
    Persist
    | Send
    | Relay
    | Broadcast
    | Deliver
    | Examine
    | Verify
    | ReadBlocks
    | ReadChunk
    | ReadBody
    | StartTransfer
    | SaveChunk
    | Restore
    | Regroup
    | Accuse
    | Halt
)

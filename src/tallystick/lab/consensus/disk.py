"""The simulated disk of one node: a log of records with a cache in front of it, and what the records add up to.

What is written is lost until `sync`: a crash keeps some prefix of it, and a record that was half written is recognized
by its checksum and counts as not written. A flipped bit below that point is recognized too, at the next start, and then
nothing on this disk is believed any more: the node starts again as one that has forgotten what it signed.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random

from tallystick.consensus.pbft.io import (
    Certified,
    CheckpointRecord,
    ContentRecord,
    Durable,
    EpochRecord,
    Head,
    MuteRecord,
    Outcome,
    Persist,
    Phase,
    Restore,
    SaveChunk,
    StartTransfer,
    Transfer,
    ViewRecord,
    VoteRecord,
)
from tallystick.consensus.port import CommittedBlock


@dataclass(frozen=True)
class Row:
    """A delivered block."""

    block: CommittedBlock
    encoded: bytes
    named: bytes
    """Digest of the block alone."""
    checkpoint: bool


@dataclass(frozen=True)
class Taken:
    """A snapshot came by state transfer."""

    restore: Restore
    snapshot: bytes


@dataclass(frozen=True)
class Kept:
    """The application's snapshot at a checkpoint."""

    height: int
    snapshot: bytes


Write = Persist | Row | Kept | StartTransfer | SaveChunk | Taken


class DiskFull(Exception):
    """There was no room for a record: the node cannot go on, and must say nothing that depends on it."""


@dataclass
class Disk:
    head: Head | None = None
    epoch: EpochRecord | None = None
    previous: EpochRecord | None = None
    view: ViewRecord | None = None
    checkpoint: bytes = b""
    stable: int = 0
    """Height of that checkpoint."""
    history: tuple[bytes, ...] = ()
    votes: dict[tuple[int, int, int, Phase], VoteRecord] = field(default_factory=dict)
    """By epoch, view, height and phase."""
    ever: set[tuple[int, int, int, Phase] | bytes] = field(default_factory=set)
    """Every vote that ever reached this disk, and every frame that opened a view. For the watch; no node reads it."""
    contents: dict[int, ContentRecord] = field(default_factory=dict)
    mute: MuteRecord | None = None
    rows: dict[int, Row] = field(default_factory=dict)
    snapshots: dict[int, bytes] = field(default_factory=dict)
    """By height: of the last two stable checkpoints, of those above that may become stable, and of older ones that
    peers fetch."""
    transfer: StartTransfer | None = None
    chunks: dict[int, bytes] = field(default_factory=dict)
    staged: list[Write] = field(default_factory=list)
    full: bool = False
    corrupt: bool = False
    kept_blocks: int = 0
    """How many blocks below the stable checkpoint are kept for peers; a negative number keeps all."""

    @property
    def base(self) -> int:
        """Height of the snapshot from which the application is made again at a start; 0 is genesis."""
        return max((height for height in self.snapshots if height <= self.stable), default=0)

    def write(self, record: Write) -> None:
        if self.full:
            raise DiskFull
        self.staged.append(record)

    def sync(self) -> None:
        for record in self.staged:
            self._settle(record)
        self.staged.clear()

    def crash(self, random: Random) -> None:
        """Of what was not synced some prefix is there; the record after it may be torn, which is the same as lost."""
        del self.staged[random.randint(0, len(self.staged)) :]
        self.sync()

    def _settle(self, write: Write) -> None:
        match write:
            case Persist(record=VoteRecord() as vote):
                slot = (vote.epoch, vote.view, vote.height, vote.phase)
                self.votes[slot] = vote
                self.ever.add(slot)
            case Persist(record=ViewRecord() as view):
                self.view = view
                self.ever.add(view.new_view)
            case Persist(record=EpochRecord() as epoch):
                self._enter(epoch)
            case Persist(record=ContentRecord() as content):
                self.contents[content.height] = content
            case Persist(record=MuteRecord() as mute):
                self.mute = mute
            case Persist(record=CheckpointRecord() as checkpoint):
                self._stable(checkpoint)
            case Row():
                self.rows[write.block.height] = write
                self.head = Head(write.block.height, write.block.digest, write.block.time_ms)
            case Kept(height, snapshot):
                self.snapshots[height] = snapshot
            case StartTransfer():
                self.transfer, self.chunks = write, {}
            case SaveChunk():
                self.chunks[write.index] = write.data
            case Taken():
                self._taken(write)

    def _stable(self, record: CheckpointRecord) -> None:
        before = self.base
        self.checkpoint, self.stable = record.proof, record.height
        if record.ends:
            self.history = (*self.history, record.proof)
        self._forget(before, record.wanted)

    def _enter(self, epoch: EpochRecord) -> None:
        if self.epoch is None or self.epoch.epoch != epoch.epoch:
            self.previous = self.epoch
        self.epoch = epoch
        self.votes = {slot: vote for slot, vote in self.votes.items() if vote.epoch == epoch.epoch}

    def _taken(self, write: Taken) -> None:
        restore, before = write.restore, self.base
        self.head = restore.head
        self._enter(restore.epoch)
        self.checkpoint, self.stable, self.history = restore.checkpoint.proof, restore.head.height, restore.history
        self.rows = {h: row for h, row in self.rows.items() if h <= restore.head.height}
        self.snapshots[restore.head.height] = write.snapshot
        self.transfer, self.chunks = None, {}
        self._forget(before, restore.checkpoint.wanted)

    def _forget(self, before: int, wanted: Collection[int]) -> None:
        """What the stable checkpoint covers."""
        self.votes = {slot: vote for slot, vote in self.votes.items() if vote.height > self.stable}
        self.contents = {h: content for h, content in self.contents.items() if h > self.stable}
        self.snapshots = {h: data for h, data in self.snapshots.items() if h >= before or h in wanted}
        if self.kept_blocks >= 0:
            first = self.stable - self.kept_blocks
            self.rows = {h: row for h, row in self.rows.items() if h > first}

    def durable(self, deadline_ms: int | None, change_due: bool, outcome: Outcome | None) -> Durable:
        transfer = None
        if self.transfer is not None:
            transfer = Transfer(self.transfer.proofs, self.transfer.manifest, tuple(sorted(self.chunks)))
        certified = tuple(
            Certified(height, row.named, row.block.certificate)
            for height, row in sorted(self.rows.items())
            if height > self.stable
        )
        return Durable(
            head=self.head,
            deadline_ms=deadline_ms,
            change_due=change_due,
            outcome=outcome,
            epoch=self.epoch,
            previous=self.previous,
            view=self.view,
            checkpoint=self.checkpoint,
            history=self.history,
            contents=tuple(self.contents[height] for height in sorted(self.contents)),
            certified=certified,
            votes=tuple(self.votes.values()),
            transfer=transfer,
            mute=self.mute,
        )

    def wiped(self) -> "Disk":
        """An empty disk of a validator that knows it has forgotten what it signed."""
        return Disk(mute=MuteRecord(), kept_blocks=self.kept_blocks)

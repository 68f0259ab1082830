"""What a validator must not lose: what it signed, where it stands, and the blocks with their certificates.

It is kept in `tables`, which notice every row that was changed and every commit that was lost. A node that forgot a
vote could give another, so the summary also says how many votes there must be, and an empty store is made only with
a validator's folder, before its first vote, or as a muted one. A `DamagedError` names what is wrong; `tallystick
validator recover` is the way out. Two validators on one store would vote twice: one process holds it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from tallystick.canon.chunks import CHUNK_BYTES, manifest_of
from tallystick.consensus.pbft.io import (
    CheckpointRecord,
    ContentRecord,
    EpochRecord,
    Head,
    MuteRecord,
    Phase,
    Record,
    Transfer,
    ViewRecord,
    VoteRecord,
)
from tallystick.network.tables import DamagedError, Layout, Row, StoreError, Summary, Tables, create_tables

RETAIN_BLOCKS: Final = 100_000
"""Blocks kept below the last stable checkpoint, for peers and for export; who needs older ones gets a snapshot."""

T = TypeVar("T")

SCHEMA: Final = """
CREATE TABLE votes (
    epoch INTEGER NOT NULL, view INTEGER NOT NULL, height INTEGER NOT NULL, phase TEXT NOT NULL,
    digest BLOB NOT NULL, block BLOB NOT NULL, proof BLOB NOT NULL, seal BLOB NOT NULL,
    PRIMARY KEY (epoch, view, height, phase)
) STRICT;
CREATE TABLE latest (kind TEXT PRIMARY KEY, value BLOB NOT NULL, seal BLOB NOT NULL) STRICT;
CREATE TABLE history (number INTEGER PRIMARY KEY, proof BLOB NOT NULL, seal BLOB NOT NULL) STRICT;
CREATE TABLE blocks (
    height INTEGER PRIMARY KEY, digest BLOB NOT NULL, time_ms INTEGER NOT NULL,
    block BLOB NOT NULL, certificate BLOB NOT NULL, seal BLOB NOT NULL
) STRICT;
CREATE TABLE snapshots (
    height INTEGER NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL, seal BLOB NOT NULL,
    PRIMARY KEY (height, part)
) STRICT;
CREATE TABLE contents (height INTEGER PRIMARY KEY, content BLOB NOT NULL, seal BLOB NOT NULL) STRICT;
CREATE TABLE chunks (number INTEGER PRIMARY KEY, data BLOB NOT NULL, seal BLOB NOT NULL) STRICT;
"""
BESIDE_BLOCKS: Final = ("votes", "latest", "history", "snapshots", "contents", "chunks")
MANIFEST: Final = -1
"""The part of a snapshot that is the manifest of the others."""


@dataclass(frozen=True)
class StoredBlock:
    height: int
    digest: bytes
    """Names this block and all before it."""
    time_ms: int
    """Agreed time after it."""
    block: bytes
    """Encoded, as it was agreed on."""
    certificate: bytes


class _Summary(Summary):
    votes: int = 0
    """Rows in `votes`."""
    latest: int = 0
    """Rows in `latest`."""
    history: int = 0
    """Rows in `history`."""
    height: int = 0
    digest: bytes = b""
    time_ms: int = 0


LAYOUT: Final = Layout(4, SCHEMA)


class Store:
    """The durable state of one validator on one chain. What was saved since the last `settle` or `commit` is lost in a
    crash, all of it.

    Raises:
        DamagedError: the file is not what was written last.
        StoreError: it belongs to another chain, validator, version or running process.
    """

    def __init__(self, path: Path, chain: str, identity: str, *, retain: int = RETAIN_BLOCKS) -> None:
        self.path, self._retain = path, retain
        self._tables = Tables(path, LAYOUT, chain, identity, _Summary)
        self._given: dict[tuple[int, int, int, str], bytes] = {}
        """Digests of the votes that are stored, by epoch, view, height and phase."""
        self._kinds: set[str] = set()
        """What `latest` holds."""
        with self._tables.opening():
            self._check()
        self._tables.start()

    def close(self) -> None:
        """Commits what has gathered, and gives the file back."""
        self._tables.close()

    def hand_over(self, identity: str) -> None:
        """Closes the store for its validator, whose identity is another one from now on."""
        self._tables.hand_over(identity)

    def commit(self) -> bool:
        """Everything saved so far is on disk when this returns. Whether there was anything."""
        return self._tables.commit()

    def settle(self) -> None:
        """Everything saved so far is the system's, and comes back after a crash of this process."""
        self._tables.settle()

    def check(self) -> None:
        """Reads every row. A start reads what decides what this validator may sign, and no block below that.

        Raises:
            DamagedError: one is not what was written, or a block is gone.
        """
        for table in BESIDE_BLOCKS:
            for _ in self._tables.rows(table):
                pass
        first, last = self.first_height(), self._summary.height
        count = sum(1 for _ in self.blocks(first, last))
        if count < last - first + 1:
            raise DamagedError(self.path, f"block {first + count} of {first} to {last} is gone")

    # ---- records

    def save(self, record: Record) -> None:
        """Raises `StoreError` for a vote that contradicts one that is there already."""
        match record:
            case VoteRecord():
                self._save_vote(record)
            case CheckpointRecord():
                self._save_checkpoint(record)
            case EpochRecord():
                self._save_epoch(record)
            case ContentRecord():
                self._tables.insert("contents", (record.height, record.content), replace=True)
            case ViewRecord() | MuteRecord():
                self._save_latest(record)

    def body(self, height: int, digest: bytes) -> bytes:
        """The block of this digest that we voted for at `height`; empty if there is none."""
        for slot, given in self._given.items():  # in memory: whoever asks for what is not here costs no reading
            if slot[2] == height and given == digest:
                key = "WHERE epoch = ? AND view = ? AND height = ? AND phase = ? AND length(block) > 0"
                row = next(self._tables.rows("votes", key, *slot), None)
                if row is not None:
                    return bytes(row[5])
        return b""

    def votes(self) -> tuple[VoteRecord, ...]:
        """All votes above the last stable checkpoint, in the order in which they were given."""
        rows = self._tables.rows("votes", "ORDER BY rowid")
        return tuple(VoteRecord(e, v, h, Phase(phase), *rest) for e, v, h, phase, *rest in rows)

    def view(self) -> ViewRecord | None:
        return self._latest(ViewRecord)

    def epochs(self) -> tuple[EpochRecord, ...]:
        """At most two: the one before, and the present one."""
        saved = self._latest(_Epochs)
        return saved.last if saved else ()

    def mute(self) -> MuteRecord | None:
        return self._latest(MuteRecord)

    def checkpoint(self) -> CheckpointRecord | None:
        """The last stable one."""
        return self._latest(CheckpointRecord)

    def history(self, start: int = 0, most: int = -1) -> tuple[bytes, ...]:
        """Proofs of the checkpoints that end the rule of a set of validators, in order: all, or `most` from number
        `start` on."""
        rows = self._tables.rows("history", "WHERE number >= ? ORDER BY number LIMIT ?", start, most)
        return tuple(proof for _, proof in rows)

    def contents(self) -> tuple[ContentRecord, ...]:
        """Of checkpoints above the last stable one, in order."""
        return tuple(ContentRecord(*row) for row in self._tables.rows("contents", "ORDER BY height"))

    # ---- blocks

    def save_block(self, block: StoredBlock) -> None:
        """Appends a block to the head."""
        if block.height != self._summary.height + 1:
            raise StoreError(f"{self.path}: block {block.height} cannot follow block {self._summary.height}")
        row = (block.height, block.digest, block.time_ms, block.block, block.certificate)
        self._tables.insert("blocks", row)
        self._set_head(Head(block.height, block.digest, block.time_ms))

    def head(self) -> Head | None:
        """None before the first block."""
        now = self._summary
        return Head(now.height, now.digest, now.time_ms) if now.height else None

    def first_height(self) -> int:
        """Of the oldest stored block; one above the head if there is none."""
        height = self._tables.least("blocks", "height")
        return self._summary.height + 1 if height is None else height

    def blocks(self, first: int, last: int) -> Iterable[StoredBlock]:
        """Blocks `first` to `last`, both included, as far as they are there without a gap."""
        rows = self._tables.rows("blocks", "WHERE height BETWEEN ? AND ? ORDER BY height", first, last)
        for expected, row in enumerate(rows, first):
            stored = StoredBlock(*row)
            if stored.height != expected:
                return
            yield stored

    def blocks_within(self, first: int, last: int, max_bytes: int) -> list[StoredBlock]:
        """As many of `blocks` as take, with their certificates, no more than `max_bytes`."""
        chosen: list[StoredBlock] = []
        if first < self.first_height():
            return chosen  # without reading one that comes after the gap
        for stored in self.blocks(first, last):
            max_bytes -= len(stored.block) + len(stored.certificate)
            if max_bytes < 0:
                break
            chosen.append(stored)
        return chosen

    # ---- snapshots

    def save_snapshot(self, height: int, manifest: bytes, data: bytes) -> None:
        """Keeps the application's state after block `height` until a later checkpoint is stable."""
        parts = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        self._tables.change("DELETE FROM snapshots WHERE height = ?", height)
        for part, chunk in enumerate([manifest, *parts], MANIFEST):
            self._tables.insert("snapshots", (height, part, chunk))

    def snapshot_part(self, height: int, part: int) -> bytes | None:
        """A chunk, or with `MANIFEST` the manifest; None if there is no such snapshot or part."""
        row = next(self._tables.rows("snapshots", "WHERE height = ? AND part = ?", height, part), None)
        return None if row is None else row[2]

    def snapshot(self, height: int) -> bytes | None:
        """The whole state, if it is here."""
        parts = list(self._tables.rows("snapshots", "WHERE height = ? ORDER BY part", height))
        if not parts:
            return None
        data = b"".join(chunk for _, _, chunk in parts[1:])
        if manifest_of(data) != parts[0][2]:
            raise DamagedError(self.path, f"a part of the snapshot at {height} is gone")
        return data

    # ---- a transfer under way

    def start_transfer(self, proofs: tuple[bytes, ...], manifest: bytes) -> None:
        """Forgets what an earlier transfer saved."""
        self._tables.change("DELETE FROM chunks")
        self._save_latest(_Transfer(proofs, manifest))

    def save_chunk(self, index: int, data: bytes) -> None:
        self._tables.change("DELETE FROM chunks WHERE number = ?", index)
        self._tables.insert("chunks", (index, data))

    def transfer(self) -> Transfer | None:
        started = self._latest(_Transfer)
        if started is None:
            return None
        return Transfer(started.proofs, started.manifest, tuple(number for number, _ in self._chunks()))

    def restore(self, head: Head, epoch: EpochRecord, checkpoint: CheckpointRecord, history: Sequence[bytes]) -> bytes:
        """Makes the transferred state the one that this store continues from, and returns it.

        The blocks that are here are forgotten, as there is a gap between them and the ones to come.
        """
        started = self._latest(_Transfer)
        if started is None:
            raise StoreError(f"{self.path}: a restore without a transfer")
        data = b"".join(chunk for _, chunk in self._chunks())
        for table in ("blocks", "chunks", "history"):
            self._tables.change(f"DELETE FROM {table}")  # noqa: S608  # our own names
        self._forget_latest(_Transfer)
        self._set_head(head)
        self._save_epoch(epoch)
        for number, proof in enumerate(history):
            self._tables.insert("history", (number, proof))
        self._summary.history = len(history)
        self._save_checkpoint(checkpoint)
        self.save_snapshot(head.height, started.manifest, data)
        return data

    # ---- what belongs together

    @property
    def _summary(self) -> _Summary:
        return self._tables.summary

    def _save_vote(self, vote: VoteRecord) -> None:
        slot = (vote.epoch, vote.view, vote.height, vote.phase.value)
        given = self._given.setdefault(slot, vote.digest)
        if given != vote.digest:
            where = f"{vote.phase} at epoch {vote.epoch}, view {vote.view}, height {vote.height}"
            raise StoreError(f"{self.path}: another vote is stored for {where}; voting twice is refused")
        self._tables.insert("votes", (*slot, vote.digest, vote.block, vote.proof), replace=True)
        self._summary.votes = len(self._given)

    def _forget_votes(self, settled: Callable[[int, int], bool]) -> None:
        self._given = {slot: digest for slot, digest in self._given.items() if not settled(slot[0], slot[2])}
        self._summary.votes = len(self._given)

    def _save_epoch(self, record: EpochRecord) -> None:
        """Keeps it and the one before, and forgets the votes of those."""
        before = tuple(known for known in self.epochs() if known.epoch < record.epoch)
        self._save_latest(_Epochs((*before[-1:], record)))
        self._tables.change("DELETE FROM votes WHERE epoch < ?", record.epoch)
        self._forget_votes(lambda epoch, height: epoch < record.epoch)

    def _save_checkpoint(self, record: CheckpointRecord) -> None:
        """Keeps a stable checkpoint, and forgets what it covers.

        The snapshot of the one before stays: a peer may be about to ask for it.
        """
        before = self._latest(CheckpointRecord) or record
        self._save_latest(record)
        history = self.history()
        if record.ends and record.proof not in history[-1:]:
            self._tables.insert("history", (len(history), record.proof))
            self._summary.history = len(history) + 1
        self._tables.change("DELETE FROM votes WHERE height <= ?", record.height)
        self._forget_votes(lambda epoch, height: height <= record.height)
        self._forget_snapshots(min(before.height, record.height), record.wanted)
        self._tables.change("DELETE FROM contents WHERE height <= ?", record.height)
        oldest = min(record.height, self._summary.height - self._retain)
        self._tables.change("DELETE FROM blocks WHERE height <= ?", oldest)

    def _forget_snapshots(self, below: int, wanted: Collection[int]) -> None:
        older = list(self._tables.rows("snapshots", "WHERE part = ? AND height < ?", MANIFEST, below))
        for height, *_ in older:
            if height not in wanted:
                self._tables.change("DELETE FROM snapshots WHERE height = ?", height)

    def _save_latest(self, record: Any) -> None:
        self._tables.insert("latest", _named(record), replace=True)
        self._kinds.add(type(record).__name__)
        self._summary.latest = len(self._kinds)

    def _forget_latest(self, kind: type) -> None:
        self._tables.change("DELETE FROM latest WHERE kind = ?", kind.__name__)
        self._kinds.discard(kind.__name__)
        self._summary.latest = len(self._kinds)

    def _latest(self, kind: type[T]) -> T | None:
        row = next(self._tables.rows("latest", "WHERE kind = ?", kind.__name__), None)
        return None if row is None else msgspec.msgpack.decode(row[1], type=kind)

    def _chunks(self) -> Iterable[Row]:
        return self._tables.rows("chunks", "ORDER BY number")

    def _set_head(self, head: Head) -> None:
        self._summary.height, self._summary.digest, self._summary.time_ms = head.height, head.digest, head.time_ms

    def _check(self) -> None:
        """Reads everything that decides what this validator may sign."""
        votes = self.votes()
        if len(votes) != self._summary.votes:
            raise DamagedError(self.path, f"{len(votes)} votes are here, {self._summary.votes} were given")
        self._given = {(vote.epoch, vote.view, vote.height, vote.phase.value): vote.digest for vote in votes}
        self._check_latest()
        if len(self.history()) != self._summary.history:
            raise DamagedError(
                self.path, f"{self._summary.history} checkpoints ended a set of validators; some are gone"
            )
        checkpoint = self.checkpoint()
        self.view(), self.epochs(), self.mute(), self.contents(), self.transfer()
        above = checkpoint.height if checkpoint else 0
        count = sum(1 for _ in self.blocks(max(above + 1, self.first_height()), self._summary.height))
        if count < self._summary.height - above:
            raise DamagedError(self.path, f"{count} blocks above the checkpoint at {above}, the head is {self.head()}")
        if checkpoint is not None and self.snapshot(checkpoint.height) is None:
            raise DamagedError(self.path, f"the snapshot of the checkpoint at {checkpoint.height} is gone")

    def _check_latest(self) -> None:
        """All are there, and found by name: the index that finds them carries no checksums."""
        self._kinds = {name for name, _ in self._tables.rows("latest")}
        found = {name for kind in self._kinds for name, _ in self._tables.rows("latest", "WHERE kind = ?", kind)}
        if len(self._kinds) != self._summary.latest or found != self._kinds:
            raise DamagedError(self.path, f"{self._summary.latest} records are the latest of their kind; some are gone")


def create_store(path: Path, chain: str, identity: str, *, muted: bool) -> None:
    """Makes an empty store. Only for an identity that has certainly never voted may it be one that is not `muted`.

    Raises:
        StoreError: there is something in its place, or it cannot be written.
    """
    first = [("latest", _named(MuteRecord()))] if muted else []
    create_tables(path, LAYOUT, chain, identity, first, _Summary(latest=len(first)))


class _Transfer(msgspec.Struct, array_like=True):
    proofs: tuple[bytes, ...]
    manifest: bytes


class _Epochs(msgspec.Struct, array_like=True):
    last: tuple[EpochRecord, ...]


def _named(record: Any) -> Row:
    """A row of `latest`."""
    return type(record).__name__, msgspec.msgpack.encode(record)

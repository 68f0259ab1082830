"""What a validator must not lose: what it signed, where it stands, and the blocks with their certificates.

One SQLite file, held by one process: two validators on one store would vote twice. Changes gather in a transaction,
which `settle` hands to the system, so that it outlives this process; `commit` forces SQLite's log to disk, so that it
outlives the machine. One commit for many records is what makes that affordable. SQLite itself forces to disk only what
keeps its file whole (`synchronous=NORMAL` with a write-ahead log).

**Nothing that was lost or changed goes unnoticed.** A node that forgot a vote could give another, so this file is
believed only if

- every row carries a checksum of itself and of its table's name, checked whenever the row is read;
- the votes are as many as the summary, rewritten by every commit, says;
- the commits are at least as many as the file beside it, `*.turn`, says. That number is written after each commit, so
  it never claims too much; and a log that lost its end, an older copy of it or an empty one in its place claim less.

A `DamagedError` names what is wrong; `tallystick validator recover` is the way out.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
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
from tallystick.errors import TallystickError
from tallystick.proof.durable import write_whole

VERSION: Final = 2
BUSY_SECONDS: Final = 2.0
RETAIN_BLOCKS: Final = 100_000
"""Blocks kept below the last stable checkpoint, for peers and for export; who needs older ones gets a snapshot."""
LOG_PAGES: Final = 2048
"""Pages in SQLite's log before they are moved to their place in the file: 8 MiB."""
LOG_BYTES: Final = 9 * 2**20
"""To which the log is made at the start, with what else a page and a last commit take: forcing a file to disk that has
grown takes ten times as long as forcing one that was written over, since the file system has to note its new size."""
SEAL_BYTES: Final = 8
"""Of a row's checksum: against accidents; who may write the file could sign in our name as well."""
OUTSIDE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
}
"""SQLite's codes for what is no damage of the file."""

T = TypeVar("T")

SCHEMA: Final = """
CREATE TABLE origin (slot INTEGER PRIMARY KEY CHECK (slot = 0), chain TEXT NOT NULL, identity TEXT NOT NULL) STRICT;
CREATE TABLE summary (slot INTEGER PRIMARY KEY CHECK (slot = 0), value BLOB NOT NULL, seal BLOB NOT NULL) STRICT;
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
MANIFEST: Final = -1
"""The part of a snapshot that is the manifest of the others."""


class StoreError(TallystickError):
    """The store cannot be used, or was asked to contradict what it holds."""


class DamagedError(StoreError):
    """The store is not what was written: what this validator signed is not known for sure any more."""

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(f"{path}: {what}; not voting. Run `tallystick validator recover` on this validator's folder")


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


class _Summary(msgspec.Struct, array_like=True):
    """Rewritten by every commit."""

    turn: int = 0
    """Commits so far."""
    votes: int = 0
    """Rows in `votes`."""
    height: int = 0
    digest: bytes = b""
    time_ms: int = 0


class Store:
    """The durable state of one validator on one chain. What was saved since the last `settle` or `commit` is lost in a
    crash, all of it.

    Raises:
        DamagedError: the file is not what was written last.
        StoreError: it belongs to another chain, validator, version or running process.
    """

    def __init__(
        self, path: Path, chain: str, identity: str, *, retain: int = RETAIN_BLOCKS, forgotten: bool = False
    ) -> None:
        """Opens `path`, or creates it; with `forgotten` in place of a lost one, so that it starts muted."""
        self.path, self._retain = path, retain
        self._mark = path.with_suffix(".turn")
        self._dirty, self._synced = False, True
        self._given: dict[tuple[int, int, int, str], bytes] = {}
        """Digests of the votes that are stored, by epoch, view, height and phase."""
        self._db = _connect(path)
        try:
            self._open(chain, identity, forgotten)
            self._summary = self._load_summary()
            self._check()
            self._log = self._open_log()
        except sqlite3.DatabaseError as error:
            self._db.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in OUTSIDE:  # what Python cannot decode has no code
                raise StoreError(f"{path}: {error}; is another process using this store, is the disk full?") from None
            raise DamagedError(path, str(error)) from None
        except (ValueError, msgspec.DecodeError) as error:
            self._db.close()
            raise DamagedError(path, str(error)) from None
        except OSError as error:
            self._db.close()
            raise StoreError(f"{path}: {error.strerror}; is the disk full?") from None
        except StoreError:
            self._db.close()
            raise
        self._turns = os.open(self._mark, os.O_WRONLY)

    def close(self) -> None:
        """Commits what has gathered, and gives the file back."""
        self.commit()
        os.close(self._log)
        os.close(self._turns)
        self._db.close()

    def hand_over(self, identity: str) -> None:
        """Closes the store for its validator, whose identity is another one from now on."""
        self._change("UPDATE origin SET identity = ?", identity)
        self.close()

    def commit(self) -> bool:
        """Everything saved so far is on disk when this returns. Whether there was anything."""
        self.settle()
        if self._synced:
            return False
        os.fdatasync(self._log)
        os.pwrite(self._turns, _mark_of(self._summary.turn), 0)
        self._synced = True
        return True

    def settle(self) -> None:
        """Everything saved so far is the system's, and comes back after a crash of this process."""
        if self._dirty:
            self._summary.turn += 1
            self._save_summary()
            self._db.execute("COMMIT")
            self._dirty = self._synced = False

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
                self._insert("contents", (record.height, record.content), replace=True)
            case ViewRecord() | MuteRecord():
                self._save_latest(record)

    def votes(self) -> tuple[VoteRecord, ...]:
        """All votes above the last stable checkpoint, in the order in which they were given."""
        query = "SELECT epoch, view, height, phase, digest, block, proof, seal FROM votes ORDER BY rowid"
        rows = [self._checked("votes", row) for row in self._db.execute(query)]
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
        query = "SELECT number, proof, seal FROM history WHERE number >= ? ORDER BY number LIMIT ?"
        rows = self._db.execute(query, (start, most))
        return tuple(self._checked("history", row)[1] for row in rows)

    def contents(self) -> tuple[ContentRecord, ...]:
        """Of checkpoints above the last stable one, in order."""
        rows = self._db.execute("SELECT height, content, seal FROM contents ORDER BY height")
        return tuple(ContentRecord(*self._checked("contents", row)) for row in rows)

    # ---- blocks

    def save_block(self, block: StoredBlock) -> None:
        """Appends a block to the head."""
        if block.height != self._summary.height + 1:
            raise StoreError(f"{self.path}: block {block.height} cannot follow block {self._summary.height}")
        row = (block.height, block.digest, block.time_ms, block.block, block.certificate)
        self._insert("blocks", row)
        self._set_head(Head(block.height, block.digest, block.time_ms))

    def head(self) -> Head | None:
        """None before the first block."""
        now = self._summary
        return Head(now.height, now.digest, now.time_ms) if now.height else None

    def first_height(self) -> int:
        """Of the oldest stored block; one above the head if there is none."""
        (height,) = self._db.execute("SELECT min(height) FROM blocks").fetchone()
        return self._summary.height + 1 if height is None else int(height)

    def blocks(self, first: int, last: int) -> Iterable[StoredBlock]:
        """Blocks `first` to `last`, both included, as far as they are there without a gap."""
        query = """SELECT height, digest, time_ms, block, certificate, seal
                   FROM blocks WHERE height BETWEEN ? AND ? ORDER BY height"""
        for expected, row in enumerate(self._db.execute(query, (first, last)), first):
            stored = StoredBlock(*self._checked("blocks", row))
            if stored.height != expected:
                return
            yield stored

    def blocks_within(self, first: int, last: int, max_bytes: int) -> list[StoredBlock]:
        """As many of `blocks` as take, with their certificates, no more than `max_bytes`."""
        chosen: list[StoredBlock] = []
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
        self._change("DELETE FROM snapshots WHERE height = ?", height)
        for part, chunk in enumerate([manifest, *parts], MANIFEST):
            self._insert("snapshots", (height, part, chunk))

    def snapshot_part(self, height: int, part: int) -> bytes | None:
        """A chunk, or with `MANIFEST` the manifest; None if there is no such snapshot or part."""
        query = "SELECT height, part, data, seal FROM snapshots WHERE height = ? AND part = ?"
        row = self._db.execute(query, (height, part)).fetchone()
        return None if row is None else self._checked("snapshots", row)[2]

    def snapshot(self, height: int) -> bytes | None:
        """The whole state, if it is here."""
        query = "SELECT height, part, data, seal FROM snapshots WHERE height = ? ORDER BY part"
        parts = [self._checked("snapshots", row) for row in self._db.execute(query, (height,))]
        if not parts:
            return None
        data = b"".join(chunk for _, _, chunk in parts[1:])
        if manifest_of(data) != parts[0][2]:
            raise DamagedError(self.path, f"a part of the snapshot at {height} is gone")
        return data

    # ---- a transfer under way

    def start_transfer(self, proofs: tuple[bytes, ...], manifest: bytes) -> None:
        """Forgets what an earlier transfer saved."""
        self._change("DELETE FROM chunks")
        self._save_latest(_Transfer(proofs, manifest))

    def save_chunk(self, index: int, data: bytes) -> None:
        self._change("DELETE FROM chunks WHERE number = ?", index)
        self._insert("chunks", (index, data))

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
            self._change(f"DELETE FROM {table}")  # noqa: S608  # our own names
        self._change("DELETE FROM latest WHERE kind = ?", _Transfer.__name__)
        self._set_head(head)
        self._save_epoch(epoch)
        for number, proof in enumerate(history):
            self._insert("history", (number, proof))
        self._save_checkpoint(checkpoint)
        self.save_snapshot(head.height, started.manifest, data)
        return data

    # ---- rows

    def _change(self, statement: str, *values: Any) -> int:
        """Executes inside the transaction that the next `commit` ends; returns how many rows it changed."""
        if not self._dirty:
            self._db.execute("BEGIN IMMEDIATE")
            self._dirty = True
        return self._db.execute(statement, values).rowcount

    def _insert(self, table: str, row: tuple[Any, ...], *, replace: bool = False) -> None:
        places = ", ".join("?" * (len(row) + 1))
        how = "INSERT OR REPLACE" if replace else "INSERT"
        self._change(f"{how} INTO {table} VALUES ({places})", *row, _seal(table, row))

    def _checked(self, table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row without its seal, if that fits."""
        *values, seal = row
        if seal != _seal(table, values):
            raise DamagedError(self.path, f"a row of `{table}` ({values[0]}) is not what was written")
        return tuple(values)

    def _save_vote(self, vote: VoteRecord) -> None:
        slot = (vote.epoch, vote.view, vote.height, vote.phase.value)
        given = self._given.setdefault(slot, vote.digest)
        if given != vote.digest:
            where = f"{vote.phase} at epoch {vote.epoch}, view {vote.view}, height {vote.height}"
            raise StoreError(f"{self.path}: another vote is stored for {where}; voting twice is refused")
        self._insert("votes", (*slot, vote.digest, vote.block, vote.proof), replace=True)
        self._summary.votes = len(self._given)

    def _forget_votes(self, settled: Callable[[int, int], bool]) -> None:
        self._given = {slot: digest for slot, digest in self._given.items() if not settled(slot[0], slot[2])}
        self._summary.votes = len(self._given)

    def _save_epoch(self, record: EpochRecord) -> None:
        """Keeps it and the one before, and forgets the votes of those."""
        before = tuple(known for known in self.epochs() if known.epoch < record.epoch)
        self._save_latest(_Epochs((*before[-1:], record)))
        self._change("DELETE FROM votes WHERE epoch < ?", record.epoch)
        self._forget_votes(lambda epoch, height: epoch < record.epoch)

    def _save_checkpoint(self, record: CheckpointRecord) -> None:
        """Keeps a stable checkpoint, and forgets what it covers.

        The snapshot of the one before stays: a peer may be in the middle of fetching it.
        """
        before = self._latest(CheckpointRecord) or record
        self._save_latest(record)
        history = self.history()
        if record.ends and record.proof not in history[-1:]:
            self._insert("history", (len(history), record.proof))
        self._change("DELETE FROM votes WHERE height <= ?", record.height)
        self._forget_votes(lambda epoch, height: height <= record.height)
        self._change("DELETE FROM snapshots WHERE height < ?", min(before.height, record.height))
        self._change("DELETE FROM contents WHERE height <= ?", record.height)
        oldest = min(record.height, self._summary.height - self._retain)
        self._change("DELETE FROM blocks WHERE height <= ?", oldest)

    def _save_latest(self, record: Any) -> None:
        row = (type(record).__name__, msgspec.msgpack.encode(record))
        self._insert("latest", row, replace=True)

    def _latest(self, kind: type[T]) -> T | None:
        query = "SELECT kind, value, seal FROM latest WHERE kind = ?"
        row = self._db.execute(query, (kind.__name__,)).fetchone()
        return None if row is None else msgspec.msgpack.decode(self._checked("latest", row)[1], type=kind)

    def _chunks(self) -> list[tuple[int, bytes]]:
        rows = self._db.execute("SELECT number, data, seal FROM chunks ORDER BY number")
        return [(number, data) for number, data in (self._checked("chunks", row) for row in rows)]

    def _set_head(self, head: Head) -> None:
        self._summary.height, self._summary.digest, self._summary.time_ms = head.height, head.digest, head.time_ms

    def _save_summary(self) -> None:
        self._insert("summary", (0, msgspec.msgpack.encode(self._summary)), replace=True)

    # ---- opening

    def _open(self, chain: str, identity: str, forgotten: bool) -> None:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self._db.execute("BEGIN IMMEDIATE")  # takes the lock, or fails
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._create(chain, identity, forgotten)
        self._db.execute("COMMIT")
        if version not in {0, VERSION}:
            raise StoreError(f"{self.path}: store version {version}, this program knows {VERSION}")
        owner = self._db.execute("SELECT chain, identity FROM origin").fetchone() or ("nothing", "nobody")
        if owner != (chain, identity):
            wanted = f"validator {identity[:12]} on chain {chain}"
            raise StoreError(f"{self.path}: belongs to validator {owner[1][:12]} on chain {owner[0]}, not {wanted}")

    def _open_log(self) -> int:
        """SQLite's log, to force it to disk ourselves. It is one file from the first change after opening to the end.

        Changing something here makes it, and `FULL` makes its name durable.
        """
        self._save_summary()
        self._db.execute("COMMIT")
        self._dirty = False
        self._db.execute("PRAGMA synchronous = NORMAL")
        log = os.open(f"{self.path}-wal", os.O_RDWR)
        size = os.fstat(log).st_size
        os.pwrite(log, bytes(max(0, LOG_BYTES - size)), size)  # no frame of SQLite's is all zeros: its log ends there
        os.fsync(log)
        return log

    def _create(self, chain: str, identity: str, forgotten: bool) -> None:
        if self._mark.exists():
            raise DamagedError(self.path, f"is new or empty, but {self._mark.name} says that this validator has voted")
        for statement in SCHEMA.split(";\n")[:-1]:
            self._db.execute(statement)
        self._db.execute("INSERT INTO origin VALUES (0, ?, ?)", (chain, identity))
        self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._summary, self._dirty = _Summary(), True
        if forgotten:
            self._save_latest(MuteRecord())
        self._save_summary()
        self._dirty = False
        write_whole(self._mark, _mark_of(0))

    def _load_summary(self) -> _Summary:
        row = self._db.execute("SELECT slot, value, seal FROM summary").fetchone()
        if row is None:
            raise DamagedError(self.path, "its summary is gone")
        summary = msgspec.msgpack.decode(self._checked("summary", row)[1], type=_Summary)
        turns = _turns_of(self._mark)
        if turns is None:
            raise DamagedError(self._mark, "missing or changed, so nobody knows whether the log beside it is whole")
        if summary.turn < turns:
            lost = turns - summary.turn
            raise DamagedError(self.path, f"the last {lost} of {turns} commits are gone; a lost end, or an older copy")
        return summary

    def _check(self) -> None:
        """Reads everything that decides what this validator may sign."""
        votes = self.votes()
        if len(votes) != self._summary.votes:
            raise DamagedError(self.path, f"{len(votes)} votes are here, {self._summary.votes} were given")
        self._given = {(vote.epoch, vote.view, vote.height, vote.phase.value): vote.digest for vote in votes}
        checkpoint = self.checkpoint()
        self.view(), self.epochs(), self.mute(), self.history(), self.contents(), self.transfer()
        above = checkpoint.height if checkpoint else 0
        count = sum(1 for _ in self.blocks(max(above + 1, self.first_height()), self._summary.height))
        if count < self._summary.height - above:
            raise DamagedError(self.path, f"{count} blocks above the checkpoint at {above}, the head is {self.head()}")
        if checkpoint is not None and self.snapshot(checkpoint.height) is None:
            raise DamagedError(self.path, f"the snapshot of the checkpoint at {checkpoint.height} is gone")


def owner_of(path: Path) -> str | None:
    """The identity of the validator that a store belongs to; None if there is none. Its other contents stay unread."""
    if not path.exists():
        return None
    try:
        with closing(_connect(path)) as db:
            row = db.execute("SELECT identity FROM origin").fetchone()
    except sqlite3.Error:
        return None
    return row[0] if row else None


class _Transfer(msgspec.Struct, array_like=True):
    proofs: tuple[bytes, ...]
    manifest: bytes


class _Epochs(msgspec.Struct, array_like=True):
    last: tuple[EpochRecord, ...]


def _seal(table: str, row: Sequence[Any]) -> bytes:
    return sha256(msgspec.msgpack.encode((table, *row))).digest()[:SEAL_BYTES]


def _mark_of(turns: int) -> bytes:
    text = f"{turns:020d}"
    return f"{text} {sha256(text.encode()).hexdigest()[:16]}\n".encode()


def _turns_of(mark: Path) -> int | None:
    try:
        data = mark.read_bytes()
        turns = int(data[:20])
    except (OSError, ValueError):
        return None
    return turns if data == _mark_of(turns) else None


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; does its folder exist and may this user write to it?") from None

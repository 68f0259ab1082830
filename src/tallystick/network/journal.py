"""A validator's executed history in SQLite: snapshots of the state, results of transactions, events.

The engine keeps the blocks, durably; everything here can be computed again from them. So what blocks gave gathers in
memory, and is written when it is read, when it is GATHERED_BYTES, or with the snapshot of every SNAPSHOT_INTERVAL
blocks; what lies above the last snapshot is dropped at start and executed again.

Results are one row for each block, and found through an index in memory. An index on disk, in the random order of
hashes, costs a page for each transaction: at 600,000 of them 50 microseconds each, more than executing them. So only
the last KEPT_RESULTS can be looked up; what became of the last transaction of an account is in the state for ever.

Every row carries a seal as those of `tables` do, and the snapshot says how many rows of results there are: what was
changed or lost of the state or of the results is noticed at the start, and a changed event when it is read.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tallystick.errors import Refused
from tallystick.ledger.events import Event, Result
from tallystick.ledger.state import State, dump_state, load_state
from tallystick.network.tables import BUSY_SECONDS, DamagedError, Row, blaming, sealed_insertion, sealed_rows
from tallystick.network.views import EventView, TransactionView, fitting

SNAPSHOT_INTERVAL: Final = 64
MAX_EVENTS: Final = 1000
"""Most events in one reply,"""
MAX_EVENT_BYTES: Final = 2**20
"""and most bytes of them, but for one: each is smaller than that."""
KEPT_RESULTS: Final = 100_000
KEPT_EVENTS: Final = 100_000
GATHERED_BYTES: Final = 2**20
"""Most that waits in memory to be written: little enough for a turn of the engine."""
ROW_BYTES: Final = 64
"""What a row counts for beside its body."""

SCHEMA: Final = (
    "CREATE TABLE snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), height INTEGER NOT NULL, "
    "results INTEGER NOT NULL, state BLOB NOT NULL, seal BLOB NOT NULL) STRICT",
    "CREATE TABLE results (height INTEGER PRIMARY KEY, body BLOB NOT NULL, seal BLOB NOT NULL) STRICT",
    "CREATE TABLE event (sequence INTEGER PRIMARY KEY, height INTEGER NOT NULL, body BLOB NOT NULL, "
    "seal BLOB NOT NULL) STRICT",
)

SPOILED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT}
"""SQLite's codes for what a sound disk does not do to a file."""

Outcome = tuple[int, str, str, tuple[str, ...]]
"""Height, code, reason, codes of a batch's items."""


class BlockResults(msgspec.Struct, array_like=True):
    """The results of one block as they are stored: all hashes, 32 bytes each, and those that are not simply `ok`."""

    hashes: bytes
    others: dict[int, tuple[str, str, tuple[str, ...]]]
    """By the transaction's place in the block."""


class Journal:
    """Owns one SQLite file; used from one thread.

    Args:
        kept_results: how many of the newest results can be looked up,
        kept_events: and of the newest events, at least; older ones go with the next snapshot.

    Raises:
        DamagedError: the file does not hold what was written to it; also from every method.
        StoreError: it cannot be opened.
    """

    def __init__(self, path: Path, kept_results: int = KEPT_RESULTS, kept_events: int = KEPT_EVENTS) -> None:
        self.path, self._kept, self._kept_events = path, kept_results, kept_events
        with blaming(path):
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with blaming(path):
                self._open()
        except BaseException:
            self._db.close()
            raise
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()
        """Oldest first. The front of a plain dict is found by passing over all that was deleted there."""
        self._rows = 0
        """Of results, on disk."""
        self._results: list[Row] = []
        self._events: list[Row] = []
        """Rows of both tables that are not on disk yet, in order."""
        self._gathered = 0
        """Bytes of both."""

    def _open(self) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # two processes would write two histories into one file
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("BEGIN IMMEDIATE")  # takes the lock, or fails
        self._db.execute("COMMIT")
        found = tuple(text for (text,) in self._db.execute("SELECT sql FROM sqlite_schema ORDER BY rowid"))
        if not found:
            with self._transaction():
                for statement in SCHEMA:
                    self._db.execute(statement)
        elif found != SCHEMA:
            raise DamagedError(self.path, "its tables are not those that this tallystick writes")

    def restore(self) -> State | None:
        """The last snapshot, or None; drops everything that came after it."""
        with blaming(self.path):
            found = [row[1:] for row in self._read("snapshot")]
            height, rows, data = found[0] if found else (0, 0, None)
            self._drop_above(height)
            if self._rows != rows:
                raise DamagedError(self.path, f"results of {self._rows} blocks are here, of {rows} were written")
            if data is None:
                return None
            try:
                return load_state(data)
            except Refused as refused:  # sealed, so by another version
                raise DamagedError(self.path, f"the saved state cannot be read: {refused}") from None

    def start_from(self, state: State) -> None:
        """Goes on from a state that was not reached by executing blocks here, on disk when this returns. What is
        there of the blocks before it stays, so history has a gap."""
        self._write()
        with self._transaction():
            self._drop_above(state.height)
            self._snapshot(state, self._rows)
        self._db.execute("PRAGMA wal_checkpoint(FULL)")

    def append(self, state: State, results: Sequence[Result], events: Sequence[Event]) -> None:
        """Keeps what executing one block gave."""
        height, first = state.height, state.events - len(events)
        gave: list[Row] = [(height, msgspec.msgpack.encode(_block_results(results)))] if results else []
        rows: list[Row] = [(first + i, height, msgspec.json.encode(event)) for i, event in enumerate(events, start=1)]
        self._results += gave
        self._events += rows
        self._gathered += sum(ROW_BYTES + len(row[-1]) for row in (*gave, *rows))
        if height % SNAPSHOT_INTERVAL == 0:
            self._write(state)
        elif self._gathered > GATHERED_BYTES:
            self._write()
        for result in results:
            self._remember(bytes.fromhex(result.hash), (height, result.code, result.reason, result.items))

    def close(self, state: State) -> None:
        """Takes a last snapshot, so that the next start has nothing to execute again."""
        # What a block gave that could not be written is above `state`: the next start would drop it and miss it.
        self._results = [row for row in self._results if row[0] <= state.height]
        try:
            with blaming(self.path):
                self._write(state)
        finally:
            self._db.close()

    def abandon(self) -> None:
        """Closes the file as a crash would."""
        self._db.close()

    def result(self, transaction: str) -> TransactionView | None:
        """What became of a transaction, by its hash; None if it is not among the newest."""
        outcome = self._outcomes.get(bytes.fromhex(transaction))
        return TransactionView(transaction, *outcome) if outcome else None

    def events(self, after: int) -> list[EventView]:
        """Events with a number above `after` that are still here, oldest first; a page of them."""
        with blaming(self.path):
            if self._events:
                self._write()
            rows = self._read("event", "WHERE sequence > ? ORDER BY sequence LIMIT ?", after, MAX_EVENTS)
            page = list(fitting(rows, lambda row: len(row[-1]), MAX_EVENT_BYTES))
        return [EventView(sequence, height, msgspec.Raw(body)) for sequence, height, body in page]

    def _read(self, table: str, which: str = "", *values: int) -> Iterator[Row]:
        return sealed_rows(self._db, self.path, table, which, *values)

    def _remember(self, name: bytes, outcome: Outcome) -> None:
        """The first result of a transaction stays: one that comes again is refused as stale, which says nothing."""
        if name not in self._outcomes:
            self._outcomes[name] = outcome
            if len(self._outcomes) > self._kept:
                self._outcomes.popitem(last=False)

    def _write(self, state: State | None = None) -> None:
        """What has gathered, with a snapshot if there is a `state` to take: all of it, or none and it still waits."""
        with self._transaction():
            for table, rows in (("results", self._results), ("event", self._events)):
                for row in rows:
                    self._db.execute(*sealed_insertion(table, row))
            count = self._rows + len(self._results)
            if state is not None:
                count -= self._forget_results()
                self._db.execute("DELETE FROM event WHERE sequence <= ?", (state.events - self._kept_events,))
                self._snapshot(state, count)
        self._rows, self._results, self._events, self._gathered = count, [], [], 0

    def _forget_results(self) -> int:
        """Deletes the rows of which nothing is remembered any more; returns how many."""
        if len(self._outcomes) < self._kept:
            return 0
        oldest = next(iter(self._outcomes.values()))[0]
        return self._db.execute("DELETE FROM results WHERE height < ?", (oldest,)).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Tells damage from what a disk may do, such as being full, which ends the node in another way."""
        try:
            self._db.execute("BEGIN")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in SPOILED:
                raise DamagedError(self.path, str(error)) from None
            raise

    def _drop_above(self, height: int) -> None:
        self._db.execute("DELETE FROM results WHERE height > ?", (height,))
        self._db.execute("DELETE FROM event WHERE height > ?", (height,))
        self._outcomes, self._rows = OrderedDict(), 0
        for row in self._read("results", "ORDER BY height"):
            self._rows += 1
            for name, outcome in _outcomes(*row):
                self._remember(name, outcome)

    def _snapshot(self, state: State, results: int) -> None:
        row = (1, state.height, results, dump_state(state))
        self._db.execute(*sealed_insertion("snapshot", row, replace=True))


def _block_results(results: Sequence[Result]) -> BlockResults:
    hashes = bytes.fromhex("".join(result.hash for result in results))
    others = {i: (r.code, r.reason, r.items) for i, r in enumerate(results) if r.code != "ok"}
    return BlockResults(hashes, others)


def _outcomes(height: int, body: bytes) -> Iterator[tuple[bytes, Outcome]]:
    stored = msgspec.msgpack.decode(body, type=BlockResults)
    for place in range(len(stored.hashes) // 32):
        name = stored.hashes[32 * place : 32 * place + 32]
        yield name, (height, *stored.others.get(place, ("ok", "", ())))

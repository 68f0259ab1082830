"""A validator's executed history in SQLite: snapshots of the state, results of transactions, events.

The engine keeps the blocks, durably; everything here can be computed again from them. So writes are not forced to disk
one by one, a snapshot is taken every SNAPSHOT_INTERVAL blocks, and what lies above the last snapshot is dropped at
start and executed again.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tallystick.ledger.events import Event, Result
from tallystick.ledger.state import State, dump_state, load_state
from tallystick.network.views import EventView, TransactionView

SNAPSHOT_INTERVAL: Final = 64
MAX_EVENTS: Final = 1000
"""Most events in one reply."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), height INTEGER, state BLOB) STRICT;
CREATE TABLE IF NOT EXISTS result (hash TEXT PRIMARY KEY, height INTEGER, code TEXT, reason TEXT) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (sequence INTEGER PRIMARY KEY, height INTEGER, body BLOB) STRICT;
"""


class Journal:
    """Owns one SQLite file; used from one thread."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def restore(self) -> State | None:
        """The last snapshot, or None; drops everything that came after it."""
        row = self._db.execute("SELECT height, state FROM snapshot").fetchone()
        self._drop_above(row[0] if row else 0)
        return load_state(row[1]) if row else None

    def start_from(self, state: State) -> None:
        """Goes on from a state that was not reached by executing blocks here, on disk when this returns. What is
        there of the blocks before it stays, so history has a gap."""
        with self._transaction():
            self._drop_above(state.height)
            self._snapshot(state)
        self._db.execute("PRAGMA wal_checkpoint(FULL)")

    def append(self, state: State, results: Sequence[Result], events: Sequence[Event]) -> None:
        """Stores what executing one block gave."""
        height = state.height
        with self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO result VALUES (?, ?, ?, ?)",
                [(result.hash, height, result.code, result.reason) for result in results],
            )
            self._db.executemany(
                "INSERT INTO event (height, body) VALUES (?, ?)",
                [(height, msgspec.json.encode(event)) for event in events],
            )
            if height % SNAPSHOT_INTERVAL == 0:
                self._snapshot(state)

    def close(self, state: State) -> None:
        """Takes a last snapshot, so that the next start has nothing to execute again."""
        self._snapshot(state)
        self._db.close()

    def result(self, transaction: str) -> TransactionView | None:
        row = self._db.execute("SELECT height, code, reason FROM result WHERE hash = ?", (transaction,)).fetchone()
        return TransactionView(transaction, *row) if row else None

    def events(self, after: int) -> list[EventView]:
        """Events with a sequence number above `after`, oldest first."""
        query = "SELECT sequence, height, body FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?"
        rows = self._db.execute(query, (after, MAX_EVENTS))
        return [EventView(sequence, height, msgspec.Raw(body)) for sequence, height, body in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _drop_above(self, height: int) -> None:
        self._db.execute("DELETE FROM result WHERE height > ?", (height,))
        self._db.execute("DELETE FROM event WHERE height > ?", (height,))

    def _snapshot(self, state: State) -> None:
        self._db.execute("INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?)", (state.height, dump_state(state)))

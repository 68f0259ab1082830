"""A validator's executed history in SQLite: snapshots of the state, results of transactions, events.

The engine keeps the blocks, durably; everything here can be computed again from them. So writes are not forced to disk
one by one, a snapshot is taken every SNAPSHOT_INTERVAL blocks, and what lies above the last snapshot is dropped at
start and executed again.

Results are one row for each block, and found through an index in memory. An index on disk, in the random order of
hashes, costs a page for each transaction: at 600,000 of them 50 microseconds each, more than executing them. So only
the last KEPT_RESULTS can be looked up; what became of the last transaction of an account is in the state for ever.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from tallystick.canon.hashing import DIGEST_BYTES
from tallystick.errors import TallystickError
from tallystick.ledger.events import Event, Result
from tallystick.ledger.state import State, dump_state, load_state
from tallystick.network.views import EventView, TransactionView

SNAPSHOT_INTERVAL: Final = 64
MAX_EVENTS: Final = 1000
"""Most events in one reply."""
KEPT_RESULTS: Final = 100_000

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), height INTEGER, state BLOB) STRICT;
CREATE TABLE IF NOT EXISTS results (height INTEGER PRIMARY KEY, body BLOB) STRICT;
CREATE TABLE IF NOT EXISTS event (sequence INTEGER PRIMARY KEY, height INTEGER, body BLOB) STRICT;
"""

Outcome = tuple[int, str, str, tuple[str, ...]]
"""Height, code, reason, codes of a batch's items."""


class JournalError(TallystickError):
    """The file does not hold what was written to it."""


class BlockResults(msgspec.Struct, array_like=True):
    """The results of one block as they are stored: all hashes, 32 bytes each, and those that are not simply `ok`."""

    hashes: bytes
    others: dict[int, tuple[str, str, tuple[str, ...]]]
    """By the transaction's place in the block."""


class Journal:
    """Owns one SQLite file; used from one thread.

    Args:
        kept_results: how many of the newest results can be looked up.
    """

    def __init__(self, path: Path, kept_results: int = KEPT_RESULTS) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)
        self._kept = kept_results
        self._outcomes: dict[bytes, Outcome] = {}
        """Oldest first."""

    def restore(self) -> State | None:
        """The last snapshot, or None; drops everything that came after it.

        Raises:
            JournalError: the snapshot is not what was written.
        """
        row = self._db.execute("SELECT height, state FROM snapshot").fetchone()
        self._drop_above(row[0] if row else 0)
        if row is None:
            return None
        seal, state = row[1][:DIGEST_BYTES], row[1][DIGEST_BYTES:]
        if seal != sha256(state).digest():
            raise JournalError("the saved state is not what was written; run `tallystick validator recover`")
        return load_state(state)

    def start_from(self, state: State) -> None:
        """Goes on from a state that was not reached by executing blocks here, on disk when this returns. What is
        there of the blocks before it stays, so history has a gap."""
        with self._transaction():
            self._drop_above(state.height)
            self._snapshot(state)
        self._db.execute("PRAGMA wal_checkpoint(FULL)")

    def append(self, state: State, results: Sequence[Result], events: Sequence[Event]) -> None:
        """Stores what executing one block gave."""
        height, first = state.height, state.events - len(events)
        with self._transaction():
            if results:
                body = msgspec.msgpack.encode(_block_results(results))
                self._db.execute("INSERT INTO results VALUES (?, ?)", (height, body))
            self._db.executemany(
                "INSERT INTO event VALUES (?, ?, ?)",
                [(first + i, height, msgspec.json.encode(event)) for i, event in enumerate(events, start=1)],
            )
            if height % SNAPSHOT_INTERVAL == 0:
                self._snapshot(state)
                self._forget_results()
        for result in results:
            self._remember(bytes.fromhex(result.hash), (height, result.code, result.reason, result.items))

    def close(self, state: State) -> None:
        """Takes a last snapshot, so that the next start has nothing to execute again."""
        self._snapshot(state)
        self._db.close()

    def abandon(self) -> None:
        """Closes the file as a crash would."""
        self._db.close()

    def result(self, transaction: str) -> TransactionView | None:
        """What became of a transaction, by its hash; None if it is not among the newest."""
        outcome = self._outcomes.get(bytes.fromhex(transaction))
        return TransactionView(transaction, *outcome) if outcome else None

    def events(self, after: int) -> list[EventView]:
        """Events with a number above `after`, oldest first."""
        query = "SELECT sequence, height, body FROM event WHERE sequence > ? ORDER BY sequence LIMIT ?"
        rows = self._db.execute(query, (after, MAX_EVENTS))
        return [EventView(sequence, height, msgspec.Raw(body)) for sequence, height, body in rows]

    def _remember(self, name: bytes, outcome: Outcome) -> None:
        """The first result of a transaction stays: one that comes again is refused as stale, which says nothing."""
        if name not in self._outcomes:
            self._outcomes[name] = outcome
            if len(self._outcomes) > self._kept:
                del self._outcomes[next(iter(self._outcomes))]

    def _forget_results(self) -> None:
        """Deletes the rows of which nothing is remembered any more."""
        if len(self._outcomes) == self._kept:
            oldest = next(iter(self._outcomes.values()))[0]
            self._db.execute("DELETE FROM results WHERE height < ?", (oldest,))

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
        self._db.execute("DELETE FROM results WHERE height > ?", (height,))
        self._db.execute("DELETE FROM event WHERE height > ?", (height,))
        self._outcomes = {}
        for row in self._db.execute("SELECT height, body FROM results ORDER BY height"):
            for name, outcome in _outcomes(*row):
                self._remember(name, outcome)

    def _snapshot(self, state: State) -> None:
        data = dump_state(state)
        row = (state.height, sha256(data).digest() + data)
        self._db.execute("INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?)", row)


def _block_results(results: Sequence[Result]) -> BlockResults:
    hashes = bytes.fromhex("".join(result.hash for result in results))
    others = {i: (r.code, r.reason, r.items) for i, r in enumerate(results) if r.code != "ok"}
    return BlockResults(hashes, others)


def _outcomes(height: int, body: bytes) -> Iterator[tuple[bytes, Outcome]]:
    stored = msgspec.msgpack.decode(body, type=BlockResults)
    for place in range(len(stored.hashes) // 32):
        name = stored.hashes[32 * place : 32 * place + 32]
        yield name, (height, *stored.others.get(place, ("ok", "", ())))

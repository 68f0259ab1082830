"""What a validator must not lose: blocks with their certificates, its own votes, and the application's state.

One SQLite file, held by one process: two validators on one store would vote twice. A transaction here is on disk when
it is committed (`synchronous=FULL`); grouping records in one transaction is what makes that affordable.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tallystick.consensus.pbft.io import Phase, VoteRecord
from tallystick.errors import TallystickError

VERSION: Final = 1
BUSY_SECONDS: Final = 2.0

SCHEMA: Final = """
CREATE TABLE origin (slot INTEGER PRIMARY KEY CHECK (slot = 0), chain TEXT NOT NULL, identity TEXT NOT NULL) STRICT;
CREATE TABLE blocks (height INTEGER PRIMARY KEY, block BLOB NOT NULL, certificate BLOB NOT NULL) STRICT;
CREATE TABLE votes (
    epoch INTEGER NOT NULL, view INTEGER NOT NULL, height INTEGER NOT NULL, phase TEXT NOT NULL,
    digest BLOB NOT NULL, block BLOB NOT NULL,
    PRIMARY KEY (epoch, view, height, phase)
) STRICT;
CREATE TABLE executed (
    slot INTEGER PRIMARY KEY CHECK (slot = 0), height INTEGER NOT NULL, state BLOB NOT NULL
) STRICT;
"""


class StoreError(TallystickError):
    """The store cannot be used, or was asked to contradict what it holds."""


@dataclass(frozen=True)
class StoredBlock:
    height: int
    block: bytes
    """Encoded, as it was agreed on."""
    certificate: bytes


class Store:
    """The durable state of one validator on one chain.

    Raises:
        StoreError: the file belongs to another chain, validator, version or running process.
    """

    def __init__(self, path: Path | str, chain: str, identity: str) -> None:
        self._path = str(path)
        self._depth = 0
        self.connection = _connect(self._path)
        """For an application that keeps its own tables in this file; change them inside `transaction()`."""
        try:
            self._open(chain, identity)
        except sqlite3.Error as error:
            self.connection.close()
            raise StoreError(f"{self._path}: {error}; is another process using this store?") from None
        except StoreError:
            self.connection.close()
            raise

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is on disk together when the outermost of nested transactions ends, or not at all."""
        if self._depth == 0:
            self.connection.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self.connection.execute("ROLLBACK")
            raise
        self._depth -= 1
        if self._depth == 0:
            self.connection.execute("COMMIT")

    # ---- consensus

    def save_vote(self, record: VoteRecord) -> None:
        """Raises `StoreError` if a vote for the same epoch, view, height and phase is there already."""
        row = (record.epoch, record.view, record.height, record.phase.value, record.digest, record.block)
        try:
            self.connection.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            slot = f"{record.phase} at view {record.view}, height {record.height}"
            raise StoreError(f"{self._path}: a vote is stored already for {slot}; voting twice is refused") from None

    def votes(self) -> tuple[VoteRecord, ...]:
        """All votes above the last block, in the order in which they were given."""
        rows = self.connection.execute("SELECT epoch, view, height, phase, digest, block FROM votes ORDER BY rowid")
        return tuple(VoteRecord(e, v, h, Phase(phase), digest, block) for e, v, h, phase, digest, block in rows)

    def save_block(self, height: int, block: bytes, certificate: bytes) -> None:
        """Appends a block and forgets the votes that it settles."""
        last = self.last_height()
        if height != last + 1:
            raise StoreError(f"{self._path}: block {height} cannot follow block {last}")
        with self.transaction():
            self.connection.execute("INSERT INTO blocks VALUES (?, ?, ?)", (height, block, certificate))
            self.connection.execute("DELETE FROM votes WHERE height <= ?", (height,))

    def last_height(self) -> int:
        """0 if there is no block."""
        (height,) = self.connection.execute("SELECT coalesce(max(height), 0) FROM blocks").fetchone()
        return int(height)

    def last_block(self) -> StoredBlock | None:
        return next(iter(self.blocks(max(1, height := self.last_height()), height)), None)

    def blocks(self, first: int, last: int) -> Iterable[StoredBlock]:
        """Blocks `first` to `last`, both included, as far as they are there."""
        rows = self.connection.execute(
            "SELECT height, block, certificate FROM blocks WHERE height BETWEEN ? AND ? ORDER BY height", (first, last)
        )
        for height, block, certificate in rows:
            yield StoredBlock(height, block, certificate)

    # ---- application

    def save_executed(self, height: int, state: bytes) -> None:
        """Replaces the application's state by the one after block `height`."""
        self.connection.execute("INSERT OR REPLACE INTO executed VALUES (0, ?, ?)", (height, state))

    def executed(self) -> tuple[int, bytes] | None:
        """The last saved height and state."""
        row: tuple[int, bytes] | None = self.connection.execute("SELECT height, state FROM executed").fetchone()
        return row

    # ---- opening

    def _open(self, chain: str, identity: str) -> None:
        execute = self.connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        with self.transaction():
            (version,) = execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._create(chain, identity)
            elif version != VERSION:
                raise StoreError(f"{self._path}: store version {version}, this program knows {VERSION}")
        owner = execute("SELECT chain, identity FROM origin").fetchone()
        if owner != (chain, identity):
            wanted = f"validator {identity[:12]} on chain {chain}"
            raise StoreError(f"{self._path}: belongs to validator {owner[1][:12]} on chain {owner[0]}, not {wanted}")

    def _create(self, chain: str, identity: str) -> None:
        for statement in SCHEMA.split(";\n"):
            self.connection.execute(statement)
        self.connection.execute("INSERT INTO origin VALUES (0, ?, ?)", (chain, identity))
        self.connection.execute(f"PRAGMA user_version = {VERSION}")


def _connect(path: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; does its folder exist and may this user write to it?") from None

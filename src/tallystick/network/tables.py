"""Tables of a validator in one SQLite file, of which nothing is lost or changed unnoticed.

The file is held by one process. Changes gather in a transaction, which `settle` hands to the system, so that it
outlives this process; `commit` forces SQLite's log to disk, so that it outlives the machine. One commit for many rows
is what makes that affordable. SQLite itself forces to disk only what keeps its file whole (`synchronous=NORMAL` with a
write-ahead log).

The file is believed only if

- it is there: opening never makes it, since an empty file in place of a lost one would know of no vote;
- every row but the one that names the owner carries a checksum of itself and of its table's name, checked whenever the
  row is read;
- the commits are at least as many as the file beside it, `*.turn`, says. That number is written after each commit, so
  it never claims too much; and a log that lost its end, an older copy of it or an empty one in its place claim less.

What rows there must be is for the owner to say: the summary, rewritten by every commit, can hold their number.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from zlib import crc32

import msgspec

from tallystick.errors import TallystickError
from tallystick.proof.durable import write_whole

BUSY_SECONDS: Final = 2.0
LOG_PAGES: Final = 2048
"""Pages in SQLite's log before they are moved to their place in the file: 8 MiB."""
LOG_BYTES: Final = 9 * 2**20
"""To which the log is made at the start, with what else a page and a last commit take: forcing a file to disk that has
grown takes ten times as long as forcing one that was written over, since the file system has to note its new size."""
SEAL_BYTES: Final = 8
"""Of a row's checksum: against accidents; who may write the file could sign in its owner's name as well."""
OUTSIDE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
}
"""SQLite's codes for what is no damage of the file: it may be whole on a disk that is full, read-only or failing."""

TROUBLE: Final = "is another process using it, or the disk full, read-only or failing?"

SCHEMA: Final = """
CREATE TABLE origin (slot INTEGER PRIMARY KEY CHECK (slot = 0), chain TEXT NOT NULL, identity TEXT NOT NULL) STRICT;
CREATE TABLE summary (slot INTEGER PRIMARY KEY CHECK (slot = 0), value BLOB NOT NULL, seal BLOB NOT NULL) STRICT;
"""
"""What every such file has beside the tables of its owner."""

Row = tuple[Any, ...]


class StoreError(TallystickError):
    """The file cannot be used, or was asked to contradict what it holds."""


class DamagedError(StoreError):
    """The file is not what was written: what this validator signed is not known for sure any more."""

    def __init__(self, path: Path | str, what: str) -> None:
        self.damage = f"{path}: {what}"
        super().__init__(f"{self.damage}; not voting. Run `tallystick validator recover {Path(path).parent}`")


class Summary(msgspec.Struct, array_like=True):
    """Rewritten by every commit. An owner adds fields of its own."""

    turn: int = 0
    """Commits so far."""


S = TypeVar("S", bound=Summary)


@dataclass(frozen=True)
class Layout:
    version: int
    schema: str
    """The owner's tables, each with `seal BLOB NOT NULL` as its last column."""


class Tables(Generic[S]):
    """One open file. Nothing may be changed before `start`.

    Attributes:
        summary: saved with the next `settle` that has anything else to save.

    Raises:
        DamagedError: the file is not what was written last.
        StoreError: it belongs to another chain, validator, version or running process.
    """

    def __init__(self, path: Path, layout: Layout, chain: str, identity: str, kind: type[S]) -> None:
        if not path.exists():
            raise DamagedError(path, "missing, so nobody knows what this validator has signed")
        self.path = path
        self._mark = _mark_beside(path)
        self._dirty, self._synced = False, True
        self._broken = False
        """Whether a change failed. If forcing the log to disk did, the system takes the pages for written, whatever the
        disk has: trying again would succeed and say nothing. If SQLite did, it has dropped the transaction, of which
        the summary tells: to write that now would name rows that are not there."""
        self._db = _connect(path)
        with self.opening():
            self._open(layout, (chain, identity))
            self.summary = self._load_summary(kind)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """What goes wrong closes the file, and says whether it is damaged or something else stands in the way."""
        try:
            with blaming(self.path):
                yield
        except StoreError:
            self._db.close()
            raise

    def start(self) -> None:
        """The owner believes what it has read: from now on there are changes."""
        assert not self._dirty, f"{self.path} was changed before it was started"
        with self.opening(), ExitStack() as undone:
            self._turns = os.open(self._mark, os.O_WRONLY)
            undone.callback(os.close, self._turns)
            self._log = self._open_log()
            undone.pop_all()

    def close(self) -> None:
        """Commits what has gathered, and gives the file back."""
        if not self._broken:
            self.commit()
        os.close(self._log)
        os.close(self._turns)
        self._db.close()

    def hand_over(self, identity: str) -> None:
        """Closes the file for its owner, whose identity is another one from now on."""
        self.change("UPDATE origin SET identity = ?", identity)
        self.close()

    def commit(self) -> bool:
        """Everything changed so far is on disk when this returns. Whether there was anything.

        Raises:
            OSError: that failed.
            StoreError: it failed before.
        """
        self.settle()
        if self._synced:
            return False
        try:
            os.fdatasync(self._log)
            os.pwrite(self._turns, _mark_of(self.summary.turn), 0)
        except OSError:
            self._broken = True
            raise
        self._synced = True
        return True

    def settle(self) -> None:
        """Everything changed so far is the system's, and comes back after a crash of this process.

        Raises:
            StoreError: a change failed before.
        """
        self._require_whole()
        if self._dirty:
            self.summary.turn += 1
            self._save_summary()
            self._execute("COMMIT")
            self._dirty = self._synced = False

    def _require_whole(self) -> None:
        if self._broken:
            raise StoreError(f"{self.path}: a write to it failed, so nothing is written to it until the next start")

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        try:
            self._db.execute(statement, values)
        except BaseException:
            self._broken = True
            raise

    # ---- rows

    def change(self, statement: str, *values: Any) -> None:
        """Executes inside the transaction that the next `settle` ends."""
        self._require_whole()
        if not self._dirty:
            self._execute("BEGIN IMMEDIATE")
            self._dirty = True
        self._execute(statement, values)

    def insert(self, table: str, row: Row, *, replace: bool = False) -> None:
        """`row` in the order of the schema, without its seal."""
        statement, values = sealed_insertion(table, row, replace=replace)
        self.change(statement, *values)

    def rows(self, table: str, which: str = "", *values: Any) -> Iterator[Row]:
        """As `sealed_rows` of this file."""
        return sealed_rows(self._db, self.path, table, which, *values)

    def least(self, table: str, column: str) -> int | None:
        """The smallest value in a column; None if the table is empty."""
        (value,) = self._db.execute(f"SELECT min({column}) FROM {table}").fetchone()  # noqa: S608  # our own names
        return None if value is None else int(value)

    # ---- opening

    def _open(self, layout: Layout, owner: tuple[str, str]) -> None:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self._db.execute("BEGIN IMMEDIATE")  # takes the lock, or fails
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        self._db.execute("COMMIT")
        if found == 0:
            raise DamagedError(self.path, "empty, so nobody knows what this validator has signed")
        if found != layout.version:
            known = f"this tallystick knows version {layout.version}"
            raise StoreError(f"{self.path}: store version {found}, {known}; run the one that wrote it")
        written = self._db.execute("SELECT chain, identity FROM origin").fetchone() or ("nothing", "nobody")
        if written != owner:
            wanted = f"validator {owner[1][:12]} on chain {owner[0]}"
            raise StoreError(
                f"{self.path}: belongs to validator {written[1]!s:.12} on chain {written[0]}, not {wanted}"
            )

    def _load_summary(self, kind: type[S]) -> S:
        row = next(self.rows("summary"), None)
        if row is None:
            raise DamagedError(self.path, "its summary is gone")
        summary = msgspec.msgpack.decode(row[1], type=kind)
        turns = _turns_of(self._mark)
        if turns is None:
            raise DamagedError(self._mark, "missing or changed, so nobody knows whether the log beside it is whole")
        if summary.turn < turns:
            lost = turns - summary.turn
            raise DamagedError(self.path, f"the last {lost} of {turns} commits are gone; a lost end, or an older copy")
        return summary

    def _open_log(self) -> int:
        """SQLite's log, to force it to disk ourselves. It is one file from the first change after opening to the end.

        Changing something here makes it, and `FULL` makes its name durable.
        """
        self._save_summary()
        self._db.execute("COMMIT")
        self._dirty = False
        self._db.execute("PRAGMA synchronous = NORMAL")
        log = os.open(f"{self.path}-wal", os.O_RDWR)
        try:
            size = os.fstat(log).st_size
            # No frame of SQLite's is all zeros: its log ends there.
            os.pwrite(log, bytes(max(0, LOG_BYTES - size)), size)
            os.fsync(log)
        except OSError:
            os.close(log)
            raise
        return log

    def _save_summary(self) -> None:
        self.insert(*_summary_row(self.summary), replace=True)


def create_tables(
    path: Path, layout: Layout, chain: str, identity: str, first: Iterable[tuple[str, Row]], summary: Summary
) -> None:
    """Makes the file with the rows `first` in their tables and a `summary` that knows of them; it is on disk when this
    returns. What a crash leaves of it is damaged.

    Raises:
        StoreError: there is something in its place, or it cannot be written.
    """
    if path.exists() or _mark_beside(path).exists():
        raise StoreError(f"{path}: it or its mark is there already, and is not written over")
    with blaming(path), closing(_connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        for statement in (SCHEMA + layout.schema).split(";\n")[:-1]:
            db.execute(statement)
        db.execute("INSERT INTO origin VALUES (0, ?, ?)", (chain, identity))
        for table, row in (*first, _summary_row(summary)):
            db.execute(*sealed_insertion(table, row))
        db.execute(f"PRAGMA user_version = {layout.version}")
        db.execute("COMMIT")
        write_whole(_mark_beside(path), _mark_of(0))


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Says of what goes wrong with the file `path` whether it is damaged or something else stands in the way.

    Raises:
        DamagedError, StoreError
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in OUTSIDE:  # what Python cannot decode has no code
            raise StoreError(f"{path}: {error}; {TROUBLE}") from None
        raise DamagedError(path, str(error)) from None
    except (ValueError, msgspec.DecodeError) as error:
        raise DamagedError(path, str(error)) from None
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}; {TROUBLE}") from None


def sealed_rows(db: sqlite3.Connection, path: Path, table: str, which: str = "", *values: Any) -> Iterator[Row]:
    """Rows of `table`, checked and without their seals; `which` is the end of the query.

    Raises:
        DamagedError: one is not what was written.
        StoreError: the file cannot be read now.
    """
    with blaming(path):
        for *row, seal in db.execute(f"SELECT * FROM {table} {which}", values):  # noqa: S608  # our own names
            if seal != seal_of(table, row):
                raise DamagedError(path, f"a row of `{table}` ({row[0]}) is not what was written")
            yield tuple(row)


def sealed_insertion(table: str, row: Row, *, replace: bool = False) -> tuple[str, Row]:
    """The statement that writes `row` with its seal, for `sealed_rows` to read, and the statement's values."""
    how = "INSERT OR REPLACE" if replace else "INSERT"
    return f"{how} INTO {table} VALUES ({', '.join('?' * (len(row) + 1))})", (*row, seal_of(table, row))


def owner_of(path: Path) -> str | None:
    """The identity of the validator that a file belongs to; None if there is none. Its other contents stay unread."""
    if not path.exists():
        return None
    try:
        with closing(_connect(path)) as db:
            row = db.execute("SELECT identity FROM origin").fetchone()
    except sqlite3.Error:
        return None
    return row[0] if row else None


def _summary_row(summary: Summary) -> tuple[str, Row]:
    return "summary", (0, msgspec.msgpack.encode(summary))


def _mark_beside(path: Path) -> Path:
    return path.with_suffix(".turn")


def seal_of(table: str, row: Sequence[Any]) -> bytes:
    """What a row carries as its last column: it belongs to these values in this table."""
    return sha256(msgspec.msgpack.encode((table, *row))).digest()[:SEAL_BYTES]


def _mark_of(turns: int) -> bytes:
    number = turns.to_bytes(8)
    return number + crc32(number).to_bytes(4)


def _turns_of(mark: Path) -> int | None:
    try:
        data = mark.read_bytes()
    except OSError:
        return None
    turns = int.from_bytes(data[:8])
    return turns if data == _mark_of(turns) else None


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; does its folder exist and may this user write to it?") from None

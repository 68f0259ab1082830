"""What the store promises: atomic, durable, one owner, no second vote, and nothing lost or changed unnoticed."""

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tallystick.canon.chunks import CHUNK_BYTES, chunk, manifest_of
from tallystick.consensus.pbft.io import (
    CheckpointRecord,
    ContentRecord,
    EpochRecord,
    Head,
    MuteRecord,
    Phase,
    Transfer,
    ViewRecord,
    VoteRecord,
)
from tallystick.network.store import MANIFEST, RETAIN_BLOCKS, Store, StoredBlock, create_store
from tallystick.network.tables import DamagedError, StoreError

ME, OTHER = "a" * 64, "b" * 64
VOTE = VoteRecord(0, 0, 1, Phase.PREPARE, b"d" * 32, b"block")
EPOCH = EpochRecord(1, 8, 8, (ME, OTHER))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "validator.db"


def made(path: Path, *, retain: int = RETAIN_BLOCKS, muted: bool = False) -> Store:
    create_store(path, "chain", ME, muted=muted)
    return Store(path, "chain", ME, retain=retain)


def opened(path: Path) -> Store:
    return Store(path, "chain", ME)


def reopened(store: Store) -> Store:
    store.close()
    return opened(store.path)


def block(height: int) -> StoredBlock:
    return StoredBlock(height, bytes([height]) * 32, 1000 + height, b"block %d" % height, b"proof")


def saved_up_to(store: Store, height: int) -> None:
    for each in range(store.first_height(), height + 1):
        store.save_block(block(each))


def test_what_was_saved_is_there_after_reopening(path: Path) -> None:
    store = made(path)
    assert (store.votes(), store.head(), store.view(), store.epochs()) == ((), None, None, ())
    assert (store.mute(), store.checkpoint(), store.history(), store.transfer()) == (None, None, (), None)
    saved_up_to(store, 9)
    votes = (VOTE, VoteRecord(0, 0, 9, Phase.COMMIT, b"e" * 32, b"", b"proof"))
    for record in (*votes, ViewRecord(0, 1), ViewRecord(0, 2, b"sealed"), MuteRecord(3)):
        store.save(record)
    store = reopened(store)
    assert store.votes() == votes
    assert (store.view(), store.mute()) == (ViewRecord(0, 2, b"sealed"), MuteRecord(3))
    assert store.head() == Head(9, bytes([9]) * 32, 1009)
    assert list(store.blocks(1, 99)) == [block(height) for height in range(1, 10)]
    store.close()


def test_a_second_vote_in_one_slot_is_refused_and_the_same_one_replaces_it(path: Path) -> None:
    store = made(path)
    store.save(VoteRecord(0, 0, 1, Phase.PREPARE, b"d" * 32))
    store.save(VOTE)
    with pytest.raises(StoreError, match="voting twice"):
        store.save(VoteRecord(0, 0, 1, Phase.PREPARE, b"x" * 32))
    others = (VoteRecord(0, 1, 1, Phase.PREPARE, b"x" * 32), VoteRecord(1, 0, 1, Phase.PREPARE, b"x" * 32))
    for other in others:
        store.save(other)
    store = reopened(store)
    assert store.votes() == (VOTE, *others)
    store.close()


def test_a_block_is_found_with_the_vote_that_was_given_for_it(path: Path) -> None:
    store = made(path)
    store.save(VOTE)
    store.save(VoteRecord(0, 0, 1, Phase.COMMIT, VOTE.digest, b"", b"proof"))
    store.save(VoteRecord(0, 1, 1, Phase.PREPARE, b"x" * 32, b"another"))
    assert store.body(1, VOTE.digest) == b"block"
    assert store.body(2, VOTE.digest) == store.body(1, b"y" * 32) == b""


def test_an_epoch_keeps_the_one_before_it_and_settles_the_votes_of_those(path: Path) -> None:
    store = made(path)
    later = VoteRecord(2, 0, 9, Phase.PREPARE, b"e" * 32)
    for record in (EpochRecord(0, 0, 0, (ME,)), EPOCH, VOTE, later, EPOCH):
        store.save(record)
    assert store.epochs() == (EpochRecord(0, 0, 0, (ME,)), EPOCH)
    third = EpochRecord(2, 16, 8, (ME, OTHER))
    store.save(third)
    store = reopened(store)
    assert (store.epochs(), store.votes()) == ((EPOCH, third), (later,))
    store.close()


def test_a_stable_checkpoint_settles_votes_snapshots_and_blocks_up_to_its_height(path: Path) -> None:
    store = made(path, retain=3)
    saved_up_to(store, 9)
    for height in (4, 8):
        store.save_snapshot(height, manifest_of(b"state"), b"state")
        store.save(ContentRecord(height, b"content %d" % height))
    store.save(ContentRecord(12, b"content 12"))
    later = VoteRecord(0, 0, 9, Phase.PREPARE, b"e" * 32)
    store.save(VOTE)
    store.save(later)
    store.save(CheckpointRecord(0, 8, b"stable", ends=True))
    store = reopened(store)
    assert store.votes() == (later,)
    assert (store.snapshot(4), store.snapshot(8)) == (None, b"state")
    assert (store.first_height(), store.checkpoint()) == (7, CheckpointRecord(0, 8, b"stable", ends=True))
    assert store.history() == (b"stable",)
    assert store.contents() == (ContentRecord(12, b"content 12"),)
    store.close()


def test_the_snapshot_of_the_checkpoint_before_stays_for_those_who_are_fetching_it(path: Path) -> None:
    store = made(path)
    saved_up_to(store, 13)
    for height in (4, 8, 12):
        store.save_snapshot(height, manifest_of(b"state"), b"state")
        store.save(CheckpointRecord(0, height, b"stable", ends=False))
    assert [store.snapshot(height) for height in (4, 8, 12)] == [None, b"state", b"state"]
    store.close()


def test_blocks_above_the_stable_checkpoint_are_kept_whatever_the_limit(path: Path) -> None:
    store = made(path, retain=1)
    saved_up_to(store, 9)
    store.save_snapshot(4, manifest_of(b""), b"")
    store.save(CheckpointRecord(0, 4, b"stable", ends=False))
    assert (store.first_height(), store.history()) == (5, ())
    store.close()


def test_blocks_come_without_gaps(path: Path) -> None:
    store = made(path)
    for wrong in (0, 2):
        with pytest.raises(StoreError, match="cannot follow"):
            store.save_block(block(wrong))
    store.save_block(block(1))
    with pytest.raises(StoreError, match="cannot follow"):
        store.save_block(block(1))
    store.close()


def test_ranges_are_inclusive_in_order_and_end_before_a_gap(path: Path) -> None:
    store = made(path)
    saved_up_to(store, 9)
    assert [stored.height for stored in store.blocks(2, 4)] == [2, 3, 4]
    store._tables.change("DELETE FROM blocks WHERE height = 3")
    assert [stored.height for stored in store.blocks(2, 4)] == [2]
    assert list(store.blocks(3, 4)) == []
    store.close()


def test_a_snapshot_stays_while_somebody_fetches_it(path: Path) -> None:
    store = made(path)
    saved_up_to(store, 25)
    for height in (4, 8, 12, 16):
        store.save_snapshot(height, manifest_of(b"state"), b"state")
        store.save(CheckpointRecord(0, height, b"stable", ends=False, wanted=(4,)))
    store = reopened(store)
    assert [store.snapshot(height) for height in (4, 8, 12, 16)] == [b"state", None, b"state", b"state"]
    store.save_snapshot(20, manifest_of(b"state"), b"state")
    store.save(CheckpointRecord(0, 20, b"stable", ends=False))
    assert [store.snapshot(height) for height in (4, 12, 16, 20)] == [None, None, b"state", b"state"]
    store.close()


def test_a_snapshot_comes_back_whole_and_in_parts(path: Path) -> None:
    store = made(path)
    data = b"0123456789" * (CHUNK_BYTES // 8)
    store.save_snapshot(4, manifest_of(data), data)
    assert store.snapshot(4) == data
    assert store.snapshot_part(4, MANIFEST) == manifest_of(data)
    assert [store.snapshot_part(4, part) for part in range(3)] == [chunk(data, 0), chunk(data, 1), None]
    store.close()


def test_a_transfer_is_resumed_after_a_restart_and_a_new_one_forgets_it(path: Path) -> None:
    store = made(path)
    data = b"0123456789" * (CHUNK_BYTES // 8)
    store.start_transfer((b"old",), b"manifest")
    store.save_chunk(0, b"old")
    store.start_transfer((b"proof", b"target"), manifest_of(data))
    store.save_chunk(1, chunk(data, 1))
    store = reopened(store)
    assert store.transfer() == Transfer((b"proof", b"target"), manifest_of(data), (1,))
    saved_up_to(store, 2)
    store.save(VOTE)
    store.save_chunk(0, chunk(data, 0))
    head, checkpoint = Head(8, b"h" * 32, 77), CheckpointRecord(0, 8, b"stable", ends=True)
    assert store.restore(head, EPOCH, checkpoint, (b"first", b"stable")) == data
    store = reopened(store)
    assert (store.head(), store.epochs(), store.checkpoint()) == (head, (EPOCH,), checkpoint)
    assert (store.transfer(), store.history(), store.votes()) == (None, (b"first", b"stable"), ())
    assert (store.snapshot(8), store.first_height(), list(store.blocks(1, 9))) == (data, 9, [])
    store.save_block(block(9))
    store.close()


def test_changes_are_all_there_or_none_of_them(path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from tallystick.consensus.pbft.io import Phase, VoteRecord
from tallystick.network.store import Store, create_store
create_store(Path({str(path)!r}), "chain", "a" * 64, muted=False)
store = Store(Path({str(path)!r}), "chain", "a" * 64)
store.save(VoteRecord(0, 0, 1, Phase.PREPARE, b"d" * 32, b"block"))
assert store.commit() and not store.commit()
store.save(VoteRecord(0, 0, 1, Phase.COMMIT, b"d" * 32))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    store = opened(path)
    assert store.votes() == (VOTE,)
    store.close()


def test_the_log_is_forced_to_disk_before_the_mark_says_so_and_only_by_a_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(path)
    done: list[str] = []
    sync, write = os.fdatasync, os.pwrite

    def synced(file: int) -> None:
        done.append("sync")
        sync(file)

    def written(file: int, data: bytes, at: int) -> int:
        done.append("mark")
        return write(file, data, at)

    monkeypatch.setattr(os, "fdatasync", synced)
    monkeypatch.setattr(os, "pwrite", written)
    store.save(VOTE)
    store.settle()
    assert done == []
    assert store.commit() and not store.commit()
    assert done == ["sync", "mark"]
    store.close()


@pytest.mark.parametrize(("chain", "identity"), [("another", ME), ("chain", OTHER)])
def test_the_store_of_another_chain_or_validator_is_refused(path: Path, chain: str, identity: str) -> None:
    made(path).close()
    with pytest.raises(StoreError, match="belongs to"):
        Store(path, chain, identity)


def test_a_store_of_an_unknown_version_is_refused(path: Path) -> None:
    store = made(path)
    store._tables._db.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreError, match="version 99"):
        opened(path)


def test_a_folder_that_does_not_exist_is_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="folder"):
        made(path.parent / "missing" / "x.db")


@pytest.mark.parametrize("what", ["its mark too", "its mark stays"])
def test_opening_never_makes_a_store(path: Path, what: str) -> None:
    """Whoever has voted would start as one who has not."""
    made(path).close()
    path.unlink()
    if what == "its mark too":
        path.with_suffix(".turn").unlink()
    for _ in range(2):
        with pytest.raises(DamagedError, match=f"{path}: missing.*recover {path.parent}"):
            opened(path)
    assert not path.exists()


@pytest.mark.parametrize("suffix", [".db", ".turn"])
def test_making_a_store_never_replaces_one(path: Path, suffix: str) -> None:
    path.with_suffix(suffix).write_bytes(b"something")
    with pytest.raises(StoreError, match="not written over"):
        made(path)
    assert path.with_suffix(suffix).read_bytes() == b"something"


def test_what_a_crash_left_of_a_store_that_was_being_made_is_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tallystick.network.tables.write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            made(path)
    with pytest.raises(DamagedError, match="nobody knows"):
        opened(path)
    path.with_name("before.db").write_bytes(b"")
    with pytest.raises(DamagedError, match="empty"):
        opened(path.with_name("before.db"))


def test_a_second_owner_of_one_store_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.network.tables.BUSY_SECONDS", 0.01)
    first = made(path)
    with pytest.raises(StoreError, match="another process"):
        opened(path)
    first.close()
    opened(path).close()


# ---- damage


def full(path: Path) -> None:
    """A store with something in every table."""
    store = made(path)
    saved_up_to(store, 9)
    store.save_snapshot(8, manifest_of(b"state"), b"state")
    store.save(CheckpointRecord(0, 8, b"stable", ends=True))
    store.save(VoteRecord(1, 0, 10, Phase.PREPARE, b"d" * 32, b"block"))
    store.commit()
    store.save(VoteRecord(1, 0, 10, Phase.COMMIT, b"d" * 32, b"", b"proof"))
    store.save(ViewRecord(1, 0))
    store.save(EPOCH)
    store.save(ContentRecord(12, b"content"))
    store.start_transfer((b"proof",), manifest_of(b"chunk"))
    store.save_chunk(0, b"chunk")
    store.close()


def sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement)


def older_copy(path: Path) -> None:
    data = path.read_bytes()
    store = opened(path)
    store.save(VoteRecord(1, 0, 11, Phase.PREPARE, b"d" * 32, b"block"))
    store.close()
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a vote was changed": lambda path: sql(path, "UPDATE votes SET digest = zeroblob(32) WHERE phase = 'commit'"),
    "a vote was moved": lambda path: sql(path, "UPDATE votes SET height = 11 WHERE phase = 'commit'"),
    "a vote is gone": lambda path: sql(path, "DELETE FROM votes WHERE phase = 'commit'"),
    "the view was changed": lambda path: sql(path, "UPDATE latest SET value = x'00' WHERE kind = 'ViewRecord'"),
    "the last block is gone": lambda path: sql(path, "DELETE FROM blocks WHERE height = 9"),
    "a block was changed": lambda path: sql(path, "UPDATE blocks SET block = x'00' WHERE height = 9"),
    "the history was changed": lambda path: sql(path, "UPDATE history SET proof = x'00'"),
    "the snapshot is gone": lambda path: sql(path, "DELETE FROM snapshots WHERE part = 0"),
    "the summary is gone": lambda path: sql(path, "DELETE FROM summary"),
    "the summary was changed": lambda path: sql(path, "UPDATE summary SET value = x'00'"),
    "a chunk was changed": lambda path: sql(path, "UPDATE chunks SET data = x'00'"),
    "an older copy": older_copy,
    "the file is gone": lambda path: path.unlink(),
    "the file is empty": lambda path: path.write_bytes(b""),
    "the file is something else": lambda path: path.write_bytes(b"not a database, and long enough to tell" * 50),
    "the file was cut": lambda path: path.write_bytes(path.read_bytes()[:-8192]),
    "the mark is gone": lambda path: path.with_suffix(".turn").unlink(),
    "the mark was changed": lambda path: path.with_suffix(".turn").write_bytes(b"9" * 38),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_noticed_at_the_start_and_the_way_out_is_named(path: Path, what: str) -> None:
    full(path)
    opened(path).close()
    DAMAGE[what](path)
    with pytest.raises(DamagedError, match="validator recover"):
        opened(path).close()


def test_a_disk_without_room_for_the_log_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: bytes, position: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    before = os.listdir("/dev/fd")
    with pytest.raises(StoreError, match="No space left on device"):
        made(path)
    assert set(os.listdir("/dev/fd")) <= set(before), "what was opened is closed"


def test_a_store_on_a_full_disk_is_whole_when_there_is_room_again(path: Path) -> None:
    """SQLite drops the transaction that did not fit. The summary, which tells of its rows, is small and would."""
    program = f"""
import os, resource, signal, sqlite3
from contextlib import suppress
from pathlib import Path
from tallystick.consensus.pbft.io import Phase, VoteRecord
from tallystick.network.store import Store, StoredBlock, create_store
from tallystick.network.tables import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
create_store(Path({str(path)!r}), "chain", "a" * 64, muted=False)
store = Store(Path({str(path)!r}), "chain", "a" * 64)
resource.setrlimit(resource.RLIMIT_FSIZE, (12 * 2**20, resource.RLIM_INFINITY))
for height in range(1, 100):
    try:
        store.save(VoteRecord(0, 0, height, Phase.PREPARE, b"d" * 32, bytes(400_000)))
        store.save_block(StoredBlock(height, bytes(32), height, bytes(400_000), b"c"))
        store.settle()
        store.commit()
    except (OSError, sqlite3.Error):
        break
else:
    os._exit(1)
for end in (store.commit, store.settle):
    with suppress(StoreError):
        end()
        os._exit(2)
store.close()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    with closing(opened(path)) as store:
        head = store.head()
        assert head is not None and len(store.votes()) == head.height


def test_a_log_that_lost_its_end_is_noticed(path: Path) -> None:
    """SQLite itself takes a log that ends early for one whose last commit was never finished, and says nothing."""
    program = f"""
import os
from pathlib import Path
from tallystick.consensus.pbft.io import Phase, VoteRecord
from tallystick.network.store import Store, create_store
create_store(Path({str(path)!r}), "chain", "a" * 64, muted=False)
store = Store(Path({str(path)!r}), "chain", "a" * 64)
for height in (1, 2):
    store.save(VoteRecord(0, 0, height, Phase.PREPARE, b"d" * 32, b"block"))
    store.commit()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    log = path.with_name(path.name + "-wal")
    data = bytearray(log.read_bytes())
    data[len(data.rstrip(b"\0")) - 1] ^= 1  # the rest is room
    log.write_bytes(data)
    with pytest.raises(DamagedError, match="the last 1 of 2 commits"):
        opened(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2**24))
@example(position=65535)
@example(position=144)  # of the byte that says who may write
@example(position=196716)  # of the page that holds the latest records
@example(position=229044)  # of the index that finds them
def test_no_flipped_bit_changes_what_is_read(tmp_path: Path, position: int) -> None:
    """Wherever it strikes: what comes out is refused, or is what went in."""
    path = tmp_path / "flipped.db"
    for old in (path, path.with_suffix(".turn")):
        old.unlink(missing_ok=True)
    full(path)
    whole = path.read_bytes()
    bit = position % (8 * len(whole))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
        store = opened(path)
    except StoreError:
        return
    assert len(store.votes()) == 2
    assert (store.view(), store.epochs(), store.history()) == (ViewRecord(1, 0), (EPOCH,), (b"stable",))
    assert store.head() == Head(9, bytes([9]) * 32, 1009)
    try:
        store.check()
    except DamagedError:
        pass
    else:
        assert list(store.blocks(1, 9)) == [block(height) for height in range(1, 10)]
    store.close()


def test_who_asks_for_blocks_from_before_the_first_costs_no_reading(path: Path) -> None:
    """Which is a megabyte, each time, for an empty answer."""
    full(path)
    sql(path, "DELETE FROM blocks WHERE height < 4")
    sql(path, "UPDATE blocks SET block = x'00' WHERE height = 4")
    with closing(opened(path)) as store:
        assert store.blocks_within(1, 4, 10**6) == []
        with pytest.raises(DamagedError):
            store.blocks_within(4, 4, 10**6)


def overwrite_old_blocks(path: Path) -> None:
    data = bytearray(path.read_bytes())
    page = data.index(b"three", len(data) // 2) // 4096  # neither the first block nor the last ones
    data[4096 * page : 4096 * (page + 1)] = b"\x55" * 4096
    path.write_bytes(data)


OLD_DAMAGE: dict[str, Callable[[Path], object]] = {
    "an old block was changed": lambda path: sql(path, "UPDATE blocks SET block = x'00' WHERE height = 3"),
    "an old block is gone": lambda path: sql(path, "DELETE FROM blocks WHERE height = 3"),
    "a page of old blocks was overwritten": overwrite_old_blocks,
}


@pytest.mark.parametrize("what", OLD_DAMAGE)
def test_damage_that_decides_no_vote_is_found_when_all_is_checked(path: Path, what: str) -> None:
    with closing(made(path)) as store:
        for height in range(1, 60):
            store.save_block(StoredBlock(height, bytes(32), height, b"three" * 200, b"certificate"))
        store.save_snapshot(56, manifest_of(b"state"), b"state")
        store.save(CheckpointRecord(0, 56, b"stable", ends=True))
    OLD_DAMAGE[what](path)
    with closing(opened(path)) as store, pytest.raises(DamagedError, match="validator recover"):
        store.check()


def test_a_store_in_place_of_a_lost_one_starts_muted(path: Path) -> None:
    store = made(path, muted=True)
    assert store.mute() == MuteRecord(0)
    store.close()

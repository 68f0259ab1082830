"""What the store promises: atomic, durable, one owner, no second vote."""

import subprocess
import sys
from pathlib import Path

import pytest

from tallystick.consensus.pbft.io import Phase, VoteRecord
from tallystick.network.store import Store, StoreError

ME, OTHER = "a" * 64, "b" * 64
VOTE = VoteRecord(0, 0, 1, Phase.PREPARE, b"d" * 32, b"block")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "validator.db"


def reopened(store: Store, path: Path) -> Store:
    store.close()
    return Store(path, "chain", ME)


def test_what_was_saved_is_there_after_reopening(path: Path) -> None:
    store = Store(path, "chain", ME)
    assert (store.votes(), store.last_block(), store.last_height(), store.executed()) == ((), None, 0, None)
    store.save_block(1, b"block", b"certificate")
    store.save_executed(1, b"state")
    second = VoteRecord(0, 0, 2, Phase.PRE_PREPARE, b"e" * 32, b"block 2")
    third = VoteRecord(0, 0, 2, Phase.COMMIT, b"e" * 32)
    store.save_vote(second)
    store.save_vote(third)
    store = reopened(store, path)
    assert store.votes() == (second, third)
    assert [(b.height, b.block, b.certificate) for b in store.blocks(1, 9)] == [(1, b"block", b"certificate")]
    assert store.executed() == (1, b"state")
    store.close()


def test_a_second_vote_in_one_slot_is_refused_even_an_equal_one(path: Path) -> None:
    store = Store(path, "chain", ME)
    store.save_vote(VOTE)
    for digest in (b"d" * 32, b"x" * 32):
        with pytest.raises(StoreError, match="voting twice"):
            store.save_vote(VoteRecord(0, 0, 1, Phase.PREPARE, digest))
    store.save_vote(VoteRecord(0, 1, 1, Phase.PREPARE, b"x" * 32))
    store.close()


def test_a_block_settles_the_votes_up_to_its_height(path: Path) -> None:
    store = Store(path, "chain", ME)
    store.save_vote(VOTE)
    later = VoteRecord(0, 0, 2, Phase.PREPARE, b"e" * 32)
    store.save_vote(later)
    store.save_block(1, b"block", b"certificate")
    assert store.votes() == (later,)
    store.close()


def test_blocks_come_without_gaps(path: Path) -> None:
    store = Store(path, "chain", ME)
    for wrong in (0, 2):
        with pytest.raises(StoreError, match="cannot follow"):
            store.save_block(wrong, b"block", b"certificate")
    store.save_block(1, b"block", b"certificate")
    with pytest.raises(StoreError, match="cannot follow"):
        store.save_block(1, b"block", b"certificate")
    store.close()


def test_ranges_are_inclusive_and_in_order(path: Path) -> None:
    store = Store(path, "chain", ME)
    for height in range(1, 6):
        store.save_block(height, b"%d" % height, b"")
    assert [stored.block for stored in store.blocks(2, 4)] == [b"2", b"3", b"4"]
    last = store.last_block()
    assert last is not None and last.height == 5
    store.close()


def test_a_transaction_is_all_or_nothing_and_an_inner_one_belongs_to_the_outer(path: Path) -> None:
    store = Store(path, "chain", ME)
    with pytest.raises(RuntimeError), store.transaction():
        store.save_vote(VOTE)
        with store.transaction():
            store.save_block(1, b"block", b"certificate")
        raise RuntimeError("the process would die here")
    assert (store.votes(), store.last_height()) == ((), 0)
    with store.transaction():
        store.connection.execute("CREATE TABLE mine (x)")
        store.save_executed(1, b"state")
    store = reopened(store, path)
    assert store.executed() == (1, b"state")
    store.close()


@pytest.mark.parametrize(("chain", "identity"), [("another", ME), ("chain", OTHER)])
def test_the_store_of_another_chain_or_validator_is_refused(path: Path, chain: str, identity: str) -> None:
    Store(path, "chain", ME).close()
    with pytest.raises(StoreError, match="belongs to"):
        Store(path, chain, identity)


def test_a_store_of_an_unknown_version_is_refused(path: Path) -> None:
    store = Store(path, "chain", ME)
    store.connection.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreError, match="version 99"):
        Store(path, "chain", ME)


def test_bytes_that_are_no_store_and_folders_that_do_not_exist_are_refused(path: Path) -> None:
    path.write_bytes(b"not a database, and long enough to tell" * 50)
    with pytest.raises(StoreError, match="not a database"):
        Store(path, "chain", ME)
    with pytest.raises(StoreError, match="folder"):
        Store(path.parent / "missing" / "x.db", "chain", ME)


def test_a_second_owner_of_one_store_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.network.store.BUSY_SECONDS", 0.01)
    first = Store(path, "chain", ME)
    with pytest.raises(StoreError, match="another process"):
        Store(path, "chain", ME)
    first.close()
    Store(path, "chain", ME).close()


def test_committed_records_survive_the_sudden_death_of_the_process(path: Path) -> None:
    program = f"""
import os
from tallystick.consensus.pbft.io import Phase, VoteRecord
from tallystick.network.store import Store
store = Store({str(path)!r}, "chain", "a" * 64)
with store.transaction():
    store.save_vote(VoteRecord(0, 0, 1, Phase.PREPARE, b"d" * 32, b"block"))
store.connection.execute("BEGIN IMMEDIATE")
store.save_vote(VoteRecord(0, 0, 1, Phase.COMMIT, b"d" * 32))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    store = Store(path, "chain", ME)
    assert store.votes() == (VOTE,)
    store.close()

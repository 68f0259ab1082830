"""What a validator remembers of its blocks, across restarts and within bounds."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger_network import CLIENT, Network, key, make_genesis, name
from tallystick.ledger.events import Accepted
from tallystick.ledger.execute import Executed
from tallystick.ledger.state import State
from tallystick.ledger.transactions import Anchor, Batch, Transfer
from tallystick.network.journal import GATHERED_BYTES, MAX_EVENT_BYTES, SNAPSHOT_INTERVAL, Journal, Outcome
from tallystick.network.node import Node
from tallystick.network.tables import DamagedError, StoreError
from tallystick.network.views import TransactionView


def pay(net: Network, amount: int = 1) -> Executed:
    return net.block(net.sign(CLIENT, Transfer(key("ann").identity, amount)))


def keep(journal: Journal, executed: Executed) -> None:
    journal.append(executed.state, executed.results, executed.events)


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """Lets go of the file at the end: SQLite removes what lies beside it when its last connection is closed, which
    for one that nobody closed is whenever Python comes round to it."""
    journal = Journal(path)
    try:
        yield journal
    finally:
        journal.abandon()


def test_results_and_events_are_found_again_after_a_restart(tmp_path: Path) -> None:
    net, path = Network(), tmp_path / "ledger.db"
    journal = Journal(path)
    items = Batch([Anchor(name("one")), Anchor(name("one")), Anchor(name("two"))])
    blocks = [pay(net), pay(net, 10**6), net.block(net.sign(CLIENT, items)), net.block()]
    for executed in blocks:
        keep(journal, executed)
    seen = [journal.result(r.hash) for executed in blocks for r in executed.results]
    assert [view and view.code for view in seen] == ["ok", "insufficient_balance", "items_refused"]
    assert seen[2] is not None and seen[2].items == ("ok", "already_anchored", "ok")
    events = journal.events(0)
    assert [event.sequence for event in events] == [1, 2] and len(journal.events(1)) == 1
    journal.close(net.state)
    again = Journal(path)
    assert again.restore() == net.state
    assert [again.result(r.hash) for executed in blocks for r in executed.results] == seen
    assert again.events(0) == events


def test_what_was_not_in_the_last_snapshot_is_dropped_and_stored_again(tmp_path: Path) -> None:
    net, path = Network(), tmp_path / "ledger.db"
    first = Journal(path)
    for _ in range(SNAPSHOT_INTERVAL):
        keep(first, pay(net))
    snapshot, last = net.state, net.block(net.sign(CLIENT, Anchor(name("one"))))
    keep(first, last)
    first.abandon()
    second = Journal(path)
    assert second.restore() == snapshot
    assert second.result(last.results[0].hash) is None and second.events(0) == []
    keep(second, last)
    assert second.result(last.results[0].hash) == TransactionView(last.results[0].hash, last.state.height, "ok", "")
    assert second.events(0)[0].sequence == 1


def test_only_the_newest_results_are_kept_in_memory_and_on_disk(tmp_path: Path) -> None:
    net, path = Network(), tmp_path / "ledger.db"
    journal = Journal(path, kept_results=10)
    blocks = [pay(net) for _ in range(2 * SNAPSHOT_INTERVAL)]
    for executed in blocks:
        keep(journal, executed)
    hashes = [executed.results[0].hash for executed in blocks]
    assert [journal.result(h) is not None for h in hashes] == [False] * (len(hashes) - 10) + [True] * 10
    journal.abandon()
    again = Journal(path)  # with room for all, so it shows what is on disk
    again.restore()
    assert 10 <= sum(again.result(h) is not None for h in hashes) <= SNAPSHOT_INTERVAL


def test_a_transaction_that_comes_again_keeps_its_first_result(tmp_path: Path) -> None:
    net, journal = Network(), Journal(tmp_path / "ledger.db")
    raw = net.sign(CLIENT, Transfer(key("ann").identity, 1))
    for executed in (net.block(raw), net.block(raw)):
        keep(journal, executed)
    view = journal.result(executed.results[0].hash)
    assert executed.results[0].code == "stale_nonce" and view is not None and (view.code, view.height) == ("ok", 1)


def test_events_have_the_same_numbers_after_a_gap(tmp_path: Path) -> None:
    """A validator that was handed the state has no earlier events, but numbers later ones as all others do."""
    net = Network()
    whole, late = Journal(tmp_path / "whole.db"), Journal(tmp_path / "late.db")
    keep(whole, net.block(net.sign(CLIENT, Anchor(name("one")))))
    late.start_from(net.state)
    executed = net.block(net.sign(CLIENT, Anchor(name("two"))))
    for journal in (whole, late):
        keep(journal, executed)
    assert late.events(0) == whole.events(1)


def full(journal: Journal) -> None:
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")


def emptied(journal: Journal) -> None:
    journal._db.execute("PRAGMA max_page_count = 1000000")


def many(net: Network, word: str) -> Executed:
    """Some hundred kilobytes of events."""
    batches = [Batch([Anchor(name(f"{word} {i} {j}")) for j in range(50)]) for i in range(10)]
    return net.block(*[net.sign(CLIENT, batch) for batch in batches])


def test_one_process_holds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.network.journal.BUSY_SECONDS", 0.01)
    with opened(tmp_path / "ledger.db"), pytest.raises(StoreError, match="another process"):
        Journal(tmp_path / "ledger.db")
    with opened(tmp_path / "ledger.db") as journal:
        assert journal.events(0) == []


def test_what_gathers_is_written_before_it_is_a_megabyte(tmp_path: Path) -> None:
    net, path = Network(), tmp_path / "ledger.db"
    journal = Journal(path)
    while not (found := rows_on_disk(path)):
        assert journal._gathered <= GATHERED_BYTES and net.state.height < SNAPSHOT_INTERVAL - 1
        keep(journal, many(net, str(net.state.height)))
    assert found == net.state.events and journal._gathered == 0


def test_old_events_go_with_a_snapshot_and_the_newest_stay(tmp_path: Path) -> None:
    net = Network()
    journal = Journal(tmp_path / "ledger.db", kept_events=100)
    while net.state.height < SNAPSHOT_INTERVAL:
        anchors = [Anchor(name(f"{net.state.height} {i}")) for i in range(3)]
        keep(journal, net.block(*[net.sign(CLIENT, anchor) for anchor in anchors]))
    last = net.state.events
    assert last == 3 * SNAPSHOT_INTERVAL and [each.sequence for each in journal.events(0)] == list(range(93, last + 1))
    keep(journal, net.block(net.sign(CLIENT, Anchor(name("later")))))
    assert journal.events(last)[0].sequence == last + 1
    journal.close(net.state)
    with opened(tmp_path / "ledger.db") as again:
        assert len(again.events(0)) == 100


def rows_on_disk(path: Path) -> int:
    """Counted in a copy, since one process holds the file."""
    with TemporaryDirectory() as folder:
        for part in (path, path.with_name(path.name + "-wal")):
            shutil.copy(part, folder)
        with closing(sqlite3.connect(Path(folder, path.name))) as db:
            return int(db.execute("SELECT count(*) FROM event").fetchone()[0])


def test_a_page_of_events_is_bounded_in_bytes_and_has_one_at_least(tmp_path: Path) -> None:
    net = Network()
    executed = net.block()
    event = Accepted(name("task"), 0, tuple(range(2**16)))
    size = len(msgspec.json.encode(event))
    with opened(tmp_path / "ledger.db") as journal:
        journal.append(replace(executed.state, events=20), (), [event] * 20)
        assert len(journal.events(0)) == MAX_EVENT_BYTES // size == 2
        assert [each.sequence for each in journal.events(2)] == [3, 4]
        huge = Accepted(name("task"), 0, tuple(range(2**18)))
        journal.append(replace(executed.state, height=2, events=22), (), [huge] * 2)
        assert [each.sequence for each in journal.events(20)] == [21]


def test_a_full_disk_loses_nothing_that_waits_to_be_written(tmp_path: Path) -> None:
    net, path = Network(), tmp_path / "ledger.db"
    journal = Journal(path)
    keep(journal, many(net, "one"))
    full(journal)
    with pytest.raises(StoreError, match="or the disk full"):
        journal.events(0)
    emptied(journal)
    keep(journal, many(net, "two"))
    assert [event.sequence for event in journal.events(0)] == list(range(1, 1001))
    assert net.state.events == 1000


def test_a_block_that_could_not_be_written_is_executed_again(tmp_path: Path) -> None:
    net, path = Network(), tmp_path / "ledger.db"
    journal = Journal(path)
    keep(journal, many(net, "one"))
    full(journal)
    last = net.state
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for height in range(2, SNAPSHOT_INTERVAL + 1):
            executed = many(net, str(height))
            keep(journal, executed)
            last = executed.state
    emptied(journal)
    journal.close(last)
    again = Journal(path)
    assert again.restore() == last
    assert len(again.events(last.events - 500)) == 500


# ---- damage


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(statement).rowcount != 0


def spoil(path: Path, data: bytes) -> None:
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "another name in the results": lambda path: changed(
        path, "UPDATE results SET body = CAST(replace(CAST(body AS TEXT), 'stale', 'stole') AS BLOB) WHERE height = 2"
    ),
    "results of another block": lambda path: changed(path, "UPDATE results SET height = 99 WHERE height = 2"),
    "results are gone": lambda path: changed(path, "DELETE FROM results WHERE height = 2"),
    "another height": lambda path: changed(path, "UPDATE snapshot SET height = 1"),
    "another state": lambda path: changed(path, "UPDATE snapshot SET state = zeroblob(500)"),
    "other tables": lambda path: changed(path, "ALTER TABLE event RENAME TO events"),
    "something else": lambda path: spoil(path, b"not a database, and long enough to tell" * 50),
}


class Whole:
    """A journal's file, and what was written to it. No dataclass, of which Hypothesis would print all."""

    def __init__(self, data: bytes, outcomes: dict[bytes, Outcome], state: State) -> None:
        self.data, self.outcomes, self.state = data, outcomes, state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    net, path = Network(), tmp_path_factory.mktemp("whole") / "ledger.db"
    journal, raw = Journal(path), net.sign(CLIENT, Anchor(name("one")))
    for transactions in ((raw,), (raw,), (net.sign(CLIENT, Anchor(name("two"))), b"nonsense"), ()):
        keep(journal, net.block(*transactions))
    outcomes = dict(journal._outcomes)
    journal.close(net.state)
    return Whole(path.read_bytes(), outcomes, net.state)


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_told_with_the_file_and_the_way_out(tmp_path: Path, whole: Whole, what: str) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(whole.data)
    DAMAGE[what](path)
    with pytest.raises(DamagedError, match=f"{path}: .*`tallystick validator recover {tmp_path}`") as told:
        Node(make_genesis(), path)
    assert told.tb and not list(tmp_path.glob("ledger.db-*")), "it still has the file open"


def test_a_changed_event_is_not_shown(tmp_path: Path, whole: Whole) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(whole.data)
    changed(path, "UPDATE event SET body = x'00' WHERE sequence = 2")
    journal = Journal(path)
    assert journal.restore() == whole.state
    with pytest.raises(DamagedError, match=r"a row of `event` \(2\)"):
        journal.events(0)


def test_a_file_of_an_earlier_layout_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE results (height INTEGER PRIMARY KEY, body BLOB) STRICT")
    with pytest.raises(DamagedError, match="not those that this tallystick writes"):
        Journal(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2**24))
def test_no_flipped_bit_changes_what_is_known(tmp_path: Path, whole: Whole, position: int) -> None:
    """Wherever it strikes: it is told, or does no harm, now and when the node goes on."""
    path = tmp_path / "ledger.db"
    data = bytearray(whole.data)
    bit = position % (8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    for beside in tmp_path.glob("ledger.db-*"):
        beside.unlink()
    net = Network()
    try:
        with opened(path) as journal:
            state = journal.restore()
            assert (state, journal._outcomes) == (whole.state, whole.outcomes)
            assert [event.sequence for event in journal.events(0)] == [1, 2]
            net.state = whole.state
            keep(journal, net.block(net.sign(CLIENT, Anchor(name("three")))))
            journal.close(net.state)
    except StoreError:
        return
    with opened(path) as again:
        assert again.restore() == net.state and len(again.events(0)) == net.state.events

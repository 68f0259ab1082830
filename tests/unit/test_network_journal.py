"""What a validator remembers of its blocks, across restarts and within bounds."""

from pathlib import Path

from ledger_network import CLIENT, Network, key, name
from tallystick.ledger.execute import Executed
from tallystick.ledger.transactions import Anchor, Batch, Transfer
from tallystick.network.journal import SNAPSHOT_INTERVAL, Journal
from tallystick.network.views import TransactionView


def pay(net: Network, amount: int = 1) -> Executed:
    return net.block(net.sign(CLIENT, Transfer(key("ann").identity, amount)))


def keep(journal: Journal, executed: Executed) -> None:
    journal.append(executed.state, executed.results, executed.events)


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
    second = Journal(path)  # the first is not closed: it crashed
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

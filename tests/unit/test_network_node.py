"""A validator's ledger as the application of an engine: checks, admission, snapshots, and what a restart finds."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ledger_network import CLIENT, beacon_of, key, make_genesis
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.ledger.state import dump_state
from tallystick.ledger.transactions import AnyBody, Transfer, open_transaction, sign_transaction
from tallystick.network.node import Node
from tallystick.network.opened import ENTRY_BYTES, OpenedTransactions

PAY = Transfer(key("ann").identity, 7)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(make_genesis(), tmp_path / "ledger.db")


def signed(node: Node, nonce: int, body: AnyBody = PAY, who: str = CLIENT) -> bytes:
    return sign_transaction(key(who), node.state.chain, nonce, body)


def run(node: Node, *transactions: bytes) -> None:
    node.execute(block(node.height + 1, transactions))


def block(height: int, transactions: Sequence[bytes]) -> CommittedBlock:
    time_ms = 1_000_000 + height
    return CommittedBlock(height, time_ms, beacon_of(height, time_ms, transactions), tuple(transactions), b"")


def test_what_was_valid_once_passes_the_stateless_check_for_ever_and_admission_no_longer(node: Node) -> None:
    raw = signed(node, 1)
    node.admit(raw)
    run(node, raw)
    node.check(raw)
    with pytest.raises(Refused, match="stale_nonce"):
        node.admit(raw)


def test_a_forged_transaction_passes_neither_check(node: Node) -> None:
    raw = signed(node, 1)
    node.check(raw)
    for ask in (node.check, node.admit):
        with pytest.raises(Refused, match="bad_signature"):
            ask(raw[:-1] + bytes([raw[-1] ^ 1]))
        with pytest.raises(Refused, match="bad_signature"):
            ask(sign_transaction(key(CLIENT), "test-0000", 1, PAY))


def test_a_transaction_is_verified_and_parsed_once(node: Node) -> None:
    opened = OpenedTransactions(node.state.chain)
    raw = signed(node, 1)
    first = opened.open(raw)
    assert opened.open(bytes(bytearray(raw))) is first and opened.read(bytes(bytearray(raw))) is first


def test_what_is_remembered_of_transactions_is_bounded_and_forgetting_changes_no_answer(node: Node) -> None:
    transactions = [signed(node, nonce) for nonce in range(1, 6)]
    opened = OpenedTransactions(node.state.chain, max_bytes=3 * (len(transactions[0]) + ENTRY_BYTES))
    first = [opened.open(raw) for raw in transactions]
    again = [opened.read(raw) for raw in transactions]
    assert again == first == [open_transaction(raw, node.state.chain) for raw in transactions]
    assert [a is b for a, b in zip(first, again, strict=True)] == [False, False, True, True, True]


def test_validators_are_told_in_order(node: Node) -> None:
    assert node.validators() == tuple(key(f"v{i}").identity for i in range(4))


def test_a_snapshot_taken_over_outlives_a_crash_and_what_came_before_it(node: Node, tmp_path: Path) -> None:
    for nonce in range(1, 4):
        run(node, signed(node, nonce))
    path = tmp_path / "other.db"
    other = Node(make_genesis(), path)
    other.restore(node.snapshot())
    assert (other.height, other.snapshot()) == (3, node.snapshot())
    run(other, signed(other, 4))
    other.journal.abandon()
    restarted = Node(make_genesis(), path)
    assert dump_state(restarted.state) == node.snapshot(), "blocks after the snapshot are executed again"
    run(restarted, signed(restarted, 4))
    assert restarted.snapshot() == other.snapshot()


def test_a_snapshot_of_another_chain_or_a_damaged_one_changes_nothing(node: Node, tmp_path: Path) -> None:
    stranger = Node(make_genesis(people=("ann",)), tmp_path / "stranger.db")
    before = node.snapshot()
    for bad, code in ((stranger.snapshot(), "wrong_chain"), (before[:-1], "malformed")):
        with pytest.raises(Refused, match=code):
            node.restore(bad)
        assert node.snapshot() == before


def test_a_snapshot_wakes_those_who_wait_for_news(node: Node, tmp_path: Path) -> None:
    seen: list[int] = []
    other = Node(make_genesis(), tmp_path / "other.db")
    other.listen(lambda state: seen.append(state.height))
    run(node, signed(node, 1))
    other.restore(node.snapshot())
    assert seen == [1]

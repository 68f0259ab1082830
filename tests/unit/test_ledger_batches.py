"""Many items under one signature: each has its own result, and together they are what they are one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger_network import CLIENT, POLICY, RICH, Network, check_invariants, key, name
from tallystick.canon.sealed import seal
from tallystick.ledger.state import Account
from tallystick.ledger.transactions import (
    MAX_TRANSACTION_BYTES,
    Anchor,
    Batch,
    Deposit,
    Item,
    OpenTask,
    Transfer,
    Withdraw,
)

PEOPLE = ("ann", "bob", "zoe")


@pytest.fixture
def net() -> Network:
    return Network()


def pay(who: str, amount: int) -> Transfer:
    return Transfer(key(who).identity, amount)


def test_a_batch_is_executed_in_order_under_one_nonce(net: Network) -> None:
    result = net.send("ann", Batch([Deposit(RICH), Withdraw(5), pay("bob", 5)]))
    assert (result.code, result.reason, result.items) == ("ok", "", ())
    assert (net.account("ann").balance, net.account("ann").stake) == (0, RICH - 5)
    assert net.account("ann").nonce == net.nonce
    assert net.account("bob").balance == RICH + 5


def test_each_item_has_its_own_result(net: Network) -> None:
    result = net.send("ann", Batch([pay("bob", RICH), pay("bob", 1), Deposit(0)]))
    assert (result.code, result.items) == ("items_refused", ("ok", "insufficient_balance", "zero_amount"))
    assert result.reason == "2 of 3 items refused; item 1: amount: 1 of a balance of 0"
    assert net.account("bob").balance == 2 * RICH
    assert net.account("ann").last.code == "items_refused"


bodies: st.SearchStrategy[Item] = st.one_of(
    st.builds(pay, st.sampled_from(PEOPLE), st.sampled_from([0, 1, 4_000, RICH, 3 * RICH])),
    st.builds(Deposit, st.sampled_from([0, 1, 6_000])),
    st.builds(Withdraw, st.sampled_from([0, 1, 6_000])),
    st.builds(Anchor, st.sampled_from([name("one"), name("two")])),
)


@given(st.lists(bodies, min_size=1, max_size=12))
def test_a_batch_does_what_its_items_do_one_by_one(items: list[Item]) -> None:
    together, apart = Network(), Network()
    codes = [apart.block(apart.sign("ann", item), ms=0).results[0].code for item in items]
    result = together.send("ann", Batch(items))
    assert result.items == (() if set(codes) == {"ok"} else tuple(codes))
    for who in (*PEOPLE, CLIENT):
        parts = [(a.balance, a.stake, a.locked) for a in (net.account(who) for net in (together, apart))]
        assert parts[0] == parts[1]
    assert set(together.state.anchors) == set(apart.state.anchors)
    assert (together.state.burned, together.state.events) == (apart.state.burned, apart.state.events)
    check_invariants(together.state)


def test_batches_do_not_nest_open_no_tasks_and_are_neither_empty_nor_endless(net: Network) -> None:
    offer = OpenTask(name("spec"), name("initial"), 1, 4, 1000, POLICY)
    for items in ([Batch([Deposit(1)])], [offer], [], [Deposit(1)] * 257):
        assert net.send("ann", Batch(items)).code == "malformed"  # type: ignore[arg-type]
    assert net.send("ann", Batch([Deposit(1)] * 256)).code == "ok"


def test_memos_have_a_bound_and_no_effect(net: Network) -> None:
    body = pay("bob", 1)
    assert net.send("ann", replace(body, memo=bytes(257))).code == "malformed"
    before = net.account("bob").balance
    assert net.send("ann", replace(body, memo=bytes(range(256)))).code == "ok"
    assert net.account("bob").balance == before + 1


def test_a_transfer_without_the_field_is_read_as_one_with_no_memo(net: Network) -> None:
    payload = b"\x92\x01\x93\xa8transfer\xd9\x40" + key("zoe").identity.encode() + b"\x07"
    raw = seal(key("ann"), f"tallystick/{net.state.chain}/transaction", payload)
    assert net.block(raw).results[0].code == "ok"
    assert net.account("zoe") == Account(balance=7)


def test_the_largest_batch_of_full_memos_that_is_admitted(net: Network) -> None:
    """About 190: bytes bound a batch before the number of its items does."""
    most = max(n for n in range(1, 257) if len(net.sign("ann", many(n))) <= MAX_TRANSACTION_BYTES)
    assert most == 194
    assert net.send("ann", many(most)).code == "ok"
    assert net.send("ann", many(most + 1)).code == "too_large"


def many(count: int) -> Batch:
    return Batch([replace(pay("bob", 1), memo=bytes(256))] * count)

"""Waiting transactions: in order, bounded, examined before they take memory, and not lost with one machine."""

import pytest
from pbft_cluster import FOUR, KEYS, Node, cluster, node, said

from tallystick.consensus.pbft.io import (
    Broadcast,
    Connected,
    Effect,
    Examine,
    Examined,
    Received,
    Relay,
    Send,
    Submitted,
)
from tallystick.consensus.pbft.limits import (
    EXAMINED_IN_VAIN,
    MAX_BLOCK_TRANSACTIONS,
    MAX_FORWARD_BYTES,
    MAX_FORWARDED,
    MAX_FORWARDED_BYTES,
    MAX_POOL_TRANSACTIONS,
    MAX_RECENT,
    TIMEOUT_MS,
)
from tallystick.consensus.pbft.messages import Forward, seal_message
from tallystick.consensus.pbft.pool import Pool
from tallystick.errors import Refused

BY = 2
PEER = KEYS[BY]


def forwarded(effects: list[Effect]) -> list[list[bytes]]:
    return [message.transactions for message in said(FOUR, effects, Forward) if isinstance(message, Forward)]


def backup() -> Node:
    return node(FOUR, 1)


def test_what_is_submitted_together_is_forwarded_together_and_in_order() -> None:
    here = backup()
    for i in range(5):
        here.step(Submitted(b"%d" % i))
    assert forwarded(here.tick()) == [[b"0", b"1", b"2", b"3", b"4"]]
    assert forwarded(here.tick()) == []


def test_a_transaction_is_forwarded_to_the_primary_at_once_and_to_all_if_it_still_waits() -> None:
    here = backup()
    here.step(Submitted(b"one"))
    (first,) = [effect for effect in here.tick() if isinstance(effect, Relay | Send | Broadcast)]
    assert isinstance(first, Relay) and first.peer == KEYS[0].identity == here.replica.primary
    assert forwarded(here.tick(TIMEOUT_MS // 10 - 1)) == []
    here.step(Submitted(b"two"))
    assert forwarded(here.tick()) == [[b"two"]]
    shared = here.tick(1)
    assert forwarded(shared) == [[b"one"]] and Relay not in map(type, shared)
    assert forwarded(here.tick(TIMEOUT_MS // 10)) == [[b"two"]]
    assert here.replica.load["unshared"] == 0


def test_a_primary_shares_what_it_was_handed_and_could_not_order_in_time() -> None:
    primary = node(FOUR, 0)
    primary.step(Submitted(b"one"))
    assert forwarded(primary.tick()) == []
    assert forwarded(primary.tick(TIMEOUT_MS // 10)) == [[b"one"]]


def test_what_is_decided_in_time_costs_one_forward() -> None:
    four = cluster()
    four[1].step(Submitted(b"one"))
    four.run(500)
    assert four.heights() == [1] * 4
    assert forwarded([effect for each in four.nodes.values() for effect in each.effects]) == [[b"one"]]


def test_a_message_of_transactions_is_bounded() -> None:
    here = backup()
    for i in range(20):
        here.step(Submitted(bytes([i]) * 60_000))
    batches = forwarded(here.tick())
    assert sum(map(len, batches)) == 20
    assert all(sum(map(len, batch)) <= MAX_FORWARD_BYTES for batch in batches)


def test_a_transaction_submitted_twice_waits_once() -> None:
    here = backup()
    here.step(Submitted(b"one"))
    here.step(Submitted(b"one"))
    assert here.replica.waiting == 1
    assert forwarded(here.tick()) == [[b"one"]]


def test_what_waits_too_long_is_examined_again_and_then_forwarded_again_or_dropped() -> None:
    here = backup()
    here.step(Submitted(b"still good"))
    here.step(Submitted(b"void by now"))
    here.tick()
    here.tick(500)
    effects = here.tick(500)
    assert Examine((b"still good", b"void by now"), again=True) in effects
    assert here.replica.waiting == 1
    assert here.replica.rejections == {"void": 1}
    assert {t for batch in forwarded(effects) for t in batch} == {b"still good"}, "before patience may end"


def test_forwarded_transactions_take_memory_only_after_the_application_admits_them() -> None:
    here = backup()
    effects = here.replica.step(Received(PEER.identity, seal_message(PEER, FOUR, Forward(0, False, [b"good", b"bad"]))))
    assert effects == [Examine((b"good", b"bad"), again=False, peer=PEER.identity)]
    assert here.replica.waiting == 0
    here.replica.step(Examined((b"good",), ((b"bad", "bad_signature"),), again=False))
    assert here.replica.waiting == 1
    assert here.replica.rejections == {"bad_signature": 1}


def test_known_transactions_are_not_examined_and_not_forwarded_on() -> None:
    here = backup()
    here.receive(BY, seal_message(PEER, FOUR, Forward(0, False, [b"one"])))
    assert here.receive(BY, seal_message(PEER, FOUR, Forward(0, False, [b"one"]))) == []
    assert forwarded(here.tick()) == []


def test_what_was_committed_is_no_news_but_is_examined_for_a_peer_that_has_waited_for_long() -> None:
    """Else one that the application would admit once more waits for ever at those who took over a snapshot."""
    four = cluster()
    four[1].step(Submitted(b"one"))
    four.run(200)
    assert four[2].replica.height == 1
    late, reminder = (
        Received(KEYS[3].identity, seal_message(KEYS[3], FOUR, Forward(0, again, [b"one"]))) for again in (False, True)
    )
    assert four[2].replica.step(late) == four[2].replica.step(late) == []
    assert four[2].replica.step(reminder) == [Examine((b"one",), again=False, peer=KEYS[3].identity)]


def test_a_transaction_that_only_one_waits_for_costs_no_view() -> None:
    """As of seed 3009740: one took over a snapshot beyond a block whose transaction the application admits once more;
    the others had executed it and did not listen."""
    four = cluster()
    four[1].step(Submitted(b"one"))
    four.run(200)
    for each in four.nodes.values():
        each.app.executed.clear()
    four[2].replica._state.pool.forget(b"one")
    four[2].replica.step(Examined((b"one",), (), again=False))
    assert four[2].replica.waiting == 1
    four.run(2000)
    assert [each.replica.waiting for each in four.nodes.values()] == [0] * 4
    assert [each.replica.view for each in four.nodes.values()] == [0] * 4


def test_two_copies_examined_at_once_do_not_start_a_storm() -> None:
    here = backup()
    here.replica.step(Examined((b"one",), (), again=False))
    here.replica.step(Examined((b"one",), (), again=False))
    assert forwarded(here.tick()) == []


def test_a_relayed_transaction_is_forwarded_by_us_if_its_first_holder_seems_gone() -> None:
    here = backup()
    here.receive(BY, seal_message(PEER, FOUR, Forward(0, False, [b"one"])))
    assert forwarded(here.tick(2000)) == []
    assert {t for batch in forwarded(here.tick(3000)) for t in batch} == {b"one"}


def test_a_peer_that_comes_back_is_told_what_waits() -> None:
    here = backup()
    here.step(Submitted(b"ours"))
    here.receive(BY, seal_message(PEER, FOUR, Forward(0, False, [b"relayed"])))
    here.tick()
    assert forwarded(here.step(Connected(KEYS[0].identity))) == [[b"ours", b"relayed"]]


def test_a_full_pool_refuses_and_says_so() -> None:
    pool = Pool()
    for i in range(MAX_POOL_TRANSACTIONS):
        pool.add(b"%d" % i, 0, ours=True)
    with pytest.raises(Refused, match="mempool_full"):
        pool.add(b"one more", 0, ours=True)
    pool.drop(b"0")
    assert pool.add(b"one more", 0, ours=True)


def test_the_pool_is_bounded_in_bytes() -> None:
    pool = Pool()
    with pytest.raises(Refused, match="mempool_full"):
        for i in range(1000):
            pool.add(i.to_bytes(2) * 32_000, 0, ours=True)
    assert pool.size <= 32 * 1024 * 1024
    pool.committed(list(pool.waiting))
    assert pool.size == 0


@pytest.mark.parametrize("size", [0, 65_537])
def test_a_transaction_of_no_admitted_size_is_refused(size: int) -> None:
    with pytest.raises(Refused, match="bad_transaction_size"):
        backup().step(Submitted(bytes(size)))


def test_a_committed_transaction_is_no_news_and_memory_of_it_is_bounded() -> None:
    pool = Pool()
    pool.committed([b"%d" % i for i in range(MAX_RECENT + 10)])
    assert len(pool.recent) == MAX_RECENT
    assert not pool.knows(b"9")
    assert pool.knows(b"10")
    assert not pool.add(b"10", 0, ours=True)


# ---- peers that forward too much


def forward(*transactions: bytes) -> bytes:
    return seal_message(PEER, FOUR, Forward(0, False, list(transactions)))


def examined(effects: list[Effect]) -> int:
    return sum(len(effect.transactions) for effect in effects if isinstance(effect, Examine))


def test_between_two_ticks_so_many_are_examined_in_vain_and_the_rest_later() -> None:
    """Checking a signature costs us more than making one up costs a liar."""
    here, share = backup(), EXAMINED_IN_VAIN // 4
    flood = [b"void %d" % i for i in range(MAX_BLOCK_TRANSACTIONS)]
    assert examined(here.receive(BY, forward(*flood))) == share
    assert examined(here.receive(BY, forward(b"one more"))) == 0
    assert here.replica.has_more_to_do
    assert examined(here.receive(3, seal_message(KEYS[3], FOUR, Forward(0, False, [b"of another"])))) == 1
    assert examined(here.tick()) == share
    for _ in range(MAX_BLOCK_TRANSACTIONS // share):
        here.tick()
    assert not here.replica.has_more_to_do
    assert here.replica.rejections == {"void": MAX_BLOCK_TRANSACTIONS}
    assert here.replica.waiting == 2


def test_what_is_admitted_is_examined_at_once_and_in_order() -> None:
    """If an account's last transaction came into the pool before its first, these would be void."""
    here = backup()
    many = [b"%d" % i for i in range(MAX_BLOCK_TRANSACTIONS)]
    assert examined(here.receive(BY, forward(*many))) == len(many)
    assert list(here.replica._state.pool.waiting) == many
    assert not here.replica.has_more_to_do


def test_what_is_no_news_does_not_hold_up_what_is() -> None:
    here = backup()
    known = [b"%d" % i for i in range(1000)]
    here.receive(BY, forward(*known))
    here.receive(BY, forward(*[b"void %d" % i for i in range(100)]))
    assert examined(here.receive(BY, forward(*known, b"news"))) == 1


def test_what_waits_to_be_examined_is_bounded_for_each_peer() -> None:
    here = backup()
    for start in range(0, 30_000, 2000):
        here.receive(BY, forward(*[b"void %d" % i for i in range(start, start + 2000)]))
    assert here.replica.load["forwarded"] == MAX_FORWARDED
    assert here.replica.rejections["too_many_forwards"] > 0
    fat = backup()
    for i in range(200):
        fat.receive(BY, forward(*[b"void" + bytes([i, j]) + bytes(60_000) for j in range(8)]))
    assert MAX_FORWARDED_BYTES - 65_536 < fat.replica.load["forwarded_bytes"] <= MAX_FORWARDED_BYTES

"""The normal case: how many votes each phase needs, what a primary proposes and when, and several heights at a time."""

import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    NOW_MS,
    App,
    Disk,
    Node,
    block_at,
    cluster,
    commit,
    group_of,
    node,
    prepare,
    proposal,
    records,
    said,
)

from tallystick.canon.votes import Commit, Prepare
from tallystick.consensus.pbft import Parameters, Replica, verify_certificate
from tallystick.consensus.pbft.io import (
    Broadcast,
    Deliver,
    Durable,
    Effect,
    Head,
    Persist,
    Phase,
    Submitted,
    VoteRecord,
)
from tallystick.consensus.pbft.limits import MAX_BLOCK_BYTES, MAX_TRANSACTION_BYTES, PIPELINE_TRANSACTIONS
from tallystick.consensus.pbft.messages import Block, Proposal, decode_block, encode_block
from tallystick.ledger import transactions

WIDE = Parameters(interval=8, epoch_length=64, window=3)


@pytest.mark.parametrize(("n", "quorum"), [(4, 3), (5, 4), (7, 5), (8, 6)])
def test_a_backup_commits_with_a_quorum_of_prepares_and_delivers_with_a_quorum_of_commits(n: int, quorum: int) -> None:
    group = group_of(n)
    backup = node(group, 1)
    block = block_at()
    digest = group.block_digest(block)
    backup.receive(0, proposal(group, 0, block))
    # The pre-prepare and our own prepare count: quorum - 2 more are needed.
    for i in range(2, quorum):
        assert not said(group, backup.effects, Commit)
        backup.receive(i, prepare(group, i, digest))
    assert len(said(group, backup.effects, Commit)) == 1
    # Our own commit counts: quorum - 1 more are needed.
    for i in range(2, quorum + 1):
        assert backup.replica.height == 0
        backup.receive(i, commit(group, i, digest))
    assert backup.replica.height == 1


def test_votes_for_another_block_do_not_count() -> None:
    backup = node(FOUR, 1)
    backup.receive(0, proposal(FOUR, 0, block_at()))
    for i in (2, 3):
        backup.receive(i, prepare(FOUR, i, b"x" * 32))
    for i in (0, 2, 3):
        backup.receive(i, commit(FOUR, i, b"x" * 32))
    assert not said(FOUR, backup.effects, Commit)
    assert backup.replica.height == 0


def test_a_quorum_of_commits_convinces_a_replica_that_saw_no_prepare() -> None:
    backup = node(FOUR, 1)
    block = block_at()
    for i in (0, 2, 3):
        backup.receive(i, commit(FOUR, i, FOUR.block_digest(block)))
    assert backup.replica.height == 0, "it does not have the block"
    backup.receive(0, proposal(FOUR, 0, block))
    assert backup.replica.height == 1


def test_blocks_are_delivered_in_order_whatever_the_order_in_which_they_are_decided() -> None:
    backup = node(FOUR, 1)
    blocks = {h: block_at(h, b"%d" % h) for h in (1, 2, 3)}
    for h in (3, 2, 1):
        assert backup.replica.height == 0
        backup.receive(0, proposal(FOUR, 0, blocks[h], height=h))
        for i in (0, 2, 3):
            backup.receive(i, commit(FOUR, i, FOUR.block_digest(blocks[h]), height=h))
    assert [e.block.height for e in backup.effects if isinstance(e, Deliver)] == [1, 2, 3]


def test_a_cluster_delivers_one_block_with_all_that_waits() -> None:
    four = cluster()
    four.submit(0, b"0", b"1", b"2")
    four.run()
    assert four.heights() == [1, 1, 1, 1]
    assert four.agreed()
    assert decode_block(four[3].disk.blocks[1][0]).transactions == [b"0", b"1", b"2"]
    assert not any(each.replica.rejections or each.replica.waiting for each in four.nodes.values())


def test_the_normal_case_as_it_reads_on_the_wire() -> None:
    four = cluster()
    four.watched = frozenset({Proposal, Prepare, Commit})
    four.passes = lambda source, target, message: target != 3  # one is slow; the others do without
    four.submit(0, b"one")
    four.run()
    assert four.transcript == [
        "0 > 1 Proposal e0",
        "0 > 2 Proposal e0",
        "1 > 0 Prepare e0 v0 h1",
        "1 > 2 Prepare e0 v0 h1",
        "2 > 0 Prepare e0 v0 h1",
        "2 > 1 Prepare e0 v0 h1",
        "2 > 0 Commit e0 v0 h1",
        "2 > 1 Commit e0 v0 h1",
        "0 > 1 Commit e0 v0 h1",
        "0 > 2 Commit e0 v0 h1",
        "1 > 0 Commit e0 v0 h1",
        "1 > 2 Commit e0 v0 h1",
    ]
    assert four.heights() == [1, 1, 1, 0]


def test_a_transaction_submitted_to_a_backup_reaches_the_primary() -> None:
    four = cluster()
    four.submit(2, b"one")
    four.run()
    assert four.heights() == [1, 1, 1, 1]


def test_a_group_of_one_agrees_with_itself() -> None:
    alone = cluster(1)
    for i in range(9):
        alone.order(b"%d" % i)
    assert (alone[0].replica.height, alone[0].replica.stable) == (9, 8)


def test_only_the_primary_proposes() -> None:
    backup = node(FOUR, 1)
    backup.step(Submitted(b"transaction"))
    assert not said(FOUR, backup.tick(), Proposal)


# ---- several heights at a time


def many(primary: Node, count: int) -> list[int]:
    """Heights that a primary proposes when so many transactions of 5,000 bytes wait."""
    for i in range(count):
        primary.step(Submitted(b"%d" % i + bytes(5000)))
    return heights_proposed(primary)


def heights_proposed(primary: Node) -> list[int]:
    return [decode_block(p.block).height for p in said(primary.genesis, primary.tick(), Proposal)]


def test_a_primary_with_much_to_order_works_on_a_window_of_heights() -> None:
    assert many(node(group_of(4, parameters=WIDE), 0), 2000) == [1, 2, 3]


def test_a_second_block_is_started_only_for_many_transactions() -> None:
    primary = node(group_of(4, parameters=WIDE), 0)
    primary.step(Submitted(b"one"))
    assert heights_proposed(primary) == [1]
    primary.step(Submitted(b"two"))
    assert heights_proposed(primary) == []
    for i in range(PIPELINE_TRANSACTIONS):
        primary.step(Submitted(b"more %d" % i))
    assert heights_proposed(primary) == [2]


def test_no_proposal_lies_beyond_the_next_checkpoint() -> None:
    assert many(node(group_of(4, parameters=Parameters(2, 4, 2)), 0), 2000) == [1, 2]
    four = cluster(parameters=Parameters(4, 12, 4))
    four.order(b"a", b"b", b"c")
    assert many(four[0], 2000) == [4], "who agrees on height 5 is known only after height 4"


def test_a_backup_votes_for_nothing_beyond_the_next_checkpoint_but_holds_it() -> None:
    backup = node(FOUR, 1)
    backup.receive(0, proposal(FOUR, 0, block_at(5), height=5))
    assert not said(FOUR, backup.effects, Prepare)
    for h in (1, 2, 3, 4):
        block = block_at(h, b"%d" % h)
        backup.receive(0, proposal(FOUR, 0, block, height=h))
        for i in (0, 2, 3):
            backup.receive(i, commit(FOUR, i, FOUR.block_digest(block), height=h))
    assert backup.replica.height == 4
    assert [vote.height for vote in said(FOUR, backup.effects, Prepare)] == [1, 2, 3, 4, 5]


def test_heights_in_flight_are_decided_together_and_each_transaction_once() -> None:
    four = cluster(parameters=WIDE)
    for i in range(2000):
        four[0].step(Submitted(b"%d" % i + bytes(1000)))
    four.run()
    assert four.agreed()
    blocks = [decode_block(block) for block, _ in four[1].disk.blocks.values()]
    ordered = [t for block in blocks for t in block.transactions]
    assert len(blocks) > 1
    assert len(ordered) == len(set(ordered)) == 2000


# ---- time


def times(effects: list[Effect]) -> list[int]:
    """Times of the blocks that are proposed."""
    return [decode_block(p.block).time_ms for p in said(FOUR, effects, Proposal)]


def test_an_idle_primary_proposes_nothing_before_the_deadline_and_an_empty_block_at_it() -> None:
    primary = node(FOUR, 0, Durable(deadline_ms=NOW_MS + 1))
    assert times(primary.tick()) == []
    primary.now_ms += 1
    assert times(primary.tick()) == [NOW_MS + 1]


def test_a_backup_takes_an_empty_block_only_when_one_is_due() -> None:
    due = node(FOUR, 1, Durable(deadline_ms=NOW_MS))
    idle = node(FOUR, 1, Durable(deadline_ms=NOW_MS + 1))
    block = encode_block(Block(1, NOW_MS, FOUR.validators[0], []))
    due.receive(0, proposal(FOUR, 0, block))
    assert said(FOUR, due.effects, Prepare)
    assert idle.refusals(0, proposal(FOUR, 0, block)) == {"empty_block": 1}


def test_the_time_of_a_block_never_decreases_even_if_a_clock_was_set_back() -> None:
    later = Durable(head=Head(1, b"p" * 32, NOW_MS + 5000))
    primary = node(FOUR, 0, later)
    primary.step(Submitted(b"transaction"))
    assert times(primary.tick()) == [NOW_MS + 5000]
    backup = node(FOUR, 1, later)
    block = block_at(2, time_ms=NOW_MS)
    backup.disk.head = later.head
    backup.receive(0, proposal(FOUR, 0, block, height=2))
    for i in (0, 2, 3):
        backup.receive(i, commit(FOUR, i, FOUR.block_digest(block), height=2))
    (delivered,) = [e.block for e in backup.effects if isinstance(e, Deliver)]
    assert delivered.time_ms == NOW_MS + 5000


def test_a_proposal_that_comes_before_the_first_tick_waits_for_the_clock() -> None:
    fresh = Node(FOUR, KEYS[1], Disk(FOUR, App(FOUR.validators)), Replica(FOUR, KEYS[1], Durable()))
    fresh.receive(0, proposal(FOUR, 0, block_at()))
    assert not fresh.replica.rejections
    assert said(FOUR, fresh.tick(), Prepare)


# ---- bounds and durability


def test_a_proposal_never_exceeds_the_bounds_that_backups_check() -> None:
    primary = node(FOUR, 0)
    for i in range(MAX_BLOCK_BYTES // MAX_TRANSACTION_BYTES + 2):
        primary.step(Submitted(bytes([i]) * MAX_TRANSACTION_BYTES))
    (proposed,) = said(FOUR, primary.tick(), Proposal)
    assert len(proposed.block) <= MAX_BLOCK_BYTES
    assert len(decode_block(proposed.block).transactions) == MAX_BLOCK_BYTES // MAX_TRANSACTION_BYTES - 1


def test_every_vote_is_persisted_before_it_is_sent() -> None:
    backup = node(FOUR, 1)
    block = block_at()
    backup.receive(0, proposal(FOUR, 0, block))
    backup.receive(2, prepare(FOUR, 2, FOUR.block_digest(block)))
    kept = [effect for effect in backup.effects if isinstance(effect, Persist | Broadcast)]
    assert [type(effect) for effect in kept] == [Persist, Broadcast, Persist, Broadcast]
    votes = records(kept, VoteRecord)
    assert [(vote.phase, vote.block == block, bool(vote.proof)) for vote in votes] == [
        (Phase.PREPARE, True, False),
        (Phase.COMMIT, False, True),
    ]


def test_what_is_lost_is_said_again_after_a_silence_and_ever_less_often() -> None:
    backup = node(FOUR, 1)
    backup.receive(0, proposal(FOUR, 0, block_at()))
    times = [50 * i for i in range(1, 101) if said(FOUR, backup.tick(50), Prepare)]
    assert times == [250, 750, 1750, 3750]


def test_a_cluster_that_loses_every_frame_once_delivers_all_the_same() -> None:
    four = cluster()
    lost: set[tuple[int, int, str]] = set()

    def once(source: int, target: int, message: object) -> bool:
        key = (source, target, repr(message))
        again = key in lost
        lost.add(key)
        return again

    four.passes = once
    four.submit(0, b"one")
    four.run(20_000)
    assert four.agreed()
    assert four.heights() == [1, 1, 1, 1]


def test_delivered_blocks_leave_with_a_certificate_that_convinces_a_stranger() -> None:
    four = cluster()
    four.order(b"one")
    block, certificate = four[3].disk.blocks[1]
    assert verify_certificate(FOUR, block, certificate).transactions == [b"one"]
    (delivered,) = [e.block for e in four[3].effects if isinstance(e, Deliver)]
    assert delivered.digest == FOUR.chain_digest(FOUR.genesis, FOUR.block_digest(block))


def test_the_engine_carries_every_transaction_that_the_ledger_admits() -> None:
    assert MAX_TRANSACTION_BYTES >= transactions.MAX_TRANSACTION_BYTES

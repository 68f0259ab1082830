"""The three phases: how many votes each needs, what a primary proposes and when."""

import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    NOW_MS,
    Node,
    block_on,
    commit,
    group_of,
    node,
    prepare,
    proposal,
    said,
    settle,
)

from tallystick.consensus.pbft.io import Broadcast, Deliver, Durable, Executed, Persist, Phase, Submitted
from tallystick.consensus.pbft.limits import MAX_BLOCK_BYTES, MAX_TRANSACTION_BYTES
from tallystick.consensus.pbft.messages import Commit, Prepare, Proposal, decode_block
from tallystick.ledger import transactions


@pytest.mark.parametrize(("n", "quorum"), [(4, 3), (5, 4), (7, 5), (8, 6)])
def test_a_backup_commits_with_a_quorum_of_prepares_and_delivers_with_a_quorum_of_commits(n: int, quorum: int) -> None:
    group = group_of(n)
    backup = node(group, 1)
    block = block_on(group)
    digest = group.block_digest(block)
    backup.receive(KEYS[0], proposal(group, KEYS[0], block))
    # The pre-prepare and our own prepare count: quorum - 2 more are needed.
    for i in range(2, quorum):
        assert not said(group, backup.effects, Commit)
        backup.receive(KEYS[i], prepare(group, KEYS[i], digest))
    assert len(said(group, backup.effects, Commit)) == 1
    # Our own commit counts: quorum - 1 more are needed.
    for i in range(2, quorum + 1):
        assert backup.replica.height == 0
        backup.receive(KEYS[i], commit(group, KEYS[i], digest))
    assert backup.replica.height == 1


def test_votes_for_another_block_do_not_count() -> None:
    backup = node(FOUR, 1)
    block = block_on(FOUR)
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], block))
    for key in KEYS[2:4]:
        backup.receive(key, prepare(FOUR, key, b"x" * 32))
        backup.receive(key, commit(FOUR, key, b"x" * 32))
    assert not said(FOUR, backup.effects, Commit)
    assert backup.replica.height == 0


def test_votes_that_overtake_the_proposal_count_once_it_comes() -> None:
    backup = node(FOUR, 1)
    block = block_on(FOUR)
    for key in KEYS[2:4]:
        backup.receive(key, prepare(FOUR, key, FOUR.block_digest(block)))
        backup.receive(key, commit(FOUR, key, FOUR.block_digest(block)))
    assert not backup.effects
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], block))
    assert backup.replica.height == 1


def test_a_proposal_that_overtakes_the_last_commit_is_taken_up_after_it() -> None:
    backup = node(FOUR, 1)
    first = block_on(FOUR)
    second = block_on(FOUR, FOUR.block_digest(first), height=2)
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], first))
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], second, height=2))
    assert [vote.height for vote in said(FOUR, backup.effects, Prepare) if isinstance(vote, Prepare)] == [1]
    for key in (KEYS[0], *KEYS[2:4]):
        backup.receive(key, commit(FOUR, key, FOUR.block_digest(first)))
    assert [vote.height for vote in said(FOUR, backup.effects, Prepare) if isinstance(vote, Prepare)] == [1, 2]


def test_four_replicas_deliver_one_block_with_all_that_waits() -> None:
    nodes = [node(FOUR, i) for i in range(4)]
    for i in range(3):
        nodes[0].step(Submitted(b"transaction %d" % i))
    settle(nodes, [(nodes[0], effect) for effect in nodes[0].tick()])
    assert [each.replica.height for each in nodes] == [1, 1, 1, 1]
    assert len({each.blocks[0][0] for each in nodes}) == 1
    assert decode_block(nodes[3].blocks[0][0]).transactions == [b"transaction 0", b"transaction 1", b"transaction 2"]
    assert not any(each.replica.rejections or each.replica.waiting for each in nodes)


def test_a_transaction_submitted_to_a_backup_reaches_the_primary() -> None:
    nodes = [node(FOUR, i) for i in range(4)]
    nodes[2].step(Submitted(b"transaction"))
    settle(nodes, [(nodes[2], effect) for effect in nodes[2].tick()])
    assert [each.replica.height for each in nodes] == [1, 1, 1, 1]


def test_a_group_of_one_agrees_with_itself() -> None:
    alone = node(group_of(1), 0)
    alone.step(Submitted(b"transaction"))
    alone.tick()
    assert alone.replica.height == 1


def test_only_the_primary_proposes() -> None:
    backup = node(FOUR, 1)
    backup.step(Submitted(b"transaction"))
    assert not said(FOUR, backup.tick(), Proposal)


def test_one_block_is_in_flight_at_a_time() -> None:
    primary = node(FOUR, 0)
    primary.step(Submitted(b"one"))
    assert len(said(FOUR, primary.tick(), Proposal)) == 1
    primary.step(Submitted(b"two"))
    assert not said(FOUR, primary.tick(), Proposal)


def proposed_by(primary: Node) -> list[int]:
    """Times of the blocks that the next tick proposes."""
    proposals = said(FOUR, primary.tick(), Proposal)
    return [decode_block(p.block).time_ms for p in proposals if isinstance(p, Proposal)]


def test_an_idle_primary_proposes_nothing_before_the_deadline_and_an_empty_block_at_it() -> None:
    assert proposed_by(node(FOUR, 0, Durable(deadline_ms=NOW_MS + 1))) == []
    due = node(FOUR, 0)
    due.step(Executed(0, NOW_MS))
    assert proposed_by(due) == [NOW_MS]


def test_a_block_is_never_earlier_than_its_parent_even_if_the_clock_was_set_back() -> None:
    parent = Durable(7, b"p" * 32, NOW_MS + 5000, deadline_ms=None)
    primary = node(FOUR, 0, parent)
    primary.step(Submitted(b"transaction"))
    assert proposed_by(primary) == [NOW_MS + 5000]


def test_a_proposal_never_exceeds_the_bounds_that_backups_check() -> None:
    primary = node(FOUR, 0)
    for i in range(MAX_BLOCK_BYTES // MAX_TRANSACTION_BYTES + 2):
        primary.step(Submitted(bytes([i]) * MAX_TRANSACTION_BYTES))
    (proposed,) = said(FOUR, primary.tick(), Proposal)
    assert isinstance(proposed, Proposal)
    assert len(proposed.block) <= MAX_BLOCK_BYTES
    assert len(decode_block(proposed.block).transactions) == MAX_BLOCK_BYTES // MAX_TRANSACTION_BYTES - 1


def test_every_vote_is_persisted_before_it_is_sent() -> None:
    backup = node(FOUR, 1)
    block = block_on(FOUR)
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], block))
    backup.receive(KEYS[2], prepare(FOUR, KEYS[2], FOUR.block_digest(block)))
    assert [type(effect) for effect in backup.effects] == [Persist, Broadcast, Persist, Broadcast]
    records = [effect.record for effect in backup.effects if isinstance(effect, Persist)]
    assert [(r.phase, r.block == block) for r in records] == [(Phase.PREPARE, True), (Phase.COMMIT, False)]


def test_a_restart_of_the_silent_repeats_messages_only_after_a_while() -> None:
    backup = node(FOUR, 1)
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], block_on(FOUR)))
    assert not said(FOUR, backup.tick(later_ms=100), Prepare)
    assert len(said(FOUR, backup.tick(later_ms=200), Prepare)) == 1
    assert not said(FOUR, backup.tick(later_ms=100), Prepare)


def test_delivered_blocks_leave_with_a_certificate_of_exactly_a_quorum() -> None:
    backup = node(FOUR, 1)
    block = block_on(FOUR)
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], block))
    for key in (KEYS[0], *KEYS[2:4]):
        backup.receive(key, commit(FOUR, key, FOUR.block_digest(block)))
    (delivered,) = [effect for effect in backup.effects if isinstance(effect, Deliver)]
    assert delivered.encoded == block
    assert delivered.block.transactions == (b"transaction",)
    assert delivered.block.digest == FOUR.block_digest(block)


def test_the_engine_carries_every_transaction_that_the_ledger_admits() -> None:
    assert MAX_TRANSACTION_BYTES >= transactions.MAX_TRANSACTION_BYTES

"""Double votes: they decide nothing, they are proven to anybody, and no honest validator is ever accused."""

from collections.abc import Callable
from itertools import product

import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    Cluster,
    Node,
    block_at,
    cluster,
    commit,
    group_of,
    node,
    prepare,
    proposal,
)

from tallystick.canon.votes import Checkpoint, PrePrepare, culprit, seal_vote
from tallystick.consensus.pbft import Group
from tallystick.consensus.pbft.io import Accuse, Broadcast, Persist, Phase, Send, VoteRecord
from tallystick.consensus.pbft.limits import MAX_EVIDENCE
from tallystick.consensus.pbft.messages import seal_message

A, B = block_at(1, b"A"), block_at(1, b"B")
LIAR = 0


def cases(of: Node | Cluster) -> list[Accuse]:
    nodes = of.nodes.values() if isinstance(of, Cluster) else [of]
    return [e for each in nodes for e in each.effects if isinstance(e, Accuse)]


def run(shown: tuple[bytes, ...], *, then: bool) -> Cluster:
    """The primary shows each backup a block, and then, perhaps, the other one; and it commits to whatever is liked."""
    four = cluster()
    four.crash(LIAR)
    for i, block in enumerate(shown, 1):
        four[i].receive(LIAR, proposal(FOUR, LIAR, block))
        if then:
            four[i].receive(LIAR, proposal(FOUR, LIAR, A if block is B else B))
        for lie in (block, A, B):
            four[i].receive(LIAR, commit(FOUR, LIAR, FOUR.block_digest(lie)))
    four.run(4000)
    return four


@pytest.mark.parametrize("shown", list(product((A, B), repeat=3)))
@pytest.mark.parametrize("then", [True, False])
def test_backups_agree_whatever_each_was_shown_and_the_primary_is_caught(shown: tuple[bytes, ...], then: bool) -> None:
    four = run(shown, then=then)
    assert len({four[i].disk.blocks[1][0] for i in (1, 2, 3) if four[i].disk.blocks}) == 1
    assert four[1].replica.height == four[2].replica.height == four[3].replica.height == 1
    if then or len(set(shown)) > 1:
        assert cases(four), "each backup saw one proposal only; they showed one another"
    for case in cases(four):
        assert case.culprit == KEYS[LIAR].identity
        assert culprit("test", case.first, case.second)[0] == case.culprit


@pytest.mark.parametrize("vote", [prepare, commit])
def test_a_second_different_vote_is_refused_and_proven(vote: Callable[[Group, int, bytes], bytes]) -> None:
    backup = node(FOUR, 1)
    first, second = vote(FOUR, 2, b"d" * 32), vote(FOUR, 2, b"e" * 32)
    assert backup.refusals(2, first) == {}
    assert backup.refusals(2, second) == {"conflicting_vote": 1}
    assert backup.refusals(2, second) == {"conflicting_vote": 1}
    assert cases(backup) == [Accuse(KEYS[2].identity, first, second)], "once"
    assert culprit("test", first, second)[0] == KEYS[2].identity


def prepared_seven() -> tuple[Node, bytes]:
    """Of seven validators one that has seen all the prepares it needs; and the block's digest."""
    group = group_of(7)
    backup, digest = node(group, 1), group.block_digest(A)
    backup.tick(1)
    backup.receive(0, proposal(group, 0, A))
    for by in (2, 3, 4):
        backup.receive(by, prepare(group, by, digest))
    records = [e.record for e in backup.effects if isinstance(e, Persist)]
    assert Phase.COMMIT in [record.phase for record in records if isinstance(record, VoteRecord)]
    return backup, digest


def test_a_vote_like_those_of_a_quorum_is_not_checked_any_more() -> None:
    group = group_of(7)
    backup, digest = prepared_seven()
    unsigned = bytearray(prepare(group, 5, digest))
    unsigned[40] ^= 1
    assert backup.refusals(5, bytes(unsigned)) == {}, "nobody looked at the signature"
    for by in (2, 3, 4, 5):
        backup.receive(by, commit(group, by, digest))
    assert backup.replica.height == 1
    late = bytearray(commit(group, 6, digest))
    late[40] ^= 1
    assert backup.refusals(6, bytes(late)) == {}
    assert backup.refusals(6, bytes(late[:96]) + commit(group, 6, digest, view=1)[96:]) == {"bad_signature": 1}


def test_who_is_no_validator_is_refused_also_with_a_vote_that_is_not_needed() -> None:
    group = group_of(7)
    backup, digest = prepared_seven()
    assert backup.refusals(8, prepare(group, 8, digest)) == {"not_a_validator": 1}


def test_a_second_different_vote_is_proven_even_if_the_first_was_not_looked_at() -> None:
    group = group_of(7)
    backup, digest = prepared_seven()
    first, second = prepare(group, 5, digest), prepare(group, 5, b"e" * 32)
    assert backup.refusals(5, first) == {}
    assert backup.refusals(5, second) == {"conflicting_vote": 1}
    assert cases(backup) == [Accuse(KEYS[5].identity, first, second)]


def test_a_vote_that_contradicts_one_before_the_quorum_is_looked_at() -> None:
    group = group_of(7)
    backup, digest = node(group, 1), group.block_digest(A)
    backup.tick(1)
    backup.receive(0, proposal(group, 0, A))
    first, second = prepare(group, 5, b"e" * 32), prepare(group, 5, digest)
    backup.receive(5, first)
    for by in (2, 3, 4):
        backup.receive(by, prepare(group, by, digest))
    assert backup.refusals(5, second) == {"conflicting_vote": 1}
    assert cases(backup) == [Accuse(KEYS[5].identity, first, second)]


@pytest.mark.parametrize("junk_first", [True, False])
def test_junk_does_not_hide_a_vote_that_nobody_looked_at(junk_first: bool) -> None:
    group = group_of(7)
    backup, digest = prepared_seven()
    first, second = prepare(group, 5, digest), prepare(group, 5, b"e" * 32)
    junk = bytearray(first)
    junk[40] ^= 1
    for frame in (bytes(junk), first) if junk_first else (first, bytes(junk)):
        backup.receive(5, frame)
    assert backup.refusals(5, second) == {"conflicting_vote": 1}
    assert cases(backup) == [Accuse(KEYS[5].identity, first, second)]


def test_a_peer_cannot_have_another_accused_by_a_vote_that_nobody_looked_at() -> None:
    group = group_of(7)
    backup, digest = prepared_seven()
    assert backup.refusals(5, prepare(group, 6, digest)) == {}, "brought by 5 in the name of 6"
    assert backup.refusals(5, prepare(group, 5, b"e" * 32)) == {}
    assert not cases(backup)


def test_two_different_checkpoint_votes_are_proven_too() -> None:
    backup = node(FOUR, 1)
    votes = [seal_vote(KEYS[2], "test", Checkpoint(0, 4, bytes([i]) * 32)) for i in (1, 2)]
    assert [backup.refusals(2, vote) for vote in votes] == [{}, {"conflicting_vote": 1}]
    assert cases(backup) == [Accuse(KEYS[2].identity, *votes)]


def test_one_liar_cannot_hide_another_behind_a_flood_of_its_own_cases() -> None:
    seven = node(group_of(7), 1)
    group = group_of(7)
    for by in (2, 3):
        for height in range(1, 9):
            seven.receive(by, commit(group, by, b"d" * 32, height=height))
            seven.receive(by, commit(group, by, b"e" * 32, height=height))
    assert [case.culprit for case in cases(seven)] == [KEYS[by].identity for by in (2, 3) for _ in range(MAX_EVIDENCE)]
    assert seven.replica.load["accused"] == 2 * MAX_EVIDENCE


def test_a_vote_in_another_phase_view_height_or_epoch_is_no_conflict() -> None:
    backup = node(FOUR, 1)
    d, e = b"d" * 32, b"e" * 32
    for frame in (
        commit(FOUR, 2, d),
        prepare(FOUR, 2, e),
        commit(FOUR, 2, e, height=2),
        commit(FOUR, 2, e, view=1),
        commit(group_of(4, epoch=1), 2, e),
    ):
        assert backup.refusals(2, frame) == {}
    assert not cases(backup)


def test_the_same_vote_signed_again_is_no_conflict() -> None:
    backup = node(FOUR, 1)
    for _ in range(3):
        assert backup.refusals(2, prepare(FOUR, 2, b"d" * 32)) == {}
    assert not cases(backup)


# ---- a pre-prepare that somebody else shows us


def shown(by: int, digest: bytes, **slot: int) -> bytes:
    vote = PrePrepare(0, slot.get("view", 0), slot.get("height", 1), digest)
    return seal_message(KEYS[by], FOUR, vote)


def test_who_hears_of_another_block_shows_what_it_was_shown_once() -> None:
    backup = node(FOUR, 1)
    backup.receive(LIAR, proposal(FOUR, LIAR, A))
    backup.effects.clear()
    for _ in range(3):
        backup.receive(2, prepare(FOUR, 2, FOUR.block_digest(B)))
    sends = [e for e in backup.effects if isinstance(e, Send | Broadcast)]
    assert sends == [Send(KEYS[2].identity, shown(LIAR, FOUR.block_digest(A)))]


def test_nobody_is_accused_with_anothers_word_or_of_what_it_did_not_say() -> None:
    backup = node(FOUR, 1)
    backup.receive(LIAR, proposal(FOUR, LIAR, A))
    other = FOUR.block_digest(B)
    for frame in (
        shown(2, other),  # its own pre-prepare, out of office: against nobody
        shown(LIAR, FOUR.block_digest(A)),
        shown(LIAR, other, view=1),
        shown(LIAR, other, height=2),
        shown(LIAR, other, height=1000),
        seal_message(KEYS[LIAR], FOUR, PrePrepare(1, 0, 1, other)),
    ):
        assert backup.refusals(2, frame) == {}
    assert not cases(backup)
    assert backup.refusals(2, shown(LIAR, other)) == {"conflicting_vote": 1}
    assert [case.culprit for case in cases(backup)] == [KEYS[LIAR].identity]


def test_a_prepare_for_another_block_is_no_case_against_its_sender() -> None:
    backup = node(FOUR, 1)
    backup.receive(LIAR, proposal(FOUR, LIAR, A))
    backup.receive(2, prepare(FOUR, 2, FOUR.block_digest(B)))
    backup.receive(2, commit(FOUR, 2, FOUR.block_digest(B)))
    assert not cases(backup)


def test_honest_validators_are_never_accused_through_crashes_and_view_changes() -> None:
    four = cluster()
    for i in range(12):
        four.submit(i % 4, b"%d" % i)
        four.run(100)
        four.restart(i % 4)
        four.run(1200)
    assert four.agreed()
    assert not cases(four)
    assert all("conflicting_vote" not in each.replica.rejections for each in four.nodes.values())

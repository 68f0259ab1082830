"""A replica that dies between any two of its effects comes back as the same replica, with one word for each vote."""

from collections.abc import Sequence

import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    NOW_MS,
    Node,
    block_on,
    commit,
    node,
    prepare,
    proposal,
    saved,
    settle,
    spoken,
)

from tallystick.consensus.pbft.io import Connected, Deliver, Effect, Persist, Phase, Submitted
from tallystick.consensus.pbft.messages import Commit, Prepare, PrePrepare, Proposal, open_vote

Slot = tuple[type, int, int]


def votes_in(effects: Sequence[Effect]) -> set[tuple[Slot, bytes]]:
    """Every vote that leaves with `effects`, with what it is a vote for."""
    found = set()
    for message in spoken(FOUR, effects):
        vote = open_vote(FOUR, message.pre_prepare)[1] if isinstance(message, Proposal) else message
        if isinstance(vote, PrePrepare | Prepare | Commit):
            found.add(((type(vote), vote.view, vote.height), vote.digest))
    return found


def life_of(index: int) -> list[Effect]:
    """What validator `index` does while four of them agree on two blocks."""
    nodes = [node(FOUR, i) for i in range(4)]
    for number in range(2):
        nodes[0].step(Submitted(b"transaction %d" % number))
        settle(nodes, [(nodes[0], effect) for effect in nodes[0].tick()])
    assert nodes[index].replica.height == 2
    return nodes[index].effects


def tempt(reborn: Node) -> None:
    """Everything that could make it contradict its former life: another proposal, votes for it, other work."""
    reborn.step(Submitted(b"something else"))
    reborn.tick(later_ms=1000)
    height = reborn.replica.height + 1
    parent = FOUR.genesis if height == 1 else FOUR.block_digest(reborn.blocks[-1][0])
    other = block_on(FOUR, parent, height=height, time_ms=NOW_MS, transactions=[b"another"])
    digest = FOUR.block_digest(other)
    if reborn.key is not KEYS[0]:
        reborn.receive(KEYS[0], proposal(FOUR, KEYS[0], other, height=height))
    for key in KEYS[2:4]:
        reborn.receive(key, prepare(FOUR, key, digest, height=height))
        reborn.receive(key, commit(FOUR, key, digest, height=height))
    reborn.tick(later_ms=1000)


def restarted(index: int, effects: Sequence[Effect]) -> Node:
    reborn = node(FOUR, index, saved(effects))
    reborn.blocks = [(e.encoded, e.block.certificate) for e in effects if isinstance(e, Deliver)]
    return reborn


@pytest.mark.parametrize("index", [0, 1])
def test_whatever_was_on_disk_when_it_died_it_never_votes_twice(index: int) -> None:
    effects = life_of(index)
    assert len(effects) > 8
    for cut in range(len(effects) + 1):
        reborn = restarted(index, effects[:cut])
        tempt(reborn)
        said: dict[Slot, bytes] = {}
        for slot, digest in votes_in(effects[:cut]) | votes_in(reborn.effects):
            assert said.setdefault(slot, digest) == digest, f"cut {cut}: two votes at {slot}"


def test_the_temptation_works_on_a_replica_without_memory() -> None:
    fresh = node(FOUR, 1)
    fresh.blocks = []
    tempt(fresh)
    assert any(slot[0] is Commit for slot, _ in votes_in(fresh.effects))


@pytest.mark.parametrize("index", [0, 1])
def test_it_takes_up_its_votes_where_it_left_them(index: int) -> None:
    effects = life_of(index)
    for cut, effect in enumerate(effects, 1):
        if isinstance(effect, Persist):
            reborn = restarted(index, effects[:cut])
            again = votes_in(reborn.step(Connected(KEYS[3].identity)))
            phases = {Phase.PRE_PREPARE: PrePrepare, Phase.PREPARE: Prepare, Phase.COMMIT: Commit}
            record = effect.record
            assert ((phases[record.phase], record.view, record.height), record.digest) in again


def test_a_restarted_primary_proposes_the_very_same_block_again() -> None:
    primary = node(FOUR, 0)
    primary.step(Submitted(b"transaction"))
    (persisted, sent, *_) = primary.tick()
    assert isinstance(persisted, Persist)
    reborn = node(FOUR, 0, saved([persisted]))
    reborn.step(Submitted(b"something else"))
    assert votes_in(reborn.tick(later_ms=1000)) == votes_in([sent])


def test_a_restarted_backup_finishes_the_height_from_the_others_messages() -> None:
    backup = node(FOUR, 1)
    block = block_on(FOUR)
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], block))
    backup.receive(KEYS[2], prepare(FOUR, KEYS[2], FOUR.block_digest(block)))
    reborn = restarted(1, backup.effects)
    for key in (KEYS[0], KEYS[2]):
        reborn.receive(key, commit(FOUR, key, FOUR.block_digest(block)))
    assert reborn.replica.height == 1


def test_votes_of_settled_heights_are_not_taken_up() -> None:
    effects = life_of(1)
    assert saved(effects).votes == ()
    stale = tuple(effect.record for effect in effects if isinstance(effect, Persist))
    durable = saved(effects)
    reborn = node(FOUR, 1, type(durable)(durable.height, durable.digest, durable.time_ms, None, stale))
    assert votes_in(reborn.step(Connected(KEYS[3].identity))) == set()


def test_a_restarted_backup_refuses_another_proposal_than_the_one_it_accepted() -> None:
    backup = node(FOUR, 1)
    backup.receive(KEYS[0], proposal(FOUR, KEYS[0], block_on(FOUR)))
    reborn = restarted(1, backup.effects)
    other = block_on(FOUR, transactions=[b"another"])
    assert reborn.refusals(KEYS[0], proposal(FOUR, KEYS[0], other)) == {"conflicting_vote": 1}
    assert reborn.refusals(KEYS[0], proposal(FOUR, KEYS[0], block_on(FOUR))) == {}
    assert reborn.effects == []

"""A replica that dies between any two of its effects comes back as the same replica, with one word for each vote."""

from collections.abc import Sequence

import msgspec
import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    SMALL,
    App,
    Cluster,
    Disk,
    Node,
    block_at,
    cluster,
    commit,
    new_view,
    node,
    prepare,
    prepared_claim,
    proposal,
    records,
    restarted,
    said,
    spoken,
    view_change,
)

from tallystick.canon.votes import Checkpoint, Commit, Message, Prepare, PrePrepare, open_vote
from tallystick.consensus.pbft import Group, Parameters, Replica
from tallystick.consensus.pbft.io import (
    Broadcast,
    CheckpointRecord,
    Connected,
    ContentRecord,
    Deliver,
    Effect,
    EpochRecord,
    MuteRecord,
    Persist,
    Send,
    Submitted,
    VoteRecord,
)
from tallystick.consensus.pbft.messages import NewView, Proposal, Status, ViewChange, seal_message
from tallystick.errors import Refused

Slot = tuple[type, int, int, int]


def votes_in(effects: Sequence[Effect]) -> set[tuple[Slot, bytes]]:
    """Every vote that leaves with `effects`, with what it is a vote for."""
    found: set[tuple[Slot, bytes]] = set()
    for message in spoken(FOUR, effects):
        sealed = [message.pre_prepare] if isinstance(message, Proposal) else []
        sealed += message.pre_prepares if isinstance(message, NewView) else []
        inside: list[Message] = [open_vote("test", vote)[1] for vote in sealed]
        for vote in inside or [message]:
            if isinstance(vote, PrePrepare | Prepare | Commit):
                found.add(((type(vote), vote.epoch, vote.view, vote.height), vote.digest))
            elif isinstance(vote, Checkpoint):
                found.add(((Checkpoint, vote.epoch, 0, vote.height), vote.digest))
    return found


def story() -> Cluster:
    """Four validators agree, lose their primary, go on, pass a checkpoint and an epoch."""
    four = cluster(parameters=Parameters(4, 8, 3))
    four.order(b"1", b"2")
    four.crash(0)
    four.submit(1, b"3")
    four.run(1500)
    for i in range(4, 10):
        four.submit(2, b"%d" % i)
        four.run(100)
    assert four[1].replica.epoch == 1
    return four


STORY = story()


def tempt(reborn: Node) -> None:
    """Everything that could make it contradict its former life: other proposals, votes for them, other work."""
    reborn.step(Submitted(b"something else"))
    reborn.tick(1000)
    group, view = reborn.replica.group, reborn.replica.view
    by = (group.epoch + view) % 4
    for height in range(reborn.replica.height + 1, reborn.replica.height + 3):
        other = block_at(height, b"another", by=by)
        digest = group.block_digest(other)
        if by != reborn.index:
            reborn.receive(by, proposal(group, by, other, view=view, height=height))
        for i in {0, 1, 2, 3} - {reborn.index, by}:
            reborn.receive(i, prepare(group, i, digest, view=view, height=height))
            reborn.receive(i, commit(group, i, digest, view=view, height=height))
    for i in {0, 1, 2, 3} - {reborn.index}:
        reborn.receive(i, view_change(group, i, view + 1))
    reborn.tick(1000)


@pytest.mark.parametrize("index", [1, 2])
def test_whatever_was_on_disk_when_it_died_it_never_votes_twice(index: int) -> None:
    """`Disk` asserts that no record contradicts another; here nothing that left does."""
    effects = STORY[index].effects
    cuts = [i for i, e in enumerate(effects) if isinstance(e, Persist | Deliver)]
    assert len(cuts) > 30
    for cut in [0, *cuts, *(i + 1 for i in cuts)]:
        reborn = restarted(STORY[index], effects[:cut])
        tempt(reborn)
        before: dict[Slot, bytes] = {}
        for slot, digest in votes_in(effects[:cut]) | votes_in(reborn.effects):
            assert before.setdefault(slot, digest) == digest, f"cut {cut}: two votes at {slot}"


def test_the_temptation_works_on_a_replica_without_memory() -> None:
    fresh = node(FOUR, 1)
    tempt(fresh)
    assert any(slot[0] is Commit for slot, _ in votes_in(fresh.effects))


@pytest.mark.parametrize("index", [1, 2, 3])
def test_wherever_it_died_it_comes_back_to_the_others_state(index: int) -> None:
    effects = STORY[index].effects
    for cut in range(0, len(effects), max(1, len(effects) // 12)):
        again = cluster(parameters=Parameters(4, 8, 3))
        again.nodes = {i: restarted(STORY[i]) for i in (1, 2, 3)}
        again.down = {0}
        again.nodes[index] = restarted(STORY[index], effects[:cut])
        for each in again.up:
            each.elapsed_ms = STORY[1].elapsed_ms
        again.submit(index % 3 + 1, b"after")
        again.run(4000)
        states = [again[i].app.executed for i in (1, 2, 3)]
        assert states[0] == states[1] == states[2], f"cut {cut}"
        assert b"after" in states[0]


def test_it_says_again_what_it_said_of_undecided_heights() -> None:
    backup = node(FOUR, 1)
    block = block_at()
    backup.receive(0, proposal(FOUR, 0, block))
    backup.receive(2, prepare(FOUR, 2, FOUR.block_digest(block)))
    reborn = restarted(backup)
    again = reborn.step(Connected(KEYS[3].identity))
    assert {slot for slot, _ in votes_in(again)} == {(Prepare, 0, 0, 1), (Commit, 0, 0, 1)}
    assert all(isinstance(effect, Send) for effect in again)


def test_a_restarted_primary_proposes_the_very_same_block_again() -> None:
    primary = node(FOUR, 0)
    primary.step(Submitted(b"transaction"))
    effects = primary.tick()
    reborn = restarted(primary, [e for e in effects if isinstance(e, Persist)])
    reborn.step(Submitted(b"something else"))
    assert votes_in(reborn.tick(1000)) == votes_in(effects)


def test_a_restarted_backup_finishes_the_height_from_the_others_messages() -> None:
    backup = node(FOUR, 1)
    block = block_at()
    backup.receive(0, proposal(FOUR, 0, block))
    backup.receive(2, prepare(FOUR, 2, FOUR.block_digest(block)))
    reborn = restarted(backup)
    for i in (0, 2):
        reborn.receive(i, commit(FOUR, i, FOUR.block_digest(block)))
    assert reborn.replica.height == 1


def test_a_restarted_backup_refuses_another_proposal_than_the_one_it_accepted() -> None:
    backup = node(FOUR, 1)
    backup.receive(0, proposal(FOUR, 0, block_at()))
    reborn = restarted(backup)
    assert reborn.refusals(0, proposal(FOUR, 0, block_at(1, b"another"))) == {"conflicting_vote": 1}
    assert reborn.refusals(0, proposal(FOUR, 0, block_at())) == {}
    assert not votes_in(reborn.effects)


def test_a_prepared_block_is_claimed_in_a_view_change_after_a_restart() -> None:
    """raijin 8: a view change that wiped what was prepared."""
    backup = node(FOUR, 2)
    digest = FOUR.block_digest(block_at())
    backup.receive(0, proposal(FOUR, 0, block_at()))
    backup.receive(1, prepare(FOUR, 1, digest))
    reborn = restarted(backup)
    for i in (1, 3):
        reborn.receive(i, view_change(FOUR, i, 1))
    (left,) = said(FOUR, reborn.effects, ViewChange)
    assert [(claim.height, claim.view, claim.digest) for claim in left.claims] == [(1, 0, digest)]


def test_a_claim_outlasts_views_and_restarts() -> None:
    backup = node(FOUR, 2)
    digest = FOUR.block_digest(block_at())
    backup.receive(0, proposal(FOUR, 0, block_at()))
    backup.receive(1, prepare(FOUR, 1, digest))
    for view in (1, 2, 3):
        for i in (1, 3):
            backup.receive(i, view_change(FOUR, i, view))
        backup = restarted(backup)
        backup.tick()
    assert backup.replica.view == 3
    (left,) = said(FOUR, backup.step(Connected(KEYS[0].identity)), ViewChange)
    assert [(claim.view, claim.digest) for claim in left.claims] == [(0, digest)]


def test_left_but_not_open_it_says_the_same_view_change_again_and_takes_part_in_no_older_view() -> None:
    lone = node(FOUR, 2)
    for i in (1, 3):
        lone.receive(i, view_change(FOUR, i, 5))
    assert (lone.replica.view, lone.replica.active) == (5, False)
    reborn = restarted(lone)
    reborn.tick()
    assert (reborn.replica.view, reborn.replica.active) == (5, False)
    assert reborn.refusals(0, proposal(FOUR, 0, block_at())) == {"old_view": 1}
    frames = [e.frame for e in lone.effects if isinstance(e, Broadcast)]
    again = [e for e in reborn.tick(500) if isinstance(e, Broadcast) and e.frame in frames]
    assert [message.view for message in said(FOUR, again, ViewChange)] == [5]


def test_in_an_open_view_it_still_knows_what_must_be_there() -> None:
    block = block_at()
    digest = FOUR.block_digest(block)
    backup = node(FOUR, 2)
    claim = prepared_claim(FOUR, digest, [0, 1, 3])
    changes = [view_change(FOUR, 0, 1, claim), view_change(FOUR, 1, 1), view_change(FOUR, 3, 1)]
    backup.receive(1, new_view(FOUR, 1, 1, changes, [digest]))
    reborn = restarted(backup)
    reborn.tick()
    assert (reborn.replica.view, reborn.replica.active) == (1, True)
    assert reborn.refusals(1, proposal(FOUR, 1, block_at(1, b"another", by=1), view=1)) == {"conflicting_vote": 1}
    reborn.receive(1, proposal(FOUR, 1, block, view=1))
    assert [vote.digest for vote in said(FOUR, reborn.effects, Prepare)] == [digest]


def test_a_primary_that_died_while_it_opened_its_view_opens_it_once() -> None:
    """Between any two records of the new view: either it is open as it was, or nothing of it has left."""
    primary = node(FOUR, 1)
    digest = FOUR.block_digest(block_at())
    primary.receive(0, proposal(FOUR, 0, block_at()))
    claim = prepared_claim(FOUR, digest, [0, 2, 3])
    primary.receive(0, view_change(FOUR, 0, 1, claim))
    primary.receive(3, view_change(FOUR, 3, 1))
    assert (primary.replica.view, primary.replica.active) == (1, True)
    for cut in range(len(primary.effects) + 1):
        reborn = restarted(primary, primary.effects[:cut])
        for i in (2, 3):
            reborn.receive(i, view_change(FOUR, i, 1))  # other ones, without a claim
        reborn.tick(2000)
        digests: dict[Slot, bytes] = {}
        for slot, named in votes_in(primary.effects[:cut]) | votes_in(reborn.effects):
            assert digests.setdefault(slot, named) == named, f"cut {cut}"


def test_a_vote_of_a_settled_height_or_a_past_epoch_is_not_taken_up() -> None:
    stale = tuple(records(STORY[1].effects, VoteRecord))
    durable = STORY[1].disk.durable()
    reborn = Replica(STORY.genesis, KEYS[1], msgspec.structs.replace(durable, votes=stale))
    head = STORY[1].replica.height
    again = votes_in(reborn.step(Connected(KEYS[3].identity)))
    assert all(height > head for (kind, _, _, height), _ in again if kind is not Checkpoint)


# ---- at a checkpoint, and between epochs


def at_checkpoint(parameters: Parameters = SMALL) -> Node:
    four = cluster(parameters=parameters)
    four.passes = lambda source, target, message: not isinstance(message, Checkpoint)
    four.order(b"1", b"2", b"3", b"4")
    return four[2]


@pytest.mark.parametrize("until", [Deliver, ContentRecord])
def test_between_a_checkpoint_delivered_and_its_outcome_recorded(until: type) -> None:
    """All stop at once before any vote for the checkpoint met: each still knows what it computed."""
    done = at_checkpoint()
    kinds = [type(getattr(effect, "record", effect)) for effect in done.effects]
    cut = len(kinds) - kinds[::-1].index(until)
    reborn = restarted(done, done.effects[:cut])
    assert reborn.replica.height == 4
    votes = said(FOUR, [*reborn.tick(), *reborn.tick(500)], Checkpoint)
    assert {(vote.height, vote.digest) for vote in votes} == {
        (4, FOUR.checkpoint_digest(record.content)) for record in records(done.effects, ContentRecord)
    }


def test_a_stop_before_the_next_epoch_was_recorded_does_not_keep_us_in_the_old_one() -> None:
    done = at_checkpoint(Parameters(4, 4, 3))
    cut = next(i for i, e in enumerate(done.effects) if isinstance(e, Persist) and isinstance(e.record, EpochRecord))
    for stop in (cut - 1, cut, cut + 1):
        reborn = restarted(done, done.effects[:stop])
        reborn.tick()
        assert reborn.replica.epoch == 1
        assert reborn.replica.group.start == 4


def test_in_the_next_epoch_it_still_counts_votes_for_the_checkpoint_that_opened_it() -> None:
    done = at_checkpoint(Parameters(4, 4, 3))
    (content,) = records(done.effects, ContentRecord)
    reborn = restarted(done)
    reborn.tick()
    for i in (0, 1):
        vote = Checkpoint(0, 4, FOUR.checkpoint_digest(content.content))
        reborn.receive(i, seal_message(KEYS[i], FOUR, vote))
    assert reborn.replica.stable == 4
    assert records(reborn.effects, CheckpointRecord)


def test_a_corrupt_stored_proof_is_refused_at_the_start() -> None:
    durable = STORY[1].disk.durable()
    assert durable.checkpoint
    broken = msgspec.structs.replace(durable, checkpoint=durable.checkpoint[:-1] + b"\0")
    with pytest.raises(Refused):
        Replica(STORY.genesis, KEYS[1], broken)


# ---- a disk that forgot


def mute(genesis: Group = FOUR) -> Node:
    disk = Disk(genesis, App(genesis.validators), mute=MuteRecord(0))
    return node(genesis, 3, disk=disk)


def told(forgetful: Node, by: int, epoch: int) -> None:
    forgetful.receive(by, seal_message(KEYS[by], FOUR, Status(epoch, 0, True, 0, 0)))


def test_who_lost_its_disk_says_nothing_until_a_quorum_told_it_which_epoch_it_is() -> None:
    forgetful = mute()
    forgetful.receive(0, proposal(FOUR, 0, block_at()))
    forgetful.tick(5000)
    for i in (0, 1):
        told(forgetful, i, 0)
    forgetful.tick(5000)
    assert not votes_in(forgetful.effects)
    assert not records(forgetful.effects, MuteRecord)
    told(forgetful, 2, 0)
    assert records(forgetful.effects, MuteRecord) == [MuteRecord(2)]


def test_one_liar_cannot_silence_it_for_ever_nor_make_it_speak_early() -> None:
    forgetful = mute()
    for i in (0, 1):
        told(forgetful, i, 0)
    told(forgetful, 2, 2**53 - 3)
    assert not records(forgetful.effects, MuteRecord)
    told(forgetful, 2, 0)
    assert records(forgetful.effects, MuteRecord) == [MuteRecord(2)]
    late = mute()
    for i, epoch in ((0, 9), (1, 9), (2, 0)):
        told(late, i, epoch)
    assert not records(late.effects, MuteRecord), "a quorum is ahead of it: it follows first"


def test_it_follows_while_it_is_mute_and_votes_again_two_epochs_later() -> None:
    four = cluster(parameters=Parameters(2, 4, 2))
    four.order(*[b"%d" % i for i in range(6)])
    four.nodes[3] = mute(four.genesis)
    four.nodes[3].elapsed_ms = four[0].elapsed_ms
    four.seen[3] = 0
    four.run(2000)
    assert four.agreed()
    until = four[3].disk.mute
    assert until == MuteRecord(four[3].replica.epoch + 2)
    for i in range(6, 20):
        assert four[3].replica.votes == (four[3].replica.epoch >= until.until)
        assert four[3].replica.votes or not votes_in(four[3].effects)
        four.submit(1, b"%d" % i)
        four.run(200)
    assert four[3].replica.votes
    assert four.agreed()
    assert votes_in(four[3].effects)


def test_it_stays_mute_over_a_restart() -> None:
    forgetful = mute()
    for i in (0, 1, 2):
        told(forgetful, i, 0)
    disk = forgetful.disk
    again = node(FOUR, 3, disk=disk)
    assert not again.replica.votes
    again.receive(0, proposal(FOUR, 0, block_at()))
    assert not votes_in(again.effects)

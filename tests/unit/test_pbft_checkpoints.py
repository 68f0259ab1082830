"""Checkpoints, watermarks, garbage collection, epochs, and changes of validators at a checkpoint."""

import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    Cluster,
    Node,
    cluster,
    content_of,
    group_of,
    identities,
    last_proof,
    node,
    prepare,
    records,
    restarted,
    said,
    stable_proof,
)

from tallystick.canon.votes import Checkpoint, seal_vote
from tallystick.consensus.pbft import ChainOfTrust, Group, Parameters, Replica
from tallystick.consensus.pbft.certificate import decode_content, verify_checkpoint
from tallystick.consensus.pbft.io import Broadcast, ContentRecord, EpochRecord, Regroup, Send
from tallystick.consensus.pbft.messages import Checkpoints, open_message
from tallystick.errors import Refused


def numbered(first: int, last: int) -> list[bytes]:
    return [b"%d" % i for i in range(first, last + 1)]


def told(group: Group, by: int, content: bytes) -> bytes:
    height = decode_content(content).height
    return seal_vote(KEYS[by], group.chain, Checkpoint(group.epoch, height, group.checkpoint_digest(content)))


def test_a_quorum_of_equal_votes_moves_the_watermarks_and_clears_the_log() -> None:
    four = cluster()
    four.order(*numbered(1, 3))
    assert [four[0].replica.load["certified"], four[0].replica.low, four[0].replica.high] == [3, 0, 8]
    four.order(b"4")
    assert [four[0].replica.low, four[0].replica.high] == [4, 12]
    assert not any(four[0].replica.load.values())
    content = verify_checkpoint(FOUR, last_proof(four[0]))
    assert (content.height, content.head, content.validators) == (
        4,
        four[0].disk.head and four[0].disk.head.digest,
        list(FOUR.validators),
    )


def test_votes_that_differ_make_nothing_stable() -> None:
    four = cluster()
    four.passes = lambda source, target, message: not isinstance(message, Checkpoint | Checkpoints)
    four.order(*numbered(1, 4))
    other = content_of(FOUR, 4)
    for i in (1, 2):
        four[0].receive(i, told(FOUR, i, other))
    assert four[0].replica.stable == 0
    assert not four[0].halted()


def test_a_replica_whose_state_is_not_what_a_quorum_computed_halts() -> None:
    four = cluster()
    four.passes = lambda source, target, message: not isinstance(message, Checkpoint | Checkpoints)
    four.order(*numbered(1, 4))
    for i in (1, 2, 3):
        four[0].receive(i, told(FOUR, i, content_of(FOUR, 4)))
    assert four[0].halted()
    assert four[0].tick(10_000) == []


def test_without_a_stable_checkpoint_agreement_stops_at_the_high_watermark_and_goes_on_after_it() -> None:
    four = cluster(parameters=Parameters(4, 64, 3))
    four.passes = lambda source, target, message: not isinstance(message, Checkpoint | Checkpoints)
    four.order(*numbered(1, 12))
    assert four.heights() == [8, 8, 8, 8]
    four.passes = lambda source, target, message: True
    four.run(3000)
    assert four.agreed()
    assert four[0].replica.stable == 8
    assert all(each.replica.waiting == 0 for each in four.nodes.values())


def test_votes_above_the_high_watermark_take_no_memory() -> None:
    backup = node(FOUR, 1)
    assert backup.refusals(2, prepare(FOUR, 2, b"d" * 32, height=8)) == {}
    assert backup.refusals(2, prepare(FOUR, 2, b"d" * 32, height=9)) == {"above_watermark": 1}
    assert backup.refusals(2, told(FOUR, 2, content_of(FOUR, 12))) == {"not_a_checkpoint": 1}
    assert backup.refusals(2, told(FOUR, 2, content_of(FOUR, 3))) == {"not_a_checkpoint": 1}


def test_who_missed_the_votes_learns_of_the_checkpoint_from_a_proof() -> None:
    four = cluster()
    four.passes = lambda source, target, message: target != 3 or not isinstance(message, Checkpoint)
    four.order(*numbered(1, 4))
    assert [each.replica.stable for each in four.nodes.values()] == [4, 4, 4, 0]
    four.run(600)
    assert four[3].replica.stable == 4
    assert verify_checkpoint(FOUR, last_proof(four[3]))


def test_votes_that_all_were_lost_are_said_again() -> None:
    four = cluster()
    four.passes = lambda source, target, message: not isinstance(message, Checkpoint)
    four.order(*numbered(1, 4))
    assert [each.replica.stable for each in four.nodes.values()] == [0, 0, 0, 0]
    four.passes = lambda source, target, message: True
    four.run(600)
    assert [each.replica.stable for each in four.nodes.values()] == [4, 4, 4, 4]


# ---- epochs


def test_an_epoch_ends_after_its_length_and_the_office_of_primary_goes_around() -> None:
    four = cluster()
    four.order(*numbered(1, 13))
    assert [(each.replica.epoch, each.replica.view) for each in four.nodes.values()] == [(1, 0)] * 4
    assert four[0].replica.primary == KEYS[1].identity
    assert four.agreed()
    assert records(four[2].effects, EpochRecord) == [EpochRecord(1, 12, 0, FOUR.validators)]


def test_a_vote_of_an_epoch_that_is_over_is_refused_and_of_one_to_come_is_held() -> None:
    four = cluster()
    four.passes = lambda source, target, message: target != 3
    four.order(*numbered(1, 13))
    first = Group("test", FOUR.validators, 1, 12, 0, FOUR.parameters)
    assert four[0].refusals(2, prepare(FOUR, 2, b"d" * 32, height=14)) == {"wrong_epoch": 1}
    assert four[3].refusals(2, prepare(first, 2, b"d" * 32, height=14)) == {}
    assert four[3].replica.load["early"] == 1
    assert four[3].refusals(2, prepare(FOUR, 2, b"d" * 32, height=13)) == {"above_watermark": 1}


def test_frames_of_the_next_epoch_count_once_we_are_in_it() -> None:
    """Node 3 hears of epoch 1 before it has the last votes of epoch 0."""
    four = cluster()
    four.order(*numbered(1, 11))
    four.passes = lambda source, target, message: target != 3
    before = {i: len(four[i].effects) for i in (0, 1, 2)}
    four.order(b"12", b"13")
    missed = [(i, e.frame) for i, n in before.items() for e in four[i].effects[n:] if isinstance(e, Send | Broadcast)]
    later = [(i, f) for i, f in missed if getattr(open_message(FOUR, f)[1], "epoch", 0) == 1]
    assert four[3].replica.height == 11
    for source, frame in [*later, *missed]:
        four[3].receive(source, frame)
    assert four[3].replica.epoch == 1
    assert four[3].replica.height == 13
    assert not four[3].replica.load["early"]


def test_the_first_checkpoint_of_an_epoch_waits_for_the_one_that_opened_it() -> None:
    """Else its voters would be two epochs back, nobody would count their votes, and no later checkpoint could ever be
    proven to newcomers."""
    four = cluster(parameters=Parameters(4, 4, 3))
    four.passes = lambda source, target, message: not isinstance(message, Checkpoint | Checkpoints)
    four.order(*numbered(1, 12))
    assert four.heights() == [7, 7, 7, 7]
    four.passes = lambda source, target, message: True
    four.run(3000)
    assert four.agreed()
    assert (four[0].replica.height, four[0].replica.epoch, four[0].replica.waiting) == (8, 2, 0)
    assert four[0].replica.stable >= 8


# ---- changes of validators


def replaced(validators: bytes = b"1 2 3 4") -> Cluster:
    """A cluster in which, at checkpoint 4, the named validators take over from 0 to 3."""
    five = cluster(4, extra=[4])
    five.order(b"validators " + validators)
    five.run(500)
    return five


def test_a_change_of_validators_takes_effect_at_the_next_checkpoint() -> None:
    five = replaced()
    five.run(2000)
    assert five[1].disk.app.validators == identities([1, 2, 3, 4])
    assert {five[i].replica.epoch for i in range(5)} == {1}
    assert five[1].replica.group == Group("test", identities([1, 2, 3, 4]), 1, 4, 4, FOUR.parameters)
    assert [e for e in five[1].effects if isinstance(e, Regroup)] == [Regroup(five[1].replica.group)]
    assert [five[i].replica.votes for i in range(5)] == [False, True, True, True, True]


def test_empty_blocks_hurry_to_the_checkpoint_that_a_change_waits_for() -> None:
    five = replaced()
    assert five[1].replica.height == 4
    assert len(five[1].app.executed) == 1


def test_the_new_validators_go_on_and_the_old_one_has_no_vote() -> None:
    five = replaced()
    five.run(2000)
    five.crash(0)
    five.submit(2, b"after")
    five.run(2000)
    assert [b"after" in five[i].app.executed for i in (1, 2, 3, 4)] == [True] * 4
    new = five[1].replica.group
    assert five[1].refusals(0, prepare(new, 0, b"d" * 32, height=99)) == {"not_a_validator": 1}


def test_who_left_still_gets_the_end_of_its_last_epoch() -> None:
    five = cluster(4, extra=[4])
    five.passes = lambda source, target, message: target != 0
    five.order(b"validators 1 2 3 4")
    five.run(1000)
    assert five[0].replica.height < 4
    five.passes = lambda source, target, message: True
    five.run(2000)
    assert five[0].replica.height >= 4
    assert not five[0].replica.votes


def test_a_group_grows_and_shrinks_and_the_whole_chain_of_changes_convinces_a_stranger() -> None:
    many = cluster(4, extra=[4, 5, 6])
    many.order(b"validators 0 1 2 3 4 5 6")
    many.run(3000)
    many.submit(5, b"by a newcomer")
    many.run(2000)
    assert many[5].replica.group.quorum == 5
    many.submit(5, b"validators 3 4 5 6")
    many.run(3000)
    assert many[3].replica.group.validators == identities([3, 4, 5, 6])
    history = many[6].disk.history
    assert len(history) == 2
    assert ChainOfTrust(FOUR, history).group.validators == identities([3, 4, 5, 6])
    with pytest.raises(Refused, match="not_a_validator"):
        ChainOfTrust(FOUR, history[1:])
    with pytest.raises(Refused):
        ChainOfTrust(FOUR, history[::-1])


def test_one_checkpoint_of_the_chain_cannot_be_left_out_even_if_the_validators_are_the_same_again() -> None:
    """A, then B, then A again: A's quorum signed the third change too, but after another one that must be shown."""
    a, b = FOUR, Group("test", identities([4, 5, 6, 7]), 1, 4, 4, FOUR.parameters)
    third = Group("test", a.validators, 2, 8, 8, a.parameters)
    chain = [
        stable_proof(a, content_of(a, 4, validators=[4, 5, 6, 7]), [0, 1, 2]),
        stable_proof(b, content_of(b, 8, validators=[0, 1, 2, 3]), [4, 5, 6]),
        stable_proof(third, content_of(third, 12, validators=[5, 6, 7, 8]), [0, 1, 2]),
    ]
    assert ChainOfTrust(a, chain).group.since == 12
    with pytest.raises(Refused, match="gap_in_history"):
        ChainOfTrust(a, [chain[2]])


def test_a_checkpoint_becomes_stable_only_after_the_one_that_named_its_voters() -> None:
    five = cluster(4, extra=[4])
    five.passes = lambda source, target, message: (
        target != 1
        or not (isinstance(message, Checkpoints) or (isinstance(message, Checkpoint) and message.height == 4))
    )
    five.order(b"validators 1 2 3 4")
    five.run(1000)
    for transaction in numbered(1, 5):
        five.submit(2, transaction)
        five.run(1000)
    assert five[1].replica.height > 8
    assert (five[1].replica.stable, five[1].replica.epoch) == (0, 1)
    assert five[2].replica.stable == 8
    five.passes = lambda source, target, message: True
    five.run(2000)
    assert five[1].replica.stable == five[2].replica.stable >= 4
    assert len(five[1].disk.history) == 1


def test_a_newcomer_does_not_vote_for_the_checkpoint_that_brought_it_in_even_after_a_restart() -> None:
    """It was no validator when that epoch ended; its vote would spoil every proof that it puts together itself."""
    five = cluster(4, extra=[4])
    five.passes = lambda source, target, message: not isinstance(message, Checkpoint | Checkpoints)
    five.order(b"validators 0 1 2 3 4")
    five.run(1000)
    assert (five[4].replica.height, five[4].replica.stable) == (4, 0)
    reborn = five.restart(4)
    effects = reborn.tick()
    assert reborn.replica.votes
    assert not said(FOUR, effects, Checkpoint)
    for i in (0, 1, 2):
        reborn.receive(i, told(FOUR, i, next(c.content for c in records(five[0].effects, ContentRecord))))
    assert reborn.replica.stable == 4


def test_one_who_left_says_its_last_checkpoint_vote_again_after_a_restart() -> None:
    five = cluster(4, extra=[4])
    five.passes = lambda source, target, message: not isinstance(message, Checkpoint | Checkpoints)
    five.order(b"validators 1 2 3 4")
    assert five[0].replica.epoch == 1
    again = said(FOUR, restarted(five[0]).tick(500), Checkpoint)
    assert [vote.height for vote in again] == [4] * len(again)
    assert again


def test_memory_of_old_checkpoints_is_no_door_for_members_of_the_last_epoch() -> None:
    """A node that trails its own history holds no votes for heights that were settled long ago."""
    five = cluster()
    five.passes = lambda source, target, message: target != 3 or not isinstance(message, Checkpoint | Checkpoints)
    five.order(*numbered(1, 30))
    five.run(5000)
    behind = five[3].replica
    assert (behind.epoch, behind.stable) == (2, 0)
    before = behind.load["checkpoint_votes"]
    group = Group("test", FOUR.validators, behind.epoch - 1, behind.group.start - 12, 0, FOUR.parameters)
    for height in range(behind.stable + 4, group.start + 1, 4):
        assert five[3].refusals(1, seal_vote(KEYS[1], "test", Checkpoint(group.epoch, height, b"d" * 32))) != {}
    assert behind.load["checkpoint_votes"] == before


@pytest.mark.parametrize(
    "wrong", [{"window": 5}, {"interval": 0, "window": 0}, {"epoch_length": 10}, {"interval": 65, "epoch_length": 65}]
)
def test_parameters_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(Refused, match="bad_parameters"):
        Parameters(**({"interval": 4, "epoch_length": 12, "window": 3} | wrong))


def test_a_group_has_each_validator_once_and_not_too_many() -> None:
    with pytest.raises(Refused, match="bad_group"):
        Group("test", (KEYS[0].identity, KEYS[0].identity))
    with pytest.raises(Refused, match="bad_group"):
        Group("test", ())
    with pytest.raises(Refused, match="bad_identity"):
        Group("test", ("nobody",))
    assert group_of(4).primary(5) == KEYS[1].identity


def test_a_new_key_that_knows_a_stable_checkpoint_shows_it_to_those_whom_the_old_key_did_not_reach() -> None:
    """Validator 3 is faulty. 0 becomes 4 at a checkpoint; its old key's vote for that never comes, and 4 has none."""
    four = cluster(4)
    four.crash(3)
    four.passes = lambda sender, to, message: not (isinstance(message, Checkpoint | Checkpoints) and sender == 0)
    four.order(b"validators 4 1 2 3")
    four.run(1000)
    old = four.nodes.pop(0)
    assert old.replica.may_leave and not four[1].replica.may_leave
    four.seen.pop(0)
    disk = old.disk
    four.nodes[4] = Node(old.genesis, KEYS[4], disk, Replica(old.genesis, KEYS[4], disk.durable()))
    four.passes = lambda sender, to, message: True
    four.run(1000)
    for number in range(6):
        four.submit(1, b"%d" % number)
        four.run(1000)
    assert all(node.replica.may_leave and node.replica.height >= 8 for node in four.up)

"""Newcomers follow before their epoch begins: they are told what they ask for, and heard on nothing else."""

from pbft_cluster import (
    FOUR,
    KEYS,
    STRANGER,
    Cluster,
    Node,
    block_at,
    cluster,
    commit,
    content_of,
    identities,
    node,
    prepare,
    proposal,
    said,
)

from tallystick.canon.votes import Checkpoint, Message
from tallystick.consensus.pbft.io import Guests, ReadBlocks, ReadChunk, Restore
from tallystick.consensus.pbft.limits import MAX_DEMANDS, MAX_GUESTS
from tallystick.consensus.pbft.messages import (
    Body,
    Checkpoints,
    Chunk,
    Fetch,
    FetchBody,
    FetchChunk,
    Forward,
    Status,
    seal_message,
)

NEWCOMER = 4


def host() -> Node:
    made = node(FOUR, 0)
    made.step(Guests(identities([NEWCOMER])))
    return made


def of(message: Message, by: int = NEWCOMER) -> bytes:
    return seal_message(KEYS[by], FOUR, message)


def test_a_guest_is_told_what_it_asks_for() -> None:
    four = cluster(4)
    four.order(*(b"%d" % i for i in range(6)))
    four.run(1000)
    four[0].step(Guests(identities([NEWCOMER])))
    assert said(FOUR, four[0].receive(NEWCOMER, of(Status(0, 0, True, 0, 0))), Checkpoints)
    assert ReadBlocks in map(type, four[0].receive(NEWCOMER, of(Fetch(0, 1, 4))))
    assert ReadChunk in map(type, four[0].receive(NEWCOMER, of(FetchChunk(0, 4, 0))))
    assert not said(FOUR, four[1].receive(NEWCOMER, of(Status(0, 0, True, 0, 0))), Checkpoints)
    assert four[1].refusals(NEWCOMER, of(Fetch(0, 1, 4))) == {"not_a_validator": 1}, "nobody invited it there"


def test_a_guest_is_heard_on_nothing_else() -> None:
    block = block_at(1, by=NEWCOMER)
    digest = FOUR.block_digest(block)
    words = [
        proposal(FOUR, NEWCOMER, block),
        prepare(FOUR, NEWCOMER, digest),
        commit(FOUR, NEWCOMER, digest),
        of(Checkpoint(0, 4, FOUR.checkpoint_digest(content_of(FOUR, 4)))),
        of(Forward(0, False, [b"mine"])),
        of(FetchBody(0, 1, digest)),
        of(Body(0, block)),
        of(Checkpoints(0, [b"x"])),
        of(Chunk(0, 4, 0, b"", b"")),
    ]
    each = host()
    for frame in words:
        assert each.refusals(NEWCOMER, frame) == {"not_a_validator": 1}
    assert each.refusals(1, of(Fetch(0, 1, 1))) == {"wrong_channel": 1}


def test_what_a_guest_claims_counts_for_nothing() -> None:
    each = host()
    each.receive(NEWCOMER, of(Status(9, 9, True, 10**6, 10**6)))
    effects = [*each.tick(1000), *each.tick(1000)]
    assert not said(FOUR, effects, Fetch), "nobody is asked for blocks that only a guest has"
    assert each.replica.load["peers"] == 0 and each.replica.load["guests"] == 1


def test_guests_are_few_and_get_no_more_than_a_validator() -> None:
    each = host()
    asked = [of(FetchChunk(0, 4, index)) for index in range(300)]
    answers = said(FOUR, [effect for frame in asked for effect in each.receive(NEWCOMER, frame)], Chunk)
    assert len(answers) < 300 - MAX_DEMANDS and each.replica.load["demands"] == MAX_DEMANDS
    assert each.replica.rejections == {"too_many_demands": 300 - MAX_DEMANDS - len(answers)}
    each.tick(1000)
    assert each.refusals(NEWCOMER, of(Fetch(0, 1, 1))) == {}
    each.step(Guests(tuple(f"{number:064x}" for number in range(100))))
    assert each.replica.load["guests"] == MAX_GUESTS
    assert each.refusals(NEWCOMER, of(Fetch(0, 1, 1))) == {"not_a_validator": 1}, "it is no guest any more"


def test_a_validator_is_no_guest() -> None:
    each = host()
    each.step(Guests((*identities(range(4)), STRANGER.identity)))
    assert each.replica.load["guests"] == 1


def before_it_is_known() -> Cluster:
    """Four validators, and a newcomer to whom nobody has a channel."""
    five = cluster(4, extra=[NEWCOMER])
    five.passes = lambda source, target, message: NEWCOMER not in (source, target)
    return five


def invite(five: Cluster) -> None:
    five.passes = lambda source, target, message: True
    for member in range(4):
        five[member].step(Guests(identities([NEWCOMER])))


def test_a_newcomer_is_at_the_head_when_its_epoch_begins() -> None:
    five = before_it_is_known()
    five.order(*(b"%d" % i for i in range(6)))
    five.run(2000)
    assert five[NEWCOMER].replica.height == 0
    invite(five)
    five.run(3000)
    assert five[NEWCOMER].replica.height == five[0].replica.height >= 6
    five.order(b"validators 0 1 2 3 4")
    five.run(2000)
    assert five[NEWCOMER].replica.votes and five[0].replica.load["guests"] == 0
    five.down |= {3}
    five.order(b"with the newcomer")
    five.run(3000)
    assert b"with the newcomer" in five[0].app.executed, "four of five are needed, and it is one of them"


def test_a_newcomer_far_behind_takes_a_snapshot_as_a_guest() -> None:
    five = before_it_is_known()
    five.order(*(b"%d" % i for i in range(40)))
    five.run(2000)
    assert five[NEWCOMER].replica.height == 0
    invite(five)
    five.run(4000)
    assert five[NEWCOMER].replica.height == five[0].replica.height >= 40
    assert any(isinstance(effect, Restore) for effect in five[NEWCOMER].effects)

"""A snapshot that takes longer to fetch than the chain to go on arrives all the same, and only once."""

from collections import deque

import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    Cluster,
    Node,
    cluster,
    content_of,
    index_of,
    node,
    records,
    restarted,
    said,
    stable_proof,
)

from tallystick.canon.chunks import chunk, manifest_of
from tallystick.canon.encoding import to_bytes
from tallystick.consensus.pbft import Group
from tallystick.consensus.pbft.io import CheckpointRecord, Guests, Restore, Send, StartTransfer
from tallystick.consensus.pbft.limits import READ_MS, STALLED_MS
from tallystick.consensus.pbft.messages import Checkpoints, Chunk, FetchChunk, OnChannel, Status, seal_message

INTERVAL = FOUR.parameters.interval
DATA = to_bytes([[bytes(50_000)] * 20, list(FOUR.validators)])
"""A snapshot of four chunks."""


# ---- who serves


def asks(each: Node, by: int, height: int) -> None:
    each.receive(by, seal_message(KEYS[by], FOUR, FetchChunk(0, height, 0)))


def kept(four: Cluster, first: int) -> tuple[int, ...]:
    """What node 1 keeps for others at the next checkpoint, `INTERVAL` blocks later."""
    before = len(four[1].effects)
    four.order(*[b"%d" % i for i in range(first, first + INTERVAL)])
    (record,) = records(four[1].effects[before:], CheckpointRecord)
    return record.wanted


def test_a_snapshot_is_wanted_while_somebody_fetches_it() -> None:
    four = cluster()
    assert kept(four, 0) == ()
    asks(four[1], 2, 4)
    assert kept(four, 10) == (4,)
    asks(four[1], 3, 8)
    assert kept(four, 20) == (4, 8), "one for each peer"
    asks(four[1], 2, 8)
    assert kept(four, 30) == (8,), "the last that it asked for"
    four[1].tick(READ_MS)
    assert kept(four, 40) == (), "for so long"


def test_a_guest_s_snapshot_is_wanted_too_and_still_when_it_is_a_member() -> None:
    five = cluster(4, extra=[4])
    five[1].step(Guests((KEYS[4].identity,)))
    five.passes = lambda source, target, message: 4 not in (source, target)
    assert kept(five, 0) == ()
    asks(five[1], 4, 4)
    before = len(five[1].effects)
    five.order(*[b"%d" % i for i in range(10, 15)], b"validators 0 1 2 3 4", *[b"%d" % i for i in range(20, 26)])
    assert five[1].replica.epoch > 0
    assert [record.wanted for record in records(five[1].effects[before:], CheckpointRecord)] == [(4,)] * 3


def test_who_takes_over_a_snapshot_keeps_what_others_fetch_from_it() -> None:
    late = newcomer(20, 20, 20)
    shown(late, 20)
    asks(late, 2, 8)
    comes(late, 20, 0, 1, 2, 3)
    (restore,) = [e for e in late.effects if isinstance(e, Restore)]
    assert restore.checkpoint.wanted == (8,)


# ---- who fetches


def proof(height: int) -> bytes:
    start = (height - 1) // 12 * 12
    group = Group("test", FOUR.validators, start // 12, start, 0, FOUR.parameters)
    return stable_proof(group, content_of(group, height, data=DATA), [0, 1, 2])


def shown(late: Node, height: int) -> set[int]:
    """Heights of the snapshots that it asks for after it was shown a checkpoint."""
    late.effects.clear()
    late.receive(0, seal_message(KEYS[0], FOUR, Checkpoints(1, [proof(height)])))
    late.tick()
    return {m.height for m in said(FOUR, late.effects, FetchChunk)}


def comes(late: Node, height: int, *indices: int, by: int = 0) -> None:
    for index in indices:
        manifest = manifest_of(DATA) if index == 0 else b""
        late.receive(by, seal_message(KEYS[by], FOUR, Chunk(1, height, index, manifest, chunk(DATA, index))))


def newcomer(*heights: int) -> Node:
    """A new validator 3 that others have told their heights."""
    late = node(FOUR, 3)
    late.tick(5_000)
    claims(late, *heights)
    return late


def claims(late: Node, *heights: int) -> None:
    for i, height in enumerate(heights):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(1, 0, True, height, height)))


def asked_of(late: Node, height: int) -> set[int]:
    """Whom it asks for the first chunk of a snapshot that it was shown."""
    shown(late, height)
    return {index_of(e.peer) for e in late.effects if isinstance(e, Send) and said(FOUR, [e], FetchChunk)}


def test_many_answers_overdue_at_one_moment_are_no_reason_to_give_up() -> None:
    late = newcomer(20, 20, 20)
    assert shown(late, 20) == {20}
    comes(late, 20, 0)
    late.tick(STALLED_MS - 1)
    assert 24 not in shown(late, 24)
    comes(late, 20, 1)
    late.tick(STALLED_MS - 1)
    assert 24 not in shown(late, 24)
    late.tick(1)
    assert shown(late, 24) == {24}, "nobody answers any more"


def test_it_stays_as_patient_as_it_has_learned_to_be_until_answers_come_in_time() -> None:
    late = newcomer(20, 20)
    shown(late, 20)
    for patience in (1_000, 1_000, 2_000, 2_000):
        assert repeated(late, patience) == 1
    asked = last_asked(late)
    assert repeated(late, 4_000) == 1
    comes(late, 20, 0, by=last_asked(late))
    assert asked != last_asked(late)
    assert repeated(late, 2_000) == 3
    assert repeated(late, 4_000) == 3, "several overdue at one moment count once"


def test_patience_has_an_end_and_comes_back_from_there() -> None:
    late = newcomer(20, 20)
    shown(late, 20)
    for patience in (1_000, 1_000, 2_000, 2_000, 4_000, 4_000, 8_000, 8_000, 16_000, 16_000, 16_000, 16_000):
        assert repeated(late, patience) == 1
    comes(late, 20, 0, by=last_asked(late))
    assert repeated(late, 8_000) == 3


def test_one_that_is_silent_does_not_make_us_patient() -> None:
    """It would only have to claim that it is ahead of everybody."""
    late = newcomer(20)
    shown(late, 20)
    for _ in range(5):
        assert repeated(late, 1_000) == 1


def last_asked(late: Node) -> int:
    return next(index_of(e.peer) for e in reversed(late.effects) if isinstance(e, Send) and said(FOUR, [e], FetchChunk))


def test_an_answer_that_comes_late_is_no_reason_for_less_patience() -> None:
    late = newcomer(20, 20)
    (first,) = asked_of(late, 20)
    late.tick(1_000)
    late.tick(1_000)  # now both were silent, and the first is asked again
    second = 1 - first
    late.receive(second, seal_message(KEYS[second], FOUR, Chunk(1, 20, 0, manifest_of(DATA), chunk(DATA, 0))))
    assert repeated(late, 2_000) == 3


def repeated(late: Node, patience: int) -> int:
    """How many chunks it asks for again when `patience` is over, and not before."""
    assert said(FOUR, late.tick(patience - 1), FetchChunk) == []
    return len(said(FOUR, late.tick(1), FetchChunk))


@pytest.mark.parametrize("known", [True, False])
def test_blocks_follow_a_snapshot_that_the_chain_ran_away_from(known: bool) -> None:
    """Also if it was not known how far the others were when the first chunk was asked for."""
    late = newcomer(*[20, 20, 20] if known else [20])
    shown(late, 20)
    claims(late, 20, 20, 20)
    late.tick()
    claims(late, 10**9, 60, 60)
    comes(late, 20, 0, 1, 2, 3)
    late.tick()
    assert late.replica.height == 20
    assert shown(late, 20 + 2 * 40) == set()
    assert shown(late, 20 + 2 * 40 + INTERVAL) == {104}, "not all the way that one of them claims"


def test_an_old_snapshot_that_was_soon_here_is_no_reason_to_execute_all_that_followed() -> None:
    """Whoever still has one could else keep a newcomer busy with blocks."""
    late = newcomer(200, 200, 200)
    shown(late, 20)
    comes(late, 20, 0, 1, 2, 3)
    late.tick()
    assert late.replica.height == 20
    assert shown(late, 200) == {200}


def test_nor_is_one_that_came_before_it_was_known_how_far_the_others_are() -> None:
    late = newcomer(20)
    shown(late, 20)
    claims(late, 200, 200, 200)
    late.tick(900)
    comes(late, 20, 0, 1, 2, 3)
    late.tick()
    assert late.replica.height == 20
    assert shown(late, 200) == {200}


def test_nor_is_one_whose_fetching_a_long_stop_interrupted() -> None:
    late = newcomer(20, 20, 20)
    shown(late, 20)
    comes(late, 20, 0, 1, 2)
    late = restarted(late)
    late.tick()
    claims(late, 200, 200, 200)
    late.tick()
    comes(late, 20, 3)
    late.tick()
    assert late.replica.height == 20
    assert shown(late, 200) == {200}


def test_a_fetch_that_a_stop_interrupted_is_not_stalled_from_its_first_moment() -> None:
    late = newcomer(20, 20, 20)
    late.tick(10 * STALLED_MS)
    shown(late, 20)
    comes(late, 20, 0, 1, 2)
    late = restarted(late)
    late.tick()
    claims(late, 20, 20, 20)
    assert 24 not in shown(late, 24)


def test_the_first_chunk_may_take_longer_than_the_chain_to_its_next_checkpoint() -> None:
    late = newcomer(20, 20, 20)
    shown(late, 20)
    for height in range(24, 20 + 10 * INTERVAL, INTERVAL):
        late.tick(STALLED_MS // 12)
        claims(late, height, height, height)
        assert height not in shown(late, height)
    late.tick(STALLED_MS)
    assert shown(late, 60) == {60}, "nobody answers"


def test_one_that_was_old_from_the_start_gives_way_at_once() -> None:
    late = newcomer(200, 200, 200)
    assert shown(late, 20) == {20}
    assert shown(late, 200) == {200}


def test_what_nobody_asked_for_is_no_reason_to_ask_its_sender_first() -> None:
    late = newcomer(20, 20, 20)
    (first,) = asked_of(late, 20)
    (second,) = {index_of(e.peer) for e in late.tick(1_000) if isinstance(e, Send)}
    late.receive(first, seal_message(KEYS[first], FOUR, Chunk(1, 20, 9, b"", b"junk")))
    late.effects.clear()
    late.receive(second, seal_message(KEYS[second], FOUR, Chunk(1, 20, 0, manifest_of(DATA), chunk(DATA, 0))))
    asked = [index_of(e.peer) for e in late.effects if isinstance(e, Send)]
    assert len(asked) == 3
    assert first not in asked


# ---- both


class ThinLine:
    """Chunks for one node come one after another, each after so many blocks of the others. Liars say they have none."""

    def __init__(self, group: Cluster, slow: int, liars: tuple[int, ...], blocks: int) -> None:
        self.group, self.slow, self.liars, self.blocks = group, slow, liars, blocks
        self.under_way: deque[tuple[int, Chunk]] = deque()
        group.passes = self.passes

    def passes(self, source: int, target: int, message: OnChannel) -> bool:
        if target == self.slow and isinstance(message, Chunk):
            if source in self.liars:
                message = Chunk(message.epoch, message.height, message.index, b"", b"")
            self.under_way.append((source, message))
            return False
        return True

    def bring(self) -> None:
        """Lets the chain go on until a chunk has arrived, and what is small with it."""
        for _ in range(self.blocks):
            self.group.order(b"at %d" % self.group[0].replica.height, ms=500)
        while self.under_way:
            source, message = self.under_way.popleft()
            self.group[self.slow].receive(source, seal_message(KEYS[source], self.group.genesis, message))
            self.group.settle()
            if message.data:
                break


@pytest.mark.parametrize(
    ("n", "liars", "blocks"),
    [(4, (), 1), (4, (), 2), (4, (1,), 3), (7, (0, 1), 3), (7, (0, 1, 5), 1), (13, (0, 1, 2, 3), 3)],
)
def test_a_slow_transfer_ends_while_the_chain_goes_on(n: int, liars: tuple[int, ...], blocks: int) -> None:
    """Also if `f` say that they hold nothing, and an honest one never did, or was first asked when it did no more."""
    group = cluster(n)
    late = group[n - 1]
    group.passes = lambda source, target, message: n - 1 not in (source, target)
    group.order(*[b"%d " % i + bytes(60_000) for i in range(30)])
    line = ThinLine(group, n - 1, liars, blocks)
    for _ in range(26):
        line.bring()
    done = [e for e in late.effects if isinstance(e, StartTransfer | Restore)]
    assert [type(e) for e in done] == [StartTransfer, Restore], "one snapshot, and then blocks"
    assert late.replica.height == group[0].replica.height
    assert late.app.executed == group[0].app.executed

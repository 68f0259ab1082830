"""A snapshot that takes longer to fetch than the chain to go on arrives all the same, and only once."""

from collections import deque

import pytest
from pbft_cluster import FOUR, KEYS, Cluster, Node, cluster, content_of, node, records, said, stable_proof

from tallystick.canon.chunks import chunk, manifest_of
from tallystick.canon.encoding import to_bytes
from tallystick.consensus.pbft import Group
from tallystick.consensus.pbft.io import CheckpointRecord, Restore, StartTransfer
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


def comes(late: Node, height: int, *indices: int) -> None:
    for index in indices:
        manifest = manifest_of(DATA) if index == 0 else b""
        late.receive(0, seal_message(KEYS[0], FOUR, Chunk(1, height, index, manifest, chunk(DATA, index))))


def newcomer(*claims: int) -> Node:
    """A new validator 3 that others have told their heights."""
    late = node(FOUR, 3)
    for i, height in enumerate(claims):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(1, 0, True, height, height)))
    return late


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
    late = newcomer(20)  # only 0 is there to be asked
    shown(late, 20)
    late.effects.clear()
    for patience in (1_000, 2_000, 4_000):
        assert said(FOUR, late.tick(patience - 1), FetchChunk) == []
        assert len(said(FOUR, late.tick(1), FetchChunk)) == 1
    comes(late, 20, 0)
    assert said(FOUR, late.tick(3_999), FetchChunk) == []
    comes(late, 20, 1, 2)
    assert said(FOUR, late.tick(1), FetchChunk), "the third was asked for with the first"


def test_blocks_follow_a_snapshot_that_the_chain_ran_away_from() -> None:
    late = newcomer(20, 20, 20)
    shown(late, 20)
    for i in (0, 1, 2):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(4, 0, True, 60 if i else 10**9, 60)))
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


# ---- both


class ThinLine:
    """Chunks for node 3 come one after another, each after so many blocks of the others."""

    def __init__(self, four: Cluster, blocks: int) -> None:
        self.four, self.blocks = four, blocks
        self.under_way: deque[tuple[int, bytes]] = deque()
        four.passes = self.passes

    def passes(self, source: int, target: int, message: OnChannel) -> bool:
        if target == 3 and isinstance(message, Chunk):
            self.under_way.append((source, seal_message(KEYS[source], FOUR, message)))
            return False
        return True

    def bring(self) -> None:
        """Lets the chain go on until a chunk has arrived."""
        for _ in range(self.blocks):
            self.four.order(b"at %d" % self.four[0].replica.height, ms=500)
        if self.under_way:
            source, frame = self.under_way.popleft()
            self.four[3].receive(source, frame)
            self.four.settle()


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_slow_transfer_ends_while_the_chain_goes_on(blocks: int) -> None:
    four = cluster()
    four.passes = lambda source, target, message: 3 not in (source, target)
    four.order(*[b"%d " % i + bytes(60_000) for i in range(30)])
    line, late = ThinLine(four, blocks), four[3]
    for _ in range(40):
        line.bring()
    done = [e for e in late.effects if isinstance(e, StartTransfer | Restore)]
    assert [type(e) for e in done] == [StartTransfer, Restore], "one snapshot, and then blocks"
    assert late.replica.height == four[0].replica.height
    assert late.app.executed == four[0].app.executed

"""What a peer may ask for costs us no more than its share, and an honest one is served all the same."""

from pbft_cluster import (
    FOUR,
    KEYS,
    NOW_MS,
    Node,
    block_at,
    cluster,
    group_of,
    node,
    proposal,
    said,
)

from tallystick.consensus.pbft.io import BlocksRead, ChunkRead, ReadBlocks, ReadChunk, Received, Send, Tick
from tallystick.consensus.pbft.limits import (
    ANSWER_OVERHEAD_BYTES,
    ANSWERED_BYTES,
    ANSWERS_MS,
    MAX_ANSWER_BYTES,
    MAX_BLOCK_BYTES,
    MAX_DEMANDS,
)
from tallystick.consensus.pbft.messages import (
    Blocks,
    Body,
    Fetch,
    FetchBody,
    FetchChunk,
    NewView,
    OnChannel,
    Status,
    seal_message,
)

SHARE = ANSWERED_BYTES // 4
SMALL_ANSWERS = SHARE // (ANSWER_OVERHEAD_BYTES + 2048)
"""At least so many answers of less than two kilobytes can be had at once."""

LAGS = seal_message(KEYS[3], FOUR, Status(0, 0, True, 0, 0))
"""Of validator 3, which has heard of no view change."""


def ask(by: int, first: int, last: int) -> bytes:
    return seal_message(KEYS[by], FOUR, Fetch(0, first, last))


def use_up_its_share(each: Node, by: int) -> None:
    """Asks until a demand has to wait."""
    for last in range(2, 500):
        if not said(FOUR, each.receive(by, ask(by, 1, last)), Blocks):
            return
    raise AssertionError("500 answers at once, and none has to wait")


def after_a_view_change() -> Node:
    """A validator that can show the new view to who missed it, and holds a block."""
    four = cluster()
    four.order(b"zero")
    four.crash(0)
    four.submit(2, b"one")
    four.run(1500)
    assert (four[2].replica.view, four[2].replica.active) == (1, True)
    four[2].tick(1000)
    return four[2]


def test_small_answers_are_many_and_not_endless_however_often_we_tick() -> None:
    four = cluster()
    four.order(b"one", b"two")
    served = 0
    for i in range(500):
        served += len(said(FOUR, four[1].receive(2, ask(2, 1, 1 + i)), Blocks))
        four[1].tick(0)
    assert SMALL_ANSWERS <= served <= SHARE // ANSWER_OVERHEAD_BYTES + 1
    assert four[1].replica.load["demands"] == MAX_DEMANDS
    assert four[1].replica.rejections == {"too_many_demands": 500 - MAX_DEMANDS - served}
    assert said(FOUR, four[1].receive(3, ask(3, 1, 1)), Blocks), "others have their own"
    four[1].tick(ANSWERS_MS)
    assert four[1].refusals(2, ask(2, 1, 1000)) == {}


def test_what_waits_is_answered_as_time_passes() -> None:
    four = cluster()
    four.order(b"one")
    use_up_its_share(four[1], 2)
    (blocks,) = said(FOUR, four[1].tick(2 * ANSWERS_MS // SMALL_ANSWERS), Blocks)
    assert len(blocks.blocks) == 1 and four[1].replica.load["demands"] == 0
    assert not four[1].replica.rejections


def test_who_asks_for_large_answers_gets_no_more_bytes_than_its_share() -> None:
    four = cluster()
    four.order(b"one")
    replica, peer, sent = four[1].replica, KEYS[2].identity, 0
    large = ((bytes(MAX_BLOCK_BYTES), b""),)  # nobody looks at what the disk holds
    for i in range(1000):
        effects = replica.step(Received(peer, ask(2, 1, 1 + i)))
        effects += replica.step(Tick(NOW_MS, 1000 + i))
        while effects:
            effect = effects.pop()
            if isinstance(effect, ReadBlocks):
                effects += replica.step(BlocksRead(peer, large))
            elif isinstance(effect, Send) and effect.peer == peer:
                sent += len(effect.frame)
    most = SHARE + SHARE * 1000 // ANSWERS_MS + MAX_BLOCK_BYTES
    assert most // 2 < sent < most


def test_one_that_asks_again_when_it_has_its_answer_waits_for_less_than_its_patience() -> None:
    """With as many validators as may be, the largest answer is worked off before another peer would be asked."""
    assert MAX_ANSWER_BYTES * ANSWERS_MS // (ANSWERED_BYTES // 31) < 1000


def test_the_same_demand_waits_once() -> None:
    four = cluster()
    four.order(b"one")
    use_up_its_share(four[1], 2)
    for _ in range(100):
        four[1].receive(2, ask(2, 1, 1))
    assert four[1].replica.load["demands"] == 2 and not four[1].replica.rejections


def test_one_answer_is_read_at_a_time() -> None:
    """Or many were read before the first one weighs anything."""
    four = cluster()
    four.order(b"one")
    replica, peer = four[1].replica, KEYS[2].identity
    demands = [ask(2, 1, 1), seal_message(KEYS[2], FOUR, FetchChunk(0, 4, 0)), ask(2, 1, 2)]
    reads = [effect for frame in demands for effect in replica.step(Received(peer, frame))]
    assert reads == [ReadBlocks(peer, 1, 1, MAX_ANSWER_BYTES)]
    answer = BlocksRead(peer, tuple(four[1].disk.blocks.values()))
    sent, read = replica.step(answer)
    assert isinstance(sent, Send) and read == ReadChunk(peer, 4, 0)
    assert [type(effect) for effect in replica.step(ChunkRead(peer, 4, 0, b"", b""))] == [Send, ReadBlocks]


def test_an_answer_for_one_that_left_meanwhile_is_dropped() -> None:
    made = node(group_of(4), 0)
    stranger = KEYS[9].identity
    assert made.replica.step(BlocksRead(stranger, ())) == []
    assert made.replica.load["peers"] == 0


def test_small_questions_do_not_draw_large_answers_without_end() -> None:
    """A body for 150 bytes, a whole new view for a status."""
    each = after_a_view_change()
    drawn = [m for _ in range(500) for m in said(FOUR, each.receive(3, LAGS), NewView)]
    assert 0 < len(drawn) <= SHARE // ANSWER_OVERHEAD_BYTES + 1
    backup = node(FOUR, 1)
    backup.receive(0, proposal(FOUR, 0, block_at()))
    want = seal_message(KEYS[2], FOUR, FetchBody(0, 1, FOUR.block_digest(block_at())))
    bodies = [m for _ in range(500) for m in said(FOUR, backup.receive(2, want), Body)]
    assert SMALL_ANSWERS <= len(bodies) <= SHARE // ANSWER_OVERHEAD_BYTES + 1
    for height in range(2, 500):  # nobody has these
        backup.receive(3, seal_message(KEYS[3], FOUR, FetchBody(0, height, bytes(32))))
    assert backup.replica.rejections["too_many_demands"] >= 498 - MAX_DEMANDS - SHARE // ANSWER_OVERHEAD_BYTES


# ---- an honest one that has much to ask for


def test_who_waits_for_answers_hears_of_a_new_view_all_the_same() -> None:
    each, told = after_a_view_change(), 0
    use_up_its_share(each, 3)
    for height in range(1, MAX_DEMANDS):
        each.receive(3, seal_message(KEYS[3], FOUR, FetchChunk(0, height, 0)))
    for _ in range(4):
        each.tick(ANSWERS_MS // 10)
        told += len(said(FOUR, each.receive(3, LAGS), NewView))
    assert each.replica.load["demands"] > 0 and told == 4


def test_who_was_told_of_large_views_is_answered_at_once() -> None:
    each = after_a_view_change()
    told = [said(FOUR, each.receive(3, LAGS), NewView) for _ in range(500)]
    assert not told[-1] and said(FOUR, each.receive(3, ask(3, 1, 1)), Blocks)
    each.tick(ANSWERS_MS)
    assert said(FOUR, each.receive(3, LAGS), NewView), "and told again when it has worked that off"


def test_those_who_left_with_the_last_epoch_get_no_more_than_they_had() -> None:
    many = cluster(7)
    many.order(b"validators 0 1 2 3", *(b"%d" % i for i in range(11)))
    many.run(500)
    group = many[0].replica.group
    assert (group.epoch, len(group.validators)) == (1, 4)
    want = (seal_message(KEYS[6], group, Fetch(1, 1, last)) for last in range(2, 500))
    served = sum(len(said(group, many[0].receive(6, frame), Blocks)) for frame in want)
    assert 0 < served <= ANSWERED_BYTES // 7 // ANSWER_OVERHEAD_BYTES + 1


def test_blocks_that_an_honest_one_has_delivered_are_not_asked_for_one_by_one() -> None:
    """It votes on them no more: the bodies would help nobody, and what helps would wait behind them at every peer."""
    seven, late, wanted = cluster(7), 6, list[int]()
    seven.crash(late)
    seven.order(b"one", b"two", b"three")
    seven.crash(0)
    seven.submit(1, b"four")
    seven.run(1500)
    assert (seven[1].replica.view, seven[1].replica.height) == (1, 4)

    def passes(source: int, target: int, message: OnChannel) -> bool:
        if isinstance(message, FetchBody):
            wanted.append(message.height)
        return not isinstance(message, Fetch)  # or it would have the blocks before it could miss them

    seven.passes = passes
    seven.down.discard(late)
    seven.run(800)
    assert seven[late].replica.view == 1 and seven[late].replica.height == 0
    assert not wanted
    seven.passes = lambda source, target, message: True
    seven.run(2000)
    assert seven[late].replica.height == 4

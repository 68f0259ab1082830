"""A replica that is behind gets certified blocks from whoever has them, and is neither fooled nor stalled."""

import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    Node,
    block_at,
    certify,
    cluster,
    commit,
    group_of,
    node,
    said,
)

from tallystick.consensus.pbft import Parameters
from tallystick.consensus.pbft.io import Connected, Effect, Send
from tallystick.consensus.pbft.limits import MAX_BLOCKS_PER_ANSWER
from tallystick.consensus.pbft.messages import (
    Blocks,
    CertifiedBlock,
    Fetch,
    Status,
    seal_message,
)

LONG = group_of(4, parameters=Parameters(64, 128, 8))
"""No checkpoint within one answer."""
CHAIN = [
    (block_at(h, b"%d" % h), certify(LONG, block_at(h, b"%d" % h), [0, 1, 2], height=h))
    for h in range(1, MAX_BLOCKS_PER_ANSWER + 1)
]


def status(by: int, height: int, *, epoch: int = 0, view: int = 0, active: bool = True, stable: int = 0) -> bytes:
    return seal_message(KEYS[by], FOUR, Status(epoch, view, active, height, stable))


def behind(*claims: int) -> Node:
    """A new validator 0 that was told heights by validators 1, 2, ..., and has waited long enough to ask."""
    late = node(LONG, 0)
    for i, height in enumerate(claims, 1):
        late.receive(i, status(i, height))
    return late


def asked(effects: list[Effect]) -> list[tuple[str, int, int]]:
    """Whom the effects ask for which blocks."""
    sends = [effect for effect in effects if isinstance(effect, Send)]
    return [(send.peer, f.first, f.last) for send in sends for f in said(FOUR, [send], Fetch)]


def answer(by: int, pairs: list[tuple[bytes, bytes]]) -> bytes:
    return seal_message(KEYS[by], FOUR, Blocks(0, [CertifiedBlock(*pair) for pair in pairs]))


def name(index: int) -> str:
    return KEYS[index].identity


def turns(count: int) -> list[str]:
    """Validators 1 to 3 in the order in which they are asked."""
    order = sorted(name(i) for i in (1, 2, 3))
    return [order[i % 3] for i in range(count)]


def test_it_asks_one_peer_for_a_bounded_range_and_goes_on_without_waiting_for_a_tick() -> None:
    late = behind(60, 10**9)
    assert asked(late.tick(100)) == [(min(name(1), name(2)), 1, 64 if name(2) < name(1) else 60)]


def test_it_asks_for_nothing_beyond_the_next_checkpoint() -> None:
    late = node(FOUR, 0)
    late.receive(1, status(1, 10**6))
    assert asked(late.tick(100)) == [(name(1), 1, 4)]


def test_a_cluster_brings_back_one_that_was_away_over_checkpoints_and_epochs() -> None:
    four = cluster()
    four.passes = lambda source, target, message: 3 not in (source, target)
    four.order(*[b"%d" % i for i in range(14)])
    assert four.heights() == [14, 14, 14, 0]
    four.passes = lambda source, target, message: True
    four.run(2000)
    assert four.agreed()
    assert four[3].replica.epoch == 1


def test_it_leaves_short_gaps_to_the_messages_under_way() -> None:
    assert asked(behind(5).tick(50)) == []


def test_one_request_is_under_way_at_a_time() -> None:
    late = behind(5, 5)
    assert len(asked(late.tick(100))) == 1
    assert asked(late.tick(500)) == []


def test_a_silent_peer_costs_one_turn_and_patience_grows_when_more_than_f_are() -> None:
    late = behind(5, 5, 5)
    assert asked(late.tick(100)) == [(turns(1)[0], 1, 5)]
    for turn, patience in enumerate([1000, 1000, 2000, 2000, 4000, 4000], 1):
        assert asked(late.tick(patience - 1)) == []
        assert asked(late.tick(1)) == [(turns(7)[turn], 1, 5)]


def test_who_was_silent_is_asked_last_for_a_while() -> None:
    late = behind(64, 64, 64)
    silent, *others = turns(3)
    assert asked(late.tick(100))[0][0] == silent
    late.effects.clear()
    late.tick(1000)
    for height in range(6):
        assert asked(late.effects) == [(others[height % 2], height + 1, 64)]
        late.effects.clear()
        by = next(i for i in (1, 2, 3) if name(i) == others[height % 2])
        late.receive(by, answer(by, CHAIN[height : height + 1]))


def test_an_answer_that_comes_late_is_taken_once_and_ends_that() -> None:
    late = behind(64, 64, 64)
    silent, second, _ = turns(3)
    late.tick(100)
    late.tick(1000)
    by = {name(i): i for i in (1, 2, 3)}
    assert late.refusals(by[silent], answer(by[silent], CHAIN[:10])) == {}
    assert late.replica.height == 10
    assert late.refusals(by[silent], answer(by[silent], CHAIN[:10])) == {"unsolicited_blocks": 1}
    assert late.refusals(by[second], answer(by[second], CHAIN[:20])) == {}, "what is here already is passed over"
    assert late.replica.height == 20


@pytest.mark.parametrize("liar_ms", [50, 500, 950])
@pytest.mark.parametrize("honest_ms", [2_500, 5_000, 10_000])
def test_one_that_sends_nothing_of_use_does_not_keep_us_from_the_slow(honest_ms: int, liar_ms: int) -> None:
    """On a slow line only a liar answers in time: its answers are no reason to lose patience with the others."""
    late = behind(64, 64, 64)
    late.effects.clear()
    coming: list[tuple[int, int, bytes]] = []
    for now in range(0, 60_000, 50):
        late.tick(50)
        for at, by, frame in [each for each in coming if each[0] == now]:
            coming.remove((at, by, frame))
            late.receive(by, frame)
            late.receive(by, status(by, 64))
        for peer, first, last in asked(late.effects):
            by = next(i for i in (1, 2, 3) if name(i) == peer)
            pairs = [] if by == 1 else CHAIN[first - 1 : last]
            coming.append((now + (liar_ms if by == 1 else honest_ms), by, answer(by, pairs)))
        late.effects.clear()
    assert late.replica.height == 64


def test_an_answer_makes_it_as_impatient_as_at_first() -> None:
    late = behind(60)
    late.tick(100)
    late.tick(1000)
    late.receive(1, answer(1, CHAIN[:5]))
    assert late.replica.height == 5
    assert asked(late.tick(999)) == []
    assert asked(late.tick(1)) == [(name(1), 6, 60)]


@pytest.mark.parametrize(
    ("code", "pairs"),
    [
        ("no_blocks", []),
        ("wrong_vote", [(block_at(1, b"mint me a fortune"), CHAIN[0][1])]),
        ("too_few_votes", [(CHAIN[0][0], certify(FOUR, CHAIN[0][0], [0, 1]))]),
        ("malformed", [(b"\xc1", CHAIN[0][1])]),
        ("wrong_height", [CHAIN[1]]),
        ("wrong_height", [*CHAIN[:5], CHAIN[5]]),
    ],
)
def test_a_peer_that_sends_what_does_not_hold_is_left_for_the_next_at_once(
    code: str, pairs: list[tuple[bytes, bytes]]
) -> None:
    late = behind(5, 5)
    (first,) = {peer for peer, _, _ in asked(late.tick(100))}
    by, other = (1, 2) if first == name(1) else (2, 1)
    again = asked(late.receive(by, answer(by, pairs)))
    assert late.replica.rejections == {code: 1}
    if len(pairs) < 5:
        assert again == [(name(other), 1, 5)]
        assert late.replica.height == 0
        assert asked(late.tick(1000)) == [(name(other), 1, 5)], "the liar is asked again only if it claims anew"
    else:
        assert late.replica.height == 5, "what holds of an answer is kept"


def test_an_answer_that_nobody_asked_for_is_refused() -> None:
    late = behind(5, 5)
    (first,) = {peer for peer, _, _ in asked(late.tick(100))}
    by = 2 if first == name(1) else 1
    assert late.refusals(by, answer(by, CHAIN[:5])) == {"unsolicited_blocks": 1}


def test_an_answer_that_agreement_has_overtaken_is_no_offense() -> None:
    late = behind(2)
    late.tick(100)
    late.receive(1, answer(1, CHAIN[:2]))
    late.receive(2, commit(FOUR, 2, FOUR.block_digest(CHAIN[0][0])))
    assert (late.replica.height, dict(late.replica.rejections)) == (2, {})


def test_a_claim_of_any_height_moves_nothing_by_itself() -> None:
    late = behind(2**53 - 1)
    assert asked(late.tick(100)) == [(name(1), 1, 64)]
    assert (late.replica.height, late.replica.load["inbound"]) == (0, 0)


def test_it_serves_what_it_has_in_bounded_answers() -> None:
    late = behind(64)
    late.tick(100)
    late.receive(1, answer(1, CHAIN))
    effects = late.receive(2, seal_message(KEYS[2], FOUR, Fetch(0, 2, 10**9)))
    (blocks,) = said(FOUR, effects, Blocks)
    assert [(c.block, c.certificate) for c in blocks.blocks] == CHAIN[1:]
    assert late.receive(2, seal_message(KEYS[2], FOUR, Fetch(0, 70, 70))) == []


def test_it_says_so_when_it_does_not_hold_a_block_any_more() -> None:
    late = behind(64)
    late.tick(100)
    late.receive(1, answer(1, CHAIN))
    late.disk.blocks = {h: pair for h, pair in late.disk.blocks.items() if h > 32}
    (blocks,) = said(FOUR, late.receive(2, seal_message(KEYS[2], FOUR, Fetch(0, 1, 5))), Blocks)
    assert blocks.blocks == []


def test_a_peer_that_comes_back_is_told_where_we_stand() -> None:
    late = behind(1)
    late.tick(100)
    late.receive(1, answer(1, CHAIN[:1]))
    assert said(FOUR, late.step(Connected(name(3))), Status) == [Status(0, 0, True, 1, 0)]

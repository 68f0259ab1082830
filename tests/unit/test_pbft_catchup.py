"""A replica that is behind gets certified blocks from whoever has them, and is neither fooled nor stalled."""

from dataclasses import replace

from pbft_cluster import (
    FOUR,
    KEYS,
    Node,
    block_on,
    certify,
    chain_of,
    commit,
    node,
    said,
    saved,
)

from tallystick.consensus.pbft.io import Connected, Effect, Send
from tallystick.consensus.pbft.limits import MAX_BLOCKS_PER_ANSWER
from tallystick.consensus.pbft.messages import Blocks, CertifiedBlock, Fetch, Status, seal_message

LONG = MAX_BLOCKS_PER_ANSWER + 6
CHAIN = chain_of(FOUR, LONG)


def behind(*claims: int) -> Node:
    """A new validator 0 that was told heights by validators 1, 2, ..., and has waited long enough to ask."""
    late = node(FOUR, 0)
    for key, height in zip(KEYS[1:], claims, strict=False):
        late.receive(key, seal_message(key, FOUR, Status(0, 0, height)))
    return late


def asked(effects: list[Effect]) -> list[tuple[str, int, int]]:
    """Whom the effects ask for which blocks."""
    sends = [effect for effect in effects if isinstance(effect, Send)]
    fetches = [(send.peer, message) for send in sends for message in said(FOUR, [send], Fetch)]
    return [(peer, fetch.first, fetch.last) for peer, fetch in fetches if isinstance(fetch, Fetch)]


def answer(index: int, pairs: list[tuple[bytes, bytes]]) -> bytes:
    return seal_message(KEYS[index], FOUR, Blocks(0, [CertifiedBlock(*pair) for pair in pairs]))


def name(index: int) -> str:
    return KEYS[index].identity


def test_it_asks_for_a_bounded_range_and_goes_on_without_waiting_for_a_tick() -> None:
    late = behind(LONG)
    assert asked(late.tick(later_ms=100)) == [(name(1), 1, MAX_BLOCKS_PER_ANSWER)]
    effects = late.receive(KEYS[1], answer(1, CHAIN[:MAX_BLOCKS_PER_ANSWER]))
    assert late.replica.height == MAX_BLOCKS_PER_ANSWER
    assert asked(effects) == [(name(1), MAX_BLOCKS_PER_ANSWER + 1, LONG)]
    assert asked(late.receive(KEYS[1], answer(1, CHAIN[MAX_BLOCKS_PER_ANSWER:]))) == []
    assert late.blocks == CHAIN
    assert not late.replica.rejections


def test_it_leaves_short_gaps_to_the_messages_under_way() -> None:
    assert asked(behind(5).tick(later_ms=50)) == []


def test_one_request_is_under_way_at_a_time() -> None:
    late = behind(5, 5)
    assert len(asked(late.tick(later_ms=100))) == 1
    assert asked(late.tick(later_ms=500)) == []


def test_a_silent_peer_costs_one_turn() -> None:
    late = behind(5, 5)
    assert asked(late.tick(later_ms=100)) == [(name(1), 1, 5)]
    assert asked(late.tick(later_ms=1000)) == [(name(2), 1, 5)]
    assert asked(late.tick(later_ms=1000)) == [(name(1), 1, 5)]


def test_a_peer_that_sends_what_does_not_hold_is_left_for_the_next_at_once() -> None:
    good, certificate = CHAIN[0]
    forged = block_on(FOUR, transactions=[b"mint me a fortune"])
    garbage = {
        "no_blocks": [],
        "wrong_commit": [(forged, certificate)],
        "too_few_commits": [(good, certify(FOUR, good, KEYS[:2]))],
        "malformed": [(b"\xc1", certificate)],
        "wrong_height": [CHAIN[1]],
    }
    for code, pairs in garbage.items():
        late = behind(5, 5)
        late.tick(later_ms=100)
        assert asked(late.receive(KEYS[1], answer(1, pairs))) == [(name(2), 1, 5)]
        assert late.replica.rejections == {code: 1}
        assert late.replica.height == 0
        assert asked(late.tick(later_ms=1000)) == [(name(2), 1, 5)], "the liar is asked again before it claims anew"


def test_what_holds_of_an_answer_is_kept() -> None:
    late = behind(5, 5)
    late.tick(later_ms=100)
    late.receive(KEYS[1], answer(1, [*CHAIN[:2], CHAIN[3]]))
    assert late.replica.height == 2
    assert late.replica.rejections == {"wrong_height": 1}


def test_an_answer_that_agreement_has_overtaken_is_no_offense() -> None:
    late = behind(2)
    late.tick(later_ms=100)
    first = FOUR.block_digest(CHAIN[0][0])
    late.receive(KEYS[1], answer(1, CHAIN[:2]))
    late.receive(KEYS[2], commit(FOUR, KEYS[2], first))
    assert (late.replica.height, dict(late.replica.rejections)) == (2, {})


def test_a_claim_of_any_height_moves_nothing_by_itself() -> None:
    late = behind(2**53 - 1)
    assert asked(late.tick(later_ms=100)) == [(name(1), 1, MAX_BLOCKS_PER_ANSWER)]
    assert late.replica.height == 0


def test_it_serves_what_it_has_in_bounded_answers() -> None:
    late = behind(LONG)
    late.tick(later_ms=100)
    late.receive(KEYS[1], answer(1, CHAIN[:MAX_BLOCKS_PER_ANSWER]))
    effects = late.receive(KEYS[2], seal_message(KEYS[2], FOUR, Fetch(0, 2, 10**9)))
    (blocks,) = said(FOUR, effects, Blocks)
    assert isinstance(blocks, Blocks)
    assert [(c.block, c.certificate) for c in blocks.blocks] == CHAIN[1:MAX_BLOCKS_PER_ANSWER]
    assert late.receive(KEYS[2], seal_message(KEYS[2], FOUR, Fetch(0, LONG + 1, LONG + 2))) == []


def test_it_tells_a_peer_that_comes_back_where_it_stands() -> None:
    late = behind(1)
    late.tick(later_ms=100)
    late.receive(KEYS[1], answer(1, CHAIN[:1]))
    assert said(FOUR, late.step(Connected(name(3))), Status) == [Status(0, 0, 1)]


def test_after_a_restart_it_goes_on_from_its_last_block() -> None:
    late = behind(LONG)
    late.tick(later_ms=100)
    late.receive(KEYS[1], answer(1, CHAIN[:3]))
    reborn = node(FOUR, 0, replace(saved(late.effects), deadline_ms=None))
    reborn.receive(KEYS[1], seal_message(KEYS[1], FOUR, Status(0, 0, 5)))
    assert asked(reborn.tick(later_ms=100)) == [(name(1), 4, 5)]

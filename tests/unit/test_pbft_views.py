"""Replacing a primary: when a view is left, what the next one must take over, and that it stays live."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pbft_cluster import (
    FOUR,
    KEYS,
    Node,
    block_at,
    certify,
    cluster,
    commit,
    committed_claim,
    content_of,
    group_of,
    new_view,
    node,
    prepare,
    prepared_claim,
    proposal,
    records,
    said,
    stable_proof,
    view_change,
)

from tallystick.canon.encoding import to_bytes
from tallystick.canon.quorum import quorum
from tallystick.canon.votes import MAX_VOTE_BYTES, Commit, Prepare, PrePrepare, seal_vote
from tallystick.consensus.pbft import Parameters
from tallystick.consensus.pbft.io import Broadcast, Examine, Head, Persist, Submitted, ViewRecord
from tallystick.consensus.pbft.limits import (
    BEHIND_MS,
    MAX_BLOCK_BYTES,
    MAX_CHECKPOINT_BYTES,
    MAX_DOUBLINGS,
    MAX_INTERVAL,
    MAX_VALIDATORS,
    MAX_VIEW_CHANGE_BYTES,
)
from tallystick.consensus.pbft.messages import (
    Block,
    Blocks,
    Body,
    CertifiedBlock,
    Claim,
    FetchBody,
    Forward,
    NewView,
    Proposal,
    Status,
    ViewChange,
    decode_block,
    encode_block,
    null_block,
    open_message,
    open_view_change,
    seal_message,
)
from tallystick.consensus.pbft.state import State
from tallystick.consensus.pbft.views import check_view_change, choose

A, B = block_at(1, b"A"), block_at(1, b"B")
DIGEST_A, DIGEST_B = FOUR.block_digest(A), FOUR.block_digest(B)
D = DIGEST_A
NULL = FOUR.block_digest(null_block(1))


def opened(*frames: bytes) -> list[ViewChange]:
    return [open_view_change(FOUR, frame)[1] for frame in frames]


# ---- a cluster without its primary


def test_a_dead_primary_is_replaced_and_what_waited_is_ordered() -> None:
    four = cluster()
    four.crash(0)
    four.submit(2, b"one")
    four.run(1500)
    assert [(four[i].replica.height, four[i].replica.view) for i in (1, 2, 3)] == [(1, 1)] * 3
    assert four[1].replica.primary == KEYS[1].identity


def test_a_view_change_as_it_reads_on_the_wire() -> None:
    four = cluster()
    four.crash(0)
    four.watched = frozenset({ViewChange, NewView, Proposal})
    four.submit(2, b"one")
    four.run(1500)
    assert four.transcript == [
        "1 > 2 ViewChange e0 v1",
        "1 > 3 ViewChange e0 v1",
        "2 > 1 ViewChange e0 v1",
        "2 > 3 ViewChange e0 v1",
        "3 > 1 ViewChange e0 v1",
        "3 > 2 ViewChange e0 v1",
        "1 > 2 NewView e0 v1",
        "1 > 3 NewView e0 v1",
        "1 > 2 Proposal e0",
        "1 > 3 Proposal e0",
    ]


def test_two_dead_primaries_in_a_row_cost_two_timeouts_the_second_twice_as_long() -> None:
    seven = cluster(7)
    seven.crash(0)
    seven.crash(1)
    seven.submit(2, b"one")
    seven.run(1100)
    assert {seven[i].replica.view for i in range(2, 7)} == {1}
    seven.run(1950)
    assert {seven[i].replica.view for i in range(2, 7)} == {1}
    seven.run(50)
    assert {seven[i].replica.view for i in range(2, 7)} == {2}
    assert {seven[i].replica.height for i in range(2, 7)} == {1}


def test_a_block_that_one_replica_delivered_survives_the_primary() -> None:
    """Node 1 alone has the commits; the others have prepared at most."""
    four = cluster()
    four.passes = lambda source, target, message: not isinstance(message, Commit) or target == 1
    four.submit(0, b"one")
    four.run()
    assert four.heights() == [0, 1, 0, 0]
    delivered = four[1].disk.blocks[1][0]
    four.crash(0)
    four.passes = lambda source, target, message: target != 1 and source != 1
    four.submit(2, b"two")
    four.run(1500)
    four.passes = lambda source, target, message: True
    four.run(4000)
    assert {four[i].disk.blocks[1][0] for i in (1, 2, 3)} == {delivered}


def test_heights_in_flight_are_taken_over_and_a_hole_between_them_is_filled_with_nothing() -> None:
    """Heights 1 and 3 are prepared, 2 is not: it becomes the null block, in its one encoding."""
    four = cluster(parameters=Parameters(8, 64, 4))
    lost = {2}
    four.passes = lambda source, target, message: (
        not isinstance(message, Commit)
        and not (isinstance(message, Proposal) and decode_block(message.block).height in lost)
    )
    four.submit(0, *[b"%d" % i + bytes(60_000) for i in range(60)])
    four.run(200)
    four.crash(0)
    four.passes = lambda source, target, message: True
    four.run(3000)
    blocks = [decode_block(four[1].disk.blocks[h][0]) for h in (1, 2, 3)]
    assert [bool(block.transactions) for block in blocks] == [True, False, True]
    assert four[1].disk.blocks[2][0] == null_block(2) == encode_block(Block(2, 0, "", []))
    ordered = four[1].app.executed
    assert len(ordered) == len(set(ordered)) == 60
    assert len({tuple(four[i].disk.blocks[h][0] for h in (1, 2, 3)) for i in (1, 2, 3)}) == 1


def test_nobody_leaves_a_primary_that_has_nothing_to_do() -> None:
    four = cluster()
    four.crash(0)
    four.run(10_000)
    assert [four[i].replica.view for i in (1, 2, 3)] == [0, 0, 0]


def test_a_primary_that_lets_one_transaction_wait_while_it_orders_others_is_left() -> None:
    four = cluster(parameters=Parameters(4, 64, 3))
    four.submit(1, b"unloved")
    four.passes = lambda source, target, message: target != 0 or not isinstance(message, Forward)
    four.run()
    for i in range(30):
        four.submit(0, b"%d" % i)
        four.run(50)
        if four[1].replica.view:
            break
    assert four[1].replica.view == 1
    assert four[1].replica.height > 10


def test_before_it_leaves_it_asks_whether_the_transaction_is_still_good() -> None:
    backup = node(FOUR, 1)
    backup.step(Submitted(b"void by now"))
    backup.tick()
    backup.tick(600)
    assert [e for e in backup.effects if isinstance(e, Examine)] == [Examine((b"void by now",), again=True)]
    backup.tick(5000)
    assert (backup.replica.view, backup.replica.waiting) == (0, 0)


def test_a_primary_does_not_give_itself_up_and_follows_those_who_do() -> None:
    """As in seed 15100780, where it had been cut off, and left its view just before it had caught up."""
    primary = node(FOUR, 0)
    primary.step(Submitted(b"one"))
    for _ in range(100):
        primary.tick(100)
    assert (primary.replica.view, primary.replica.active, primary.replica.waiting) == (0, True, 1)
    for by in (1, 2):
        primary.receive(by, view_change(FOUR, by, 1))
    assert (primary.replica.view, primary.replica.active) == (1, False)


def test_a_transaction_handed_in_before_a_late_tick_costs_no_view() -> None:
    """It is dated by the tick before: patience does not begin that early, or it would be over at once."""
    backup = node(FOUR, 1)
    backup.tick(10)
    backup.step(Submitted(b"one"))
    for ms, view in ((5000, 0), (500, 0), (499, 0), (1, 1)):
        backup.tick(ms)
        assert backup.replica.view == view


def test_who_stood_still_past_the_timeout_asks_first_too() -> None:
    backup = node(FOUR, 1)
    backup.step(Submitted(b"void by now"))
    backup.tick()
    backup.tick(5000)
    assert (backup.replica.view, backup.replica.waiting) == (0, 0)
    backup.step(Submitted(b"still good"))
    backup.tick()
    for ms, view in ((5000, 0), (499, 0), (1, 1)):
        backup.tick(ms)
        assert backup.replica.view == view


# ---- the four rules of liveness


def waiting(by: int = 1, n: int = 4) -> Node:
    """A replica that has left view 0 by itself."""
    lone = node(group_of(n), by)
    lone.step(Submitted(b"one"))
    lone.tick()
    lone.tick(600)
    lone.tick(500)
    assert (lone.replica.view, lone.replica.active) == (1, False)
    return lone


def test_rule_1_without_a_quorum_of_view_changes_it_waits_in_its_view_for_ever() -> None:
    lone = waiting(by=2)
    lone.receive(3, view_change(FOUR, 3, 1))
    for _ in range(5):
        lone.tick(1_000_000)
    assert lone.replica.view == 1


def test_rule_1_with_a_quorum_it_waits_twice_as_long_each_time() -> None:
    group, lone = group_of(13), waiting(by=12, n=13)
    for view in range(1, 10):
        for by in range(8):
            lone.receive(by, view_change(group, by, view))
        lone.tick()
        patience = 1000 << min(view, MAX_DOUBLINGS)
        lone.tick(patience // 2)
        lone.tick(patience // 2 - 1)
        assert lone.replica.view == view
        lone.tick(1)
        assert lone.replica.view == view + 1


def test_rule_1_a_block_makes_it_patient_as_at_first() -> None:
    four = cluster()
    four.crash(0)
    four.order(b"one", ms=1500)
    four.nodes[0].elapsed_ms = four[1].elapsed_ms
    four.down.clear()
    four.run(1000)
    four.crash(1)
    four.submit(2, b"two")
    four.run(1100)
    assert four[2].replica.view == 2


def test_rule_2_with_one_view_change_more_than_faults_it_joins_the_smallest_view_at_once() -> None:
    seven = node(group_of(7), 1)
    for i, view in ((4, 2**53 - 1), (5, 9)):
        seven.receive(i, view_change(group_of(7), i, view))
        assert seven.replica.view == 0, "f replicas move nobody"
    seven.receive(6, view_change(group_of(7), 6, 7))
    assert (seven.replica.view, seven.replica.active) == (7, False)
    assert [vc.view for vc in said(group_of(7), seven.effects, ViewChange)] == [7]


def test_rule_3_the_view_change_is_said_again_until_the_view_is_open() -> None:
    lone = waiting()
    assert len(said(FOUR, [e for _ in range(200) for e in lone.tick(50)], ViewChange)) >= 5


def test_rule_3_replicas_that_all_lost_their_view_changes_meet_again() -> None:
    """Three left, and each heard nothing of the others (fabric 1917)."""
    four = cluster()
    four.crash(0)
    four.passes = lambda source, target, message: not isinstance(message, ViewChange)
    four.submit(2, b"one")
    four.run(1500)
    assert {four[i].replica.active for i in (1, 2, 3)} == {False}
    four.passes = lambda source, target, message: True
    four.run(3000)
    assert {four[i].replica.height for i in (1, 2, 3)} == {1}


def test_rule_3_who_missed_the_new_view_gets_it_from_anybody() -> None:
    four = cluster()
    four.crash(0)
    four.passes = lambda source, target, message: not (source == 1 and target == 3)
    four.submit(2, b"one")
    four.run(1150)
    assert (four[3].replica.view, four[3].replica.active) == (1, False)
    four.run(600)
    assert (four[3].replica.view, four[3].replica.active) == (1, True)


def test_rule_4_f_replicas_move_nobody_whatever_they_say() -> None:
    backup = node(FOUR, 1)
    for view in (1, 2, 10, 2**53 - 1):
        backup.receive(3, view_change(FOUR, 3, view))
        backup.tick(100)
    assert (backup.replica.view, backup.replica.active) == (0, True)
    assert backup.replica.load["view_changes"] == 1


def test_while_it_waits_it_takes_part_in_nothing_but_still_delivers_what_is_certified() -> None:
    lone = waiting()
    lone.effects.clear()
    assert lone.refusals(0, proposal(FOUR, 0, A)) == {"old_view": 1}
    assert lone.refusals(2, commit(FOUR, 2, DIGEST_A)) == {"old_view": 1}
    assert lone.refusals(2, commit(FOUR, 2, DIGEST_A, view=1)) == {}, "held for the view that it waits for"
    assert not said(FOUR, lone.effects, Prepare)


# ---- what a new view takes over


def test_nothing_claimed_nothing_taken_over() -> None:
    assert choose(FOUR, opened(*[view_change(FOUR, i, 1) for i in (0, 1, 2)])).digests == ()


def test_a_prepared_and_a_committed_block_are_taken_over() -> None:
    for claim in (prepared_claim(FOUR, DIGEST_A, [0, 1, 2]), committed_claim(FOUR, DIGEST_A, [1, 2, 3])):
        frames = [view_change(FOUR, 0, 1, claim), view_change(FOUR, 1, 1), view_change(FOUR, 2, 1)]
        assert choose(FOUR, opened(*frames)).digests == (DIGEST_A,)


def test_of_two_claims_for_a_height_the_later_view_counts() -> None:
    old, new = prepared_claim(FOUR, DIGEST_A, [0, 1, 2]), prepared_claim(FOUR, DIGEST_B, [2, 3, 0], view=2)
    for first, second in ((old, new), (new, old)):
        frames = [view_change(FOUR, 0, 3, first), view_change(FOUR, 1, 3, second), view_change(FOUR, 2, 3)]
        assert choose(FOUR, opened(*frames)).digests == (DIGEST_B,)


def test_a_bad_claim_counts_for_nothing_and_hides_no_good_one() -> None:
    """concord-bft 50: one invalid certificate of a faulty replica hid valid ones of others."""
    good = prepared_claim(FOUR, DIGEST_A, [0, 1, 2])
    later = block_at(2, b"later")
    bad = [
        prepared_claim(FOUR, DIGEST_B, [1, 2], view=1),
        Claim(1, 5, DIGEST_B, good.votes),
        Claim(1, 1, DIGEST_B, [prepare(FOUR, i, DIGEST_B, view=1) for i in (0, 2, 3)]),
        prepared_claim(FOUR, DIGEST_B, [1, 2, 2], view=1),
        Claim(1, 9, DIGEST_B, []),
    ]
    second = prepared_claim(FOUR, FOUR.block_digest(later), [0, 1, 2], height=2)
    for claim in bad:
        frames = [view_change(FOUR, 3, 2, claim, second), view_change(FOUR, 1, 2, good), view_change(FOUR, 2, 2)]
        assert choose(FOUR, opened(*frames)).digests == (DIGEST_A, FOUR.block_digest(later))


def test_the_base_is_the_highest_checkpoint_that_is_proven() -> None:
    checkpoint = stable_proof(FOUR, content_of(FOUR, 4), [0, 1, 2])
    claim = prepared_claim(FOUR, FOUR.block_digest(block_at(5)), [0, 1, 2], height=5)
    settled = prepared_claim(FOUR, DIGEST_A, [0, 1, 2])
    frames = [
        view_change(FOUR, 0, 1, settled),
        view_change(FOUR, 1, 1, claim, base=4, checkpoint=checkpoint),
        view_change(FOUR, 2, 1),
    ]
    opening = choose(FOUR, opened(*frames))
    assert (opening.base, opening.blocks) == (4, [(5, claim.digest)])


def test_who_fetched_blocks_beyond_its_watermarks_leaves_with_a_view_change_that_counts() -> None:
    """No proof of a checkpoint has come yet; claims above two intervals would make it void."""
    group = group_of(4, parameters=Parameters(4, 64, 3))
    late = node(group, 3)
    late.receive(1, seal_message(KEYS[1], group, Status(0, 0, True, 12, 0)))
    late.tick(100)
    for first in (1, 5, 9):
        blocks = [block_at(h, b"%d" % h) for h in range(first, first + 4)]
        pairs = [CertifiedBlock(b, certify(group, b, [0, 1, 2], height=h)) for h, b in enumerate(blocks, first)]
        late.receive(1, seal_message(KEYS[1], group, Blocks(0, pairs)))
    assert (late.replica.height, late.replica.low, late.replica.high) == (12, 0, 8)
    for i in (0, 1):
        late.receive(i, view_change(group, i, 1))
    (left,) = said(group, late.effects, ViewChange)
    check_view_change(group, left)
    assert [claim.height for claim in left.claims] == list(range(1, 9))


def test_a_replica_behind_the_base_of_its_view_accepts_nothing_below_it() -> None:
    checkpoint = stable_proof(FOUR, content_of(FOUR, 4), [0, 1, 2])
    changes = [view_change(FOUR, i, 1, base=4, checkpoint=checkpoint) for i in (0, 1, 2)]
    behind = node(FOUR, 3)
    behind.receive(1, new_view(FOUR, 1, 1, changes))
    assert (behind.replica.view, behind.replica.active) == (1, True)
    behind.receive(1, proposal(FOUR, 1, block_at(1, by=1), view=1))
    assert not said(FOUR, behind.effects, Prepare)


def test_a_new_view_that_reaches_above_our_watermarks_is_entered_all_the_same() -> None:
    """We are at height 0 without a checkpoint; the others are beyond 4 and prepared up to 9."""
    checkpoint = stable_proof(FOUR, content_of(FOUR, 4), [0, 1, 2])
    digests = {h: FOUR.block_digest(block_at(h)) for h in range(5, 13)}
    claims = [prepared_claim(FOUR, digests[h], [0, 1, 2], height=h) for h in digests]
    changes = [view_change(FOUR, i, 1, *claims, base=4, checkpoint=checkpoint) for i in (0, 1, 2)]
    sealed = [seal_message(KEYS[1], FOUR, PrePrepare(0, 1, h, d)) for h, d in digests.items()]
    frame = seal_message(KEYS[1], FOUR, NewView(0, 1, changes, sealed))
    behind = node(FOUR, 3)
    assert behind.refusals(1, frame) == {}
    assert (behind.replica.view, behind.replica.active, behind.replica.high) == (1, True, 8)


def test_what_the_new_view_takes_over_is_accepted_unexamined_however_old_it_is() -> None:
    """plenum 1488: a re-proposed batch failed the freshness check again and again."""
    early = block_at(1, b"A", time_ms=1)
    digest = FOUR.block_digest(early)
    backup = node(FOUR, 2)
    claim = prepared_claim(FOUR, digest, [0, 1, 3])
    changes = [view_change(FOUR, 0, 1, claim), view_change(FOUR, 1, 1), view_change(FOUR, 3, 1)]
    backup.receive(1, new_view(FOUR, 1, 1, changes, [digest]))
    assert said(FOUR, [e for _ in range(6) for e in backup.tick(50)], FetchBody) == [FetchBody(0, 1, digest)]
    backup.receive(1, proposal(FOUR, 1, early, view=1))
    assert [vote.digest for vote in said(FOUR, backup.effects, Prepare)] == [digest]


def test_another_block_in_the_place_of_the_required_one_is_refused() -> None:
    backup = node(FOUR, 2)
    claim = prepared_claim(FOUR, DIGEST_A, [0, 1, 3])
    changes = [view_change(FOUR, 0, 1, claim), view_change(FOUR, 1, 1), view_change(FOUR, 3, 1)]
    backup.receive(1, new_view(FOUR, 1, 1, changes, [DIGEST_A]))
    assert backup.refusals(1, proposal(FOUR, 1, B, view=1)) == {"conflicting_vote": 1}


def test_a_block_that_we_prepared_is_there_when_a_claim_for_it_comes_late() -> None:
    """The primary of view 0 hides in view 1 that A was prepared, and shows it in view 2, when it could be the only one
    that still has the block."""
    backup = node(FOUR, 2)
    backup.receive(0, proposal(FOUR, 0, A))
    backup.receive(1, new_view(FOUR, 1, 1, [view_change(FOUR, i, 1) for i in (1, 2, 3)]))
    assert (backup.replica.view, backup.replica.active) == (1, True)
    backup.effects.clear()
    backup.receive(3, view_change(FOUR, 3, 2))
    backup.receive(0, view_change(FOUR, 0, 2, prepared_claim(FOUR, DIGEST_A, [0, 1, 2])))
    assert (backup.replica.view, backup.replica.active) == (2, True), "we are its primary and opened it"
    assert [p.block for p in said(FOUR, backup.effects, Proposal)] == [A]


def test_blocks_of_past_views_are_bounded_in_bytes() -> None:
    state = State(FOUR, FOUR, KEYS[0], Head(0, FOUR.genesis, 0), 0, 1000, FOUR)
    room = (FOUR.faults + 1) * FOUR.parameters.window
    for i in range(100):
        state.keep_body(bytes([i]) * 32, 1 + i % 4, bytes(MAX_BLOCK_BYTES))
        state.keep_body(bytes([40]) * 32, 1, bytes(MAX_BLOCK_BYTES))
    assert len(state.bodies) == room
    assert {bytes([99]) * 32, bytes([40]) * 32} < set(state.bodies), "the oldest go first"


def test_f_primaries_in_a_row_cannot_make_a_block_that_may_be_prepared_forgotten() -> None:
    """They would hide its certificate until nobody has the block, and then show it to each primary after them."""
    state = State(FOUR, FOUR, KEYS[0], Head(0, FOUR.genesis, 0), 0, 1000, FOUR)
    state.keep_body(DIGEST_A, 1, bytes(MAX_BLOCK_BYTES))
    for i in range(FOUR.faults * FOUR.parameters.window):
        state.keep_body(bytes([i]) * 32, 1 + i, bytes(MAX_BLOCK_BYTES))
    assert DIGEST_A in state.bodies


def test_a_backup_stands_behind_no_more_blocks_than_a_primary_may_work_on() -> None:
    """Else a faulty primary could fill the room for the blocks of those before it."""
    backup, window = node(group_of(4, parameters=Parameters(8, 24, 3)), 1), 3
    group = backup.genesis
    backup.tick(1)
    blocks = {height: block_at(height, b"%d" % height) for height in range(1, 9)}
    for height, block in blocks.items():
        backup.receive(0, proposal(group, 0, block, height=height))
    assert [vote.height for vote in said(group, backup.effects, Prepare)] == list(range(1, window + 1))
    for by in (0, 2, 3):
        backup.receive(by, commit(group, by, group.block_digest(blocks[1]), height=1))
    assert said(group, backup.effects, Prepare)[-1].height == window + 1, "it follows when the chain does"


# ---- a new view is computed again by everybody


def test_a_new_view_must_follow_from_its_view_changes() -> None:
    """FISCO-BCOS FIB-124: the primary's list was taken without that check."""
    claim = prepared_claim(FOUR, DIGEST_A, [0, 2, 3])
    changes = [view_change(FOUR, 0, 1, claim), view_change(FOUR, 2, 1), view_change(FOUR, 3, 1)]
    for wrong in ([], [DIGEST_B], [NULL], [DIGEST_A, DIGEST_A]):
        assert node(FOUR, 2).refusals(1, new_view(FOUR, 1, 1, changes, wrong)) == {"wrong_new_view": 1}
    assert node(FOUR, 2).refusals(1, new_view(FOUR, 1, 1, changes, [DIGEST_A])) == {}


VALID = [view_change(FOUR, i, 1) for i in (0, 2, 3)]
OTHER_CHAIN = group_of(4, chain="another")


@pytest.mark.parametrize(
    ("code", "by", "view", "changes"),
    [
        ("not_primary", 2, 1, VALID),
        ("too_few_votes", 1, 1, VALID[:2]),
        ("duplicate_signer", 1, 1, [*VALID[:2], VALID[0]]),
        ("wrong_view", 1, 1, [*VALID[:2], view_change(FOUR, 3, 2)]),
        ("not_a_view_change", 1, 1, [*VALID[:2], prepare(FOUR, 3, DIGEST_A)]),
        ("not_a_validator", 1, 1, [*VALID[:2], view_change(FOUR, 5, 1)]),
        ("wrong_epoch", 1, 1, [*VALID[:2], view_change(group_of(4, epoch=1), 3, 1)]),
        ("bad_signature", 1, 1, [*VALID[:2], view_change(OTHER_CHAIN, 3, 1)]),
        ("bad_base", 1, 1, [*VALID[:2], view_change(FOUR, 3, 1, base=4)]),
        ("too_few_votes", 1, 1, [*VALID[:2], view_change(FOUR, 3, 1, base=4, checkpoint=b"\x92\xc4\x00\x90")]),
    ],
)
def test_a_new_view_that_does_not_hold_opens_nothing(code: str, by: int, view: int, changes: list[bytes]) -> None:
    backup = node(FOUR, 3)
    counted = backup.refusals(by, new_view(FOUR, by, view, changes))
    assert counted == {code: 1} or (code == "too_few_votes" and counted == {"malformed": 1})
    assert (backup.replica.view, backup.replica.active) == (0, True)


@pytest.mark.parametrize(
    ("code", "frame"),
    [
        ("bad_base", view_change(FOUR, 2, 1, base=4)),
        ("bad_base", view_change(FOUR, 2, 1, checkpoint=stable_proof(FOUR, content_of(FOUR, 4), [0, 1, 2]))),
        ("bad_base", view_change(FOUR, 2, 1, base=8, checkpoint=stable_proof(FOUR, content_of(FOUR, 4), [0, 1, 2]))),
        ("too_few_votes", view_change(FOUR, 2, 1, base=4, checkpoint=stable_proof(FOUR, content_of(FOUR, 4), [0, 1]))),
        ("bad_claims", view_change(FOUR, 2, 1, *[Claim(h, 0, DIGEST_A, []) for h in (2, 1)])),
        ("bad_claims", view_change(FOUR, 2, 1, *[Claim(1, 0, DIGEST_A, [])] * 2)),
        ("bad_claims", view_change(FOUR, 2, 1, Claim(0, 0, DIGEST_A, []))),
        ("bad_claims", view_change(FOUR, 2, 1, Claim(9, 0, DIGEST_A, []))),
        ("not_a_validator", view_change(FOUR, 5, 1)),
    ],
)
def test_a_view_change_that_does_not_hold_is_not_counted(code: str, frame: bytes) -> None:
    backup = node(FOUR, 3)
    by = 5 if code == "not_a_validator" else 2
    assert backup.refusals(by, frame) == {code: 1}
    assert backup.replica.load["view_changes"] == 0


def test_a_new_view_for_a_view_that_is_open_or_past_is_no_news() -> None:
    backup = node(FOUR, 3)
    backup.receive(1, new_view(FOUR, 1, 1, VALID))
    backup.effects.clear()
    assert backup.receive(1, new_view(FOUR, 1, 1, VALID[::-1])) == []
    backup.receive(2, new_view(FOUR, 2, 2, [view_change(FOUR, i, 2) for i in (0, 1, 2)]))
    assert backup.receive(1, new_view(FOUR, 1, 1, VALID)) == []
    assert backup.replica.view == 2


def test_a_new_view_that_contradicts_a_delivered_block_is_a_fork_and_stops_us() -> None:
    """Possible only with more than f liars: better no validator than a wrong one."""
    backup = node(FOUR, 3)
    backup.receive(0, proposal(FOUR, 0, A))
    for i in (0, 1, 2):
        backup.receive(i, commit(FOUR, i, DIGEST_A))
    assert backup.replica.height == 1
    claim = prepared_claim(FOUR, DIGEST_B, [0, 1, 2])
    changes = [view_change(FOUR, 0, 1, claim), *VALID[1:]]
    backup.receive(1, new_view(FOUR, 1, 1, changes, [DIGEST_B]))
    assert backup.halted()


@pytest.mark.parametrize("decided", [1, 2])
def test_a_view_that_opens_late_does_not_contradict_what_a_later_one_decided(decided: int) -> None:
    """Seeds 1506951 and 1519606: who was cut off for long may open a view that the others have left. Nor is it a fork
    if it is the very view: a liar that is its primary can open it twice."""
    late = node(FOUR, 3)
    late.receive(2, seal_message(KEYS[2], FOUR, Status(0, decided, True, 1, 0)))
    late.tick(BEHIND_MS)
    certified = CertifiedBlock(A, certify(FOUR, A, [0, 1, 2], view=decided))
    late.receive(2, seal_message(KEYS[2], FOUR, Blocks(0, [certified])))
    assert late.replica.height == 1
    claim = prepared_claim(FOUR, DIGEST_B, [0, 1, 2])
    late.receive(1, new_view(FOUR, 1, 1, [view_change(FOUR, 0, 1, claim), *VALID[1:]], [DIGEST_B]))
    assert not late.halted() and (late.replica.view, late.replica.active) == (1, True)


def test_the_view_change_is_on_disk_before_it_is_sent_and_so_is_the_new_view() -> None:
    four = cluster()
    four.crash(0)
    four.submit(2, b"one")
    four.run(1500)
    for i in (1, 2, 3):
        left, entered = records(four[i].effects, ViewRecord)
        assert (left.view, bool(left.view_change), left.new_view) == (1, True, b"")
        assert (entered.view, entered.view_change, bool(entered.new_view)) == (1, left.view_change, True)
        effects = [e for e in four[i].effects if isinstance(e, Persist | Broadcast)]
        kinds = [e.record if isinstance(e, Persist) else open_message(FOUR, e.frame)[1] for e in effects]
        assert kinds[kinds.index(left) + 1].__class__ is ViewChange
        assert i != 1 or kinds[kinds.index(entered) + 1].__class__ is NewView


# ---- properties of the choice

heights = st.integers(1, 8)
quorums = st.sampled_from([[0, 1, 2], [0, 2, 3], [0, 1, 3]])
DIGESTS = {(h, x): FOUR.block_digest(block_at(h, x)) for h in range(1, 9) for x in (b"A", b"B")}
CLAIMS = {
    (h, v, x): prepared_claim(FOUR, DIGESTS[h, x], [v % 4, (v + 1) % 4, (v + 2) % 4], view=v, height=h)
    for h in range(1, 9)
    for v in range(3)
    for x in (b"A", b"B")
}
held = st.dictionaries(heights, st.tuples(st.integers(0, 2), st.sampled_from([b"A", b"B"])), max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(held, min_size=3, max_size=3), st.permutations([0, 1, 2]))
def test_the_choice_is_gapless_keeps_the_latest_and_does_not_depend_on_the_order(
    sets: list[dict[int, tuple[int, bytes]]], order: list[int]
) -> None:
    messages = [ViewChange(0, 3, 0, b"", [CLAIMS[h, v, x] for h, (v, x) in sorted(claims.items())]) for claims in sets]
    opening = choose(FOUR, messages)
    assert opening == choose(FOUR, [messages[i] for i in order])
    assert [h for h, _ in opening.blocks] == list(range(1, max([0, *(h for s in sets for h in s)]) + 1))
    for height, digest in opening.blocks:
        claimed = [s[height] for s in sets if height in s]
        latest = {DIGESTS[height, x] for v, x in claimed if v == max(v for v, _ in claimed)}
        assert digest in latest if claimed else digest == FOUR.block_digest(null_block(height))


@settings(max_examples=60, deadline=None)
@given(heights, st.permutations(range(4)), st.permutations(range(4)), st.data())
def test_what_a_quorum_committed_is_chosen_by_every_quorum_whatever_one_liar_claims(
    height: int, committers: list[int], leavers: list[int], data: st.DataObject
) -> None:
    """Three validators committed A in view 1; any three others' view changes, one of them a liar's, lead to A."""
    honest = committers[:3]
    liar = data.draw(st.sampled_from(leavers[:3]))
    true = CLAIMS[height, 1, b"A"]
    lies = data.draw(st.sampled_from([[], [CLAIMS[height, 0, b"B"]], [replace_view(CLAIMS[height, 0, b"B"], 2)]]))
    messages = []
    for i in leavers[:3]:
        claims = lies if i == liar else ([true] if i in honest else [])
        messages.append(ViewChange(0, 3, 0, b"", claims))
    if any(i in honest and i != liar for i in leavers[:3]):
        assert dict(choose(FOUR, messages).blocks)[height] == true.digest


def replace_view(claim: Claim, view: int) -> Claim:
    return Claim(claim.height, view, claim.digest, claim.votes)


def test_the_largest_honest_view_change_fits_its_bound() -> None:
    """Also with votes that their signers made as long as a decoder takes them: 15 bytes more than ours."""
    far = 2**53 - 1
    vote = seal_vote(KEYS[0], "a chain with quite a long name", PrePrepare(far, far, far, b"d" * 32)) + bytes(15)
    claim = Claim(far, far, b"d" * 32, [vote] * quorum(MAX_VALIDATORS))
    assert 2 * MAX_INTERVAL * len(to_bytes(claim)) + MAX_CHECKPOINT_BYTES < MAX_VIEW_CHANGE_BYTES


def test_a_view_change_that_no_new_view_could_hold_stops_nobody() -> None:
    """Claims are judged one by one, so junk in them is no offense; but what is larger than a new view may hold would
    keep every view from opening that is opened with it."""
    wide = Parameters(interval=32, epoch_length=256, window=8)
    four = cluster(4, parameters=wide)
    four.crash(0)
    junk = [bytes(MAX_VOTE_BYTES)] * MAX_VALIDATORS
    claims = [Claim(height, 0, D, junk) for height in range(1, four.genesis.span + 1)]
    padded = view_change(four.genesis, 0, 1, *claims)
    assert len(padded) > MAX_VIEW_CHANGE_BYTES
    for i in (1, 2, 3):
        assert four[i].refusals(0, padded) == {"too_large": 1}
    four.submit(2, b"one")
    four.run(1500)
    assert four.heights()[1:] == [1, 1, 1]
    assert four.restart(1).replica.view == 1


def test_a_claim_shows_no_more_votes_than_it_takes() -> None:
    """Who fetched a block has its certificate as it came, which may hold the votes of all."""
    late = node(FOUR, 1)
    block = block_at()
    late.receive(0, seal_message(KEYS[0], FOUR, Status(0, 0, True, 1, 0)))
    late.tick(500)
    late.receive(0, seal_message(KEYS[0], FOUR, Blocks(0, [CertifiedBlock(block, certify(FOUR, block, range(4)))])))
    assert late.replica.height == 1
    for i in (2, 3):
        late.receive(i, view_change(FOUR, i, 1))
    (change,) = said(FOUR, late.effects, ViewChange)
    assert [len(claim.votes) for claim in change.claims] == [FOUR.quorum]


def test_a_prepared_block_is_found_on_disk_when_memory_has_let_it_go() -> None:
    """A liar's certificate of a block may come out after any number of views, all with full blocks of their own that
    asynchrony kept from being decided."""
    four = cluster(4, parameters=Parameters(interval=4, epoch_length=12, window=1))
    group, connected = four.genesis, False
    four.passes = lambda source, target, message: connected or not isinstance(message, Prepare | Commit)
    four.crash(0)
    full = [bytes([i]) * 60_000 for i in range(1, 18)]
    four.submit(1, *full)
    four.run(50)
    block = block_at(1, *full)
    digest = group.block_digest(block)
    for i in (1, 2):
        four[i].receive(0, proposal(group, 0, block))
    frames = [effect.frame for i in (1, 2) for effect in four[i].effects if isinstance(effect, Broadcast)]
    votes = [frame for frame in frames if isinstance(open_message(group, frame)[1], Prepare)]
    claim = Claim(1, 0, digest, [seal_vote(KEYS[0], group.chain, PrePrepare(0, 0, 1, digest)), *votes])
    while four[1].replica.view < 4:
        four.run(50)
    assert not any(digest in four[i].replica._state.bodies for i in (1, 2, 3))
    connected = True
    while four[1].replica.height == 0 and four[1].elapsed_ms < 60_000:
        for i in (1, 2, 3):
            view = four[i].replica.view + 1
            if group.primary(view) == KEYS[i].identity:
                four[i].receive(0, view_change(group, 0, view, claim))
        four.run(50)
    assert [four[i].disk.blocks[1][0] == block for i in (1, 2, 3)] == [True] * 3


def test_what_memory_has_let_go_is_read_for_peers_and_for_a_new_view() -> None:
    here = node(FOUR, 2)
    here.receive(0, proposal(FOUR, 0, A))
    here.replica._state.bodies.clear()
    asked = here.receive(3, seal_message(KEYS[3], FOUR, FetchBody(0, 1, DIGEST_A)))
    assert [body.block for body in said(FOUR, asked, Body)] == [A]
    assert said(FOUR, here.receive(3, seal_message(KEYS[3], FOUR, FetchBody(0, 1, DIGEST_B))), Body) == []
    claim = prepared_claim(FOUR, DIGEST_A, [0, 1, 2])
    changes = [view_change(FOUR, i, 1, claim) for i in (0, 1, 3)]
    effects = here.receive(1, new_view(FOUR, 1, 1, changes, [DIGEST_A]))
    assert [vote.digest for vote in said(FOUR, effects, Prepare)] == [DIGEST_A]


def test_a_follower_enters_a_view_but_leaves_none() -> None:
    four = cluster(4, extra=[5])
    assert not four[5].replica.votes
    four[5].receive(1, new_view(FOUR, 1, 1, VALID))
    assert four[5].replica.view == 1
    four[5].tick(100_000)
    for i in (1, 2, 3):
        four[5].receive(i, view_change(FOUR, i, 5))
    assert four[5].replica.view == 1

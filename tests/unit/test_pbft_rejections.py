"""Every way in which a message can be wrong is refused under its own code, and changes nothing."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pbft_cluster import (
    FOUR,
    KEYS,
    NOW_MS,
    STRANGER,
    Node,
    block_on,
    commit,
    group_of,
    node,
    prepare,
    proposal,
    said,
)

from tallystick.canon.encoding import to_bytes
from tallystick.canon.identity import Key
from tallystick.canon.sealed import seal
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import Durable
from tallystick.consensus.pbft.limits import HEIGHT_MARGIN, MAX_FRAME_BYTES
from tallystick.consensus.pbft.messages import (
    Blocks,
    Commit,
    Fetch,
    Message,
    Prepare,
    Proposal,
    seal_message,
)
from tallystick.consensus.pbft.replica import Replica
from tallystick.errors import Refused

D = b"d" * 32
PRIMARY, BACKUP = KEYS[0], KEYS[2]
BLOCK = block_on(FOUR)


def raw(payload: bytes, key: Key = BACKUP) -> bytes:
    return seal(key, FOUR.domain, payload)


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


def sealed_inside(vote: Message, signer: Key = PRIMARY) -> bytes:
    return seal_message(PRIMARY, FOUR, Proposal(0, seal_message(signer, FOUR, vote), BLOCK))


def proposing(**changes: object) -> bytes:
    return proposal(FOUR, PRIMARY, block_on(FOUR, None, **changes))


WRONG: dict[str, list[tuple[Key, bytes]]] = {
    "too_large": [(BACKUP, raw(b"x" * MAX_FRAME_BYTES))],
    "truncated": [(BACKUP, b""), (BACKUP, raw(b""))],
    "bad_signature": [
        (BACKUP, flipped(prepare(FOUR, BACKUP, D))),
        (BACKUP, prepare(group_of(4, chain="another"), BACKUP, D)),
    ],
    "malformed": [
        (BACKUP, raw(b"\xc1")),
        (BACKUP, raw(to_bytes(["nonsense", 0]))),
        (BACKUP, raw(to_bytes(["prepare", 0, 0, 1, b"short"]))),
        (BACKUP, raw(to_bytes(["prepare", 0, -1, 1, D]))),
        (BACKUP, raw(to_bytes(["prepare", 0, 0, 1, D, "and more"]))),
        (BACKUP, raw(to_bytes(["pre_prepare", 0, 0, 1, D]))),
        (BACKUP, raw(b"\x91" * 5000)),
    ],
    "not_a_validator": [(STRANGER, prepare(FOUR, STRANGER, D))],
    "wrong_channel": [(KEYS[3], prepare(FOUR, BACKUP, D))],
    "wrong_epoch": [(BACKUP, prepare(group_of(4, epoch=1), BACKUP, D))],
    "wrong_view": [(BACKUP, prepare(FOUR, BACKUP, D, view=1)), (PRIMARY, proposal(FOUR, PRIMARY, BLOCK, view=1))],
    "too_far_ahead": [(BACKUP, commit(FOUR, BACKUP, D, height=HEIGHT_MARGIN + 1))],
    "not_primary": [(BACKUP, proposal(FOUR, BACKUP, BLOCK))],
    "primary_prepared": [(PRIMARY, prepare(FOUR, PRIMARY, D))],
    "not_a_pre_prepare": [
        (PRIMARY, sealed_inside(Prepare(0, 0, 1, FOUR.block_digest(BLOCK)))),
        (PRIMARY, sealed_inside(Commit(0, 0, 1, FOUR.block_digest(BLOCK)))),
        (BACKUP, seal_message(BACKUP, FOUR, Proposal(0, prepare(FOUR, PRIMARY, D), BLOCK))),
    ],
    "wrong_digest": [(PRIMARY, proposal(FOUR, PRIMARY, BLOCK, digest=D))],
    "wrong_height": [(PRIMARY, proposing(height=2))],
    "wrong_parent": [(PRIMARY, proposing(parent=D))],
    "wrong_proposer": [(PRIMARY, proposing(proposer=BACKUP.identity))],
    "time_ahead": [(PRIMARY, proposing(time_ms=NOW_MS + 31_000))],
    "empty_block": [(PRIMARY, proposing(transactions=[]))],
    "unsolicited_blocks": [(BACKUP, seal_message(BACKUP, FOUR, Blocks(0, [])))],
    "bad_range": [
        (BACKUP, seal_message(BACKUP, FOUR, Fetch(0, 0, 5))),
        (BACKUP, seal_message(BACKUP, FOUR, Fetch(0, 5, 4))),
    ],
}


@pytest.mark.parametrize(("code", "sender", "frame"), [(code, *pair) for code in WRONG for pair in WRONG[code]])
def test_a_wrong_message_is_counted_under_its_code_and_answered_with_nothing(
    code: str, sender: Key, frame: bytes
) -> None:
    backup = node(FOUR, 1)
    assert backup.refusals(sender, frame) == {code: 1}
    assert backup.effects == []


def test_a_block_that_is_not_well_formed_is_refused() -> None:
    assert node(FOUR, 1).refusals(PRIMARY, proposal(FOUR, PRIMARY, b"\xc1")) == {"malformed": 1}
    for transactions in ([b""], [b"x" * 65_537], [b"x"] * 2001):
        block = to_bytes([1, FOUR.genesis, NOW_MS, PRIMARY.identity, transactions])
        assert node(FOUR, 1).refusals(PRIMARY, proposal(FOUR, PRIMARY, block)) == {"malformed": 1}


def test_a_block_before_its_parent_is_refused() -> None:
    backup = delivered_one()
    late = block_on(FOUR, FOUR.block_digest(BLOCK), height=2, time_ms=NOW_MS - 1)
    assert backup.refusals(PRIMARY, proposal(FOUR, PRIMARY, late, height=2)) == {"time_backward": 1}


def test_a_block_that_was_too_far_ahead_is_accepted_when_its_time_has_come() -> None:
    backup = node(FOUR, 1)
    early = proposing(time_ms=NOW_MS + 31_000)
    assert backup.refusals(PRIMARY, early) == {"time_ahead": 1}
    backup.tick(now_ms=NOW_MS + 1_000)
    assert backup.refusals(PRIMARY, early) == {}
    assert said(FOUR, backup.effects, Prepare)


def test_late_votes_are_no_offense() -> None:
    backup = delivered_one()
    assert backup.refusals(BACKUP, prepare(FOUR, BACKUP, FOUR.block_digest(BLOCK))) == {}
    assert backup.refusals(PRIMARY, proposal(FOUR, PRIMARY, BLOCK)) == {}


def test_a_repeated_proposal_is_voted_for_once() -> None:
    backup = node(FOUR, 1)
    assert [len(backup.receive(PRIMARY, proposal(FOUR, PRIMARY, BLOCK))) for _ in range(3)] == [2, 0, 0]


def test_a_repeated_vote_counts_once() -> None:
    group = group_of(7)
    backup = node(group, 1)
    block = block_on(group)
    backup.receive(PRIMARY, proposal(group, PRIMARY, block))
    for _ in range(5):
        assert backup.refusals(BACKUP, prepare(group, BACKUP, group.block_digest(block))) == {}
        assert backup.refusals(BACKUP, commit(group, BACKUP, group.block_digest(block))) == {}
    assert not said(group, backup.effects, Commit)


@pytest.mark.parametrize("vote", [prepare, commit])
def test_a_second_different_vote_is_refused_and_kept_as_evidence(vote: Callable[[Group, Key, bytes], bytes]) -> None:
    backup = node(FOUR, 1)
    first, second = vote(FOUR, BACKUP, D), vote(FOUR, BACKUP, b"e" * 32)
    assert backup.refusals(BACKUP, first) == {}
    assert backup.refusals(BACKUP, second) == {"conflicting_vote": 1}
    (evidence,) = backup.replica.evidence
    assert (evidence.sender, evidence.first, evidence.second) == (BACKUP.identity, first, second)


def test_too_many_requests_for_blocks_between_ticks_are_refused() -> None:
    backup = delivered_one()
    ask = seal_message(BACKUP, FOUR, Fetch(0, 1, 1))
    assert [backup.refusals(BACKUP, ask) for _ in range(9)] == [{}] * 8 + [{"too_many_fetches": 1}]
    backup.tick()
    assert backup.refusals(BACKUP, ask) == {}


def test_a_key_that_is_no_validators_cannot_take_part() -> None:
    with pytest.raises(Refused, match="not_a_validator"):
        Replica(FOUR, STRANGER, Durable())


def test_a_validator_listed_twice_makes_no_group() -> None:
    with pytest.raises(Refused, match="bad_group"):
        Group("test", (KEYS[0].identity, KEYS[0].identity))


def delivered_one() -> Node:
    backup = node(FOUR, 1)
    backup.receive(PRIMARY, proposal(FOUR, PRIMARY, BLOCK))
    for key in (KEYS[0], *KEYS[2:4]):
        backup.receive(key, commit(FOUR, key, FOUR.block_digest(BLOCK)))
    assert backup.replica.height == 1
    backup.effects.clear()
    return backup


# ---- bytes that nobody designed

heights = st.integers(0, 8) | st.integers(0, 2**64 - 1)
digests = st.sampled_from([D, FOUR.block_digest(BLOCK)]) | st.binary(max_size=40)
blocks = st.just(BLOCK) | st.binary(max_size=60)
votes = st.tuples(st.sampled_from(["prepare", "commit", "pre_prepare"]), st.just(0), heights, heights, digests)
odd_votes = votes.map(lambda fields: seal(PRIMARY, FOUR.domain, to_bytes(fields)))
payloads = st.one_of(
    st.binary(max_size=200),
    votes.map(to_bytes),
    st.tuples(st.just("proposal"), st.just(0), odd_votes, blocks).map(to_bytes),
    st.tuples(st.just("fetch"), st.just(0), heights, heights).map(to_bytes),
    st.tuples(st.just("status"), st.just(0), heights, heights).map(to_bytes),
    st.tuples(st.just("forward"), st.just(0), st.lists(st.binary(max_size=9), max_size=4)).map(to_bytes),
    st.tuples(st.just("blocks"), st.just(0), st.lists(st.tuples(blocks, st.binary(max_size=9)), max_size=3)).map(
        to_bytes
    ),
)
frames = payloads.map(lambda payload: seal(PRIMARY, FOUR.domain, payload)) | st.binary(max_size=300)


@settings(max_examples=60, deadline=None)
@given(st.lists(frames, max_size=12))
def test_no_bytes_from_a_validator_raise_anything_or_move_the_chain(hostile: list[bytes]) -> None:
    backup = node(FOUR, 1)
    for frame in hostile:
        backup.receive(PRIMARY, frame)
        backup.tick(later_ms=300)
    assert backup.replica.height == 0


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_without_a_signature_are_counted_and_not_parsed(noise: bytes) -> None:
    backup = node(FOUR, 1)
    (code,) = backup.refusals(PRIMARY, noise)
    assert code in {"truncated", "bad_signature"}

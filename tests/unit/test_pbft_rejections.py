"""Every way in which a message can be wrong is refused under its own code, takes no memory and changes nothing."""

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
    block_at,
    cluster,
    commit,
    content_of,
    group_of,
    new_view,
    node,
    prepare,
    prepared_claim,
    proposal,
    said,
    stable_proof,
    view_change,
)

from tallystick.canon.encoding import to_bytes
from tallystick.canon.identity import Key
from tallystick.canon.sealed import seal
from tallystick.canon.votes import Checkpoint, Commit, Message, Prepare, PrePrepare, vote_domain
from tallystick.consensus.pbft import Parameters
from tallystick.consensus.pbft.io import Received, Verify
from tallystick.consensus.pbft.limits import MAX_FRAME_BYTES
from tallystick.consensus.pbft.messages import (
    Block,
    Blocks,
    Body,
    Fetch,
    FetchBody,
    Proposal,
    encode_block,
    seal_message,
)

D = b"d" * 32
PRIMARY, BACKUP = 0, 2
BLOCK = block_at()
ANOTHER_CHAIN, EPOCH_1 = group_of(4, chain="another"), group_of(4, epoch=1)


def raw(payload: bytes, by: int = BACKUP) -> bytes:
    return seal(KEYS[by], vote_domain("test"), payload)


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


def sealed_inside(vote: Message, by: int = PRIMARY) -> bytes:
    return seal_message(KEYS[PRIMARY], FOUR, Proposal(0, seal_message(KEYS[by], FOUR, vote), BLOCK))


def proposing(block: Block) -> bytes:
    return proposal(FOUR, PRIMARY, encode_block(block))


def fields(**changes: object) -> Block:
    usual = {"height": 1, "time_ms": NOW_MS, "proposer": FOUR.validators[0], "transactions": [b"transaction"]}
    return Block(**(usual | changes))  # type: ignore[arg-type]


WRONG: dict[str, list[tuple[int, bytes]]] = {
    "too_large": [(BACKUP, raw(b"x" * MAX_FRAME_BYTES))],
    "truncated": [(BACKUP, b""), (BACKUP, raw(b"")), (BACKUP, prepare(FOUR, BACKUP, D)[:95])],
    "bad_signature": [
        (BACKUP, flipped(prepare(FOUR, BACKUP, D))),
        (BACKUP, prepare(FOUR, BACKUP, D)[:-1]),
        (BACKUP, prepare(ANOTHER_CHAIN, BACKUP, D)),
        (BACKUP, view_change(ANOTHER_CHAIN, BACKUP, 1)),
        (BACKUP, bytes.fromhex(KEYS[3].identity) + prepare(FOUR, BACKUP, D)[32:]),
        (BACKUP, seal(KEYS[BACKUP], "tallystick/test/ledger", to_bytes(["prepare", 0, 0, 1, D]))),
        (BACKUP, bytes(200)),
    ],
    "malformed": [
        (BACKUP, raw(b"\xc1")),
        (BACKUP, raw(to_bytes(["nonsense", 0]))),
        (BACKUP, raw(to_bytes(["prepare", 0, 0, 1, b"short"]))),
        (BACKUP, raw(to_bytes(["prepare", 0, -1, 1, D]))),
        (BACKUP, raw(to_bytes(["prepare", 0, 0, 2**53, D]))),
        (BACKUP, raw(to_bytes(["prepare", 0, 0, 1, D, "and more"]))),
        (BACKUP, raw(to_bytes(["prepare", 0, 0, 1, D]) + b"\0")),
        (BACKUP, raw(b"\x91" * 5000)),
        (BACKUP, raw(b"\xdd\xff\xff\xff\xff")),
        (PRIMARY, proposal(FOUR, PRIMARY, b"\xc1")),
        (PRIMARY, proposing(fields(transactions=[b""]))),
        (PRIMARY, proposing(fields(transactions=[b"x" * 65_537]))),
        (PRIMARY, proposing(fields(transactions=[b"x"] * 2001))),
        (PRIMARY, proposing(fields(proposer="nobody"))),
    ],
    "not_a_validator": [
        (9, prepare(FOUR, 9, D)),
        (9, seal_message(KEYS[9], FOUR, Fetch(0, 1, 1))),
        (9, new_view(FOUR, 9, 1, [])),
    ],
    "wrong_channel": [
        (3, prepare(FOUR, BACKUP, D)),
        (3, proposal(FOUR, PRIMARY, BLOCK)),
        (3, view_change(FOUR, BACKUP, 1)),
    ],
    "above_watermark": [
        (BACKUP, commit(FOUR, BACKUP, D, height=9)),
        (BACKUP, commit(FOUR, BACKUP, D, height=2**53 - 1)),
    ],
    "not_primary": [(BACKUP, proposal(FOUR, BACKUP, BLOCK))],
    "primary_prepared": [(PRIMARY, prepare(FOUR, PRIMARY, D))],
    "not_a_pre_prepare": [
        (PRIMARY, sealed_inside(Prepare(0, 0, 1, FOUR.block_digest(BLOCK)))),
        (PRIMARY, sealed_inside(Commit(0, 0, 1, FOUR.block_digest(BLOCK)))),
        (PRIMARY, sealed_inside(Checkpoint(0, 1, FOUR.block_digest(BLOCK)))),
        (PRIMARY, sealed_inside(PrePrepare(0, 0, 1, FOUR.block_digest(BLOCK)), BACKUP)),
        (BACKUP, seal_message(KEYS[BACKUP], FOUR, Proposal(0, prepare(FOUR, PRIMARY, D), BLOCK))),
    ],
    "wrong_digest": [(PRIMARY, proposal(FOUR, PRIMARY, BLOCK, digest=D))],
    "wrong_height": [(PRIMARY, proposing(fields(height=2)))],
    "wrong_proposer": [
        (PRIMARY, proposing(fields(proposer=FOUR.validators[1]))),
        (PRIMARY, proposing(fields(proposer=""))),
    ],
    "time_ahead": [(PRIMARY, proposing(fields(time_ms=NOW_MS + 31_000)))],
    "empty_block": [(PRIMARY, proposing(fields(transactions=[])))],
    "bad_transaction": [(PRIMARY, proposing(fields(transactions=[b"good", b"bad"])))],
    "unsolicited_blocks": [(BACKUP, seal_message(KEYS[BACKUP], FOUR, Blocks(0, [])))],
    "unwanted_body": [(BACKUP, seal_message(KEYS[BACKUP], FOUR, Body(0, BLOCK)))],
    "not_a_checkpoint": [(BACKUP, seal_message(KEYS[BACKUP], FOUR, Checkpoint(0, 5, D)))],
    "bad_range": [
        (BACKUP, seal_message(KEYS[BACKUP], FOUR, Fetch(0, 0, 5))),
        (BACKUP, seal_message(KEYS[BACKUP], FOUR, Fetch(0, 5, 4))),
    ],
}


@pytest.mark.parametrize(("code", "by", "frame"), [(code, *pair) for code in WRONG for pair in WRONG[code]])
def test_a_wrong_message_is_counted_under_its_code_and_answered_with_nothing(code: str, by: int, frame: bytes) -> None:
    backup = node(FOUR, 1)
    assert backup.refusals(by, frame) == {code: 1}
    assert not said(FOUR, backup.effects, Message)
    assert backup.replica.height == 0


@pytest.mark.parametrize(
    "frame",
    [
        prepare(FOUR, BACKUP, D),
        commit(FOUR, BACKUP, D),
        proposal(FOUR, PRIMARY, BLOCK),
        view_change(FOUR, BACKUP, 5),
        seal_message(KEYS[BACKUP], FOUR, FetchBody(0, 1, D)),
    ],
)
def test_what_was_said_in_a_past_epoch_is_replayed_in_vain(frame: bytes) -> None:
    four = cluster(parameters=Parameters(1, 1, 1))
    four.order(b"one")
    assert four[1].replica.epoch == 1
    by = PRIMARY if len(frame) > 300 else BACKUP
    assert four[1].refusals(by, frame) in ({"wrong_epoch": 1}, {"wrong_channel": 1})


def test_what_was_said_in_a_past_view_is_replayed_in_vain() -> None:
    backup = node(FOUR, 3)
    backup.receive(1, new_view(FOUR, 1, 1, [view_change(FOUR, i, 1) for i in (0, 1, 2)]))
    for by, frame in (
        (PRIMARY, proposal(FOUR, PRIMARY, BLOCK)),
        (BACKUP, prepare(FOUR, BACKUP, D)),
        (BACKUP, commit(FOUR, BACKUP, D)),
    ):
        assert backup.refusals(by, frame) == {"old_view": 1}


def test_a_vote_cannot_be_passed_off_as_one_of_another_kind() -> None:
    """FISCO-BCOS FIB-134: the kind was not part of what was signed."""
    sealed = prepare(FOUR, BACKUP, D)
    for kind in (b"commit", b"checkpoint", b"pre_prepare"):
        payload = sealed[96:].replace(b"prepare", kind)
        forged = sealed[:96] + payload.replace(bytes([0xA7]) + kind, bytes([0xA0 + len(kind)]) + kind)
        assert node(FOUR, 1).refusals(BACKUP, forged) == {"bad_signature": 1}


def test_late_votes_are_no_offense() -> None:
    backup = delivered_one()
    assert backup.refusals(BACKUP, prepare(FOUR, BACKUP, FOUR.block_digest(BLOCK))) == {}
    assert backup.refusals(PRIMARY, proposal(FOUR, PRIMARY, BLOCK)) == {}


def test_a_repeated_proposal_is_voted_for_once() -> None:
    backup = node(FOUR, 1)
    for _ in range(3):
        backup.receive(PRIMARY, proposal(FOUR, PRIMARY, BLOCK))
    assert len(said(FOUR, backup.effects, Prepare)) == 1


def test_a_repeated_vote_counts_once() -> None:
    group = group_of(7)
    backup = node(group, 1)
    backup.receive(PRIMARY, proposal(group, PRIMARY, BLOCK))
    for _ in range(5):
        assert backup.refusals(BACKUP, prepare(group, BACKUP, group.block_digest(BLOCK))) == {}
        assert backup.refusals(BACKUP, commit(group, BACKUP, group.block_digest(BLOCK))) == {}
    assert not said(group, backup.effects, Commit)


def test_a_proposal_that_no_honest_validator_would_let_pass_gets_no_vote_ever() -> None:
    backup = node(FOUR, 1)
    bad = block_at(1, b"bad")
    for _ in range(5):
        backup.receive(PRIMARY, proposal(FOUR, PRIMARY, bad))
    backup.tick(300)
    assert not said(FOUR, backup.effects, Prepare)
    assert len([e for e in backup.effects if isinstance(e, Verify)]) == 1, "and costs the application one look"


def delivered_one() -> Node:
    backup = node(FOUR, 1)
    backup.receive(PRIMARY, proposal(FOUR, PRIMARY, BLOCK))
    for i in (0, 2, 3):
        backup.receive(i, commit(FOUR, i, FOUR.block_digest(BLOCK)))
    assert backup.replica.height == 1
    backup.effects.clear()
    return backup


# ---- f replicas flood us: what we hold stays bounded


def flood(frames: Callable[[int], bytes], count: int = 600, by: int = BACKUP) -> Node:
    backup = node(FOUR, 1)
    for i in range(count):
        backup.receive(by, frames(i))
    backup.tick(300)
    return backup


FLOODS: dict[str, tuple[Callable[[int], bytes], dict[str, int]]] = {
    "votes": (lambda i: commit(FOUR, BACKUP, D, height=i), {"instances": 8, "votes": 8}),
    "conflicting votes": (lambda i: prepare(FOUR, BACKUP, i.to_bytes(32)), {"votes": 1, "instances": 1, "accused": 1}),
    "later views": (lambda i: prepare(FOUR, BACKUP, D, view=i + 1), {"early": 256}),
    "later epochs": (lambda i: prepare(group_of(4, epoch=i + 1), BACKUP, D), {"early": 256}),
    "one frame many times": (lambda i: prepare(FOUR, BACKUP, D, view=7), {"early": 1}),
    "view changes": (lambda i: view_change(FOUR, BACKUP, i + 1), {"view_changes": 1}),
    "checkpoint votes": (
        lambda i: seal_message(KEYS[BACKUP], FOUR, Checkpoint(0, i, D)),
        {"checkpoint_votes": 2},
    ),
    "bodies": (lambda i: seal_message(KEYS[BACKUP], FOUR, Body(0, b"%d" % i)), {"bodies": 0}),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_takes_bounded_memory(name: str) -> None:
    frames, bounds = FLOODS[name]
    load = flood(frames).replica.load
    assert {key: load[key] for key in bounds} == bounds
    assert sum(size for key, size in load.items() if key not in (*bounds, "early_bytes", "peers")) == 0


def test_early_frames_are_bounded_in_bytes_too() -> None:
    backup = node(FOUR, 1)
    big = [
        proposal(FOUR, 2, block_at(1, *[bytes([i, j]) + bytes(60_000) for j in range(10)]), view=2) for i in range(9)
    ]
    for frame in big:
        backup.receive(2, frame)
    assert backup.replica.load["early_bytes"] <= 2 * 1024 * 1024
    assert backup.replica.rejections["view_ahead"] > 0


def test_a_copy_of_anothers_new_view_does_not_fill_its_room() -> None:
    backup = node(FOUR, 1)
    later = new_view(EPOCH_1, 2, 1, [view_change(EPOCH_1, i, 1) for i in (0, 2, 3)])
    for _ in range(500):
        backup.receive(3, later)
    assert backup.replica.load["early"] == 1
    assert backup.refusals(2, commit(EPOCH_1, 2, D)) == {}


def test_an_identity_costs_memory_only_if_it_is_a_validators() -> None:
    backup = node(FOUR, 1)
    for i in range(1, 201):
        key = Key.from_seed(i.to_bytes(32))
        backup.step(Received(key.identity, seal_message(key, FOUR, Prepare(0, 5, 1, D))))
    backup.step(Received(STRANGER.identity, seal_message(STRANGER, FOUR, Fetch(0, 1, 1))))
    assert backup.replica.load["peers"] == 0
    assert backup.replica.rejections == {"not_a_validator": 201}


# ---- bytes that nobody designed

heights = st.integers(0, 10) | st.integers(0, 2**64 - 1)
epochs = st.sampled_from([0, 0, 0, 1, 2**60])
digests = st.sampled_from([D, FOUR.block_digest(BLOCK)]) | st.binary(max_size=40)
blocks = st.just(BLOCK) | st.binary(max_size=60)
votes = st.tuples(st.sampled_from(["prepare", "commit", "pre_prepare"]), epochs, heights, heights, digests)
odd_votes = votes.map(lambda fields: seal(KEYS[PRIMARY], vote_domain("test"), to_bytes(fields)))
claims = st.just(prepared_claim(FOUR, D, [0, 1, 2])).map(lambda c: (c.height, c.view, c.digest, c.votes)) | st.tuples(
    heights, heights, digests, st.lists(odd_votes, max_size=3)
)
proofs = st.sampled_from([b"", stable_proof(FOUR, content_of(FOUR, 4), [0, 1, 2])]) | st.binary(max_size=60)
changes = st.tuples(st.just("view_change"), epochs, heights, heights, proofs, st.lists(claims, max_size=3))
odd_changes = changes.map(lambda fields: seal(KEYS[PRIMARY], vote_domain("test"), to_bytes(fields)))
payloads = st.one_of(
    st.binary(max_size=200),
    votes.map(to_bytes),
    changes.map(to_bytes),
    st.tuples(
        st.just("new_view"),
        epochs,
        heights,
        st.lists(odd_changes | st.sampled_from([view_change(FOUR, i, 4) for i in range(4)]), max_size=4),
        st.lists(odd_votes, max_size=3),
    ).map(to_bytes),
    st.tuples(st.just("checkpoint"), epochs, heights, digests).map(to_bytes),
    st.tuples(st.just("checkpoints"), epochs, st.lists(proofs, min_size=1, max_size=3)).map(to_bytes),
    st.tuples(st.just("proposal"), epochs, odd_votes, blocks).map(to_bytes),
    st.tuples(st.just("fetch"), epochs, heights, heights).map(to_bytes),
    st.tuples(st.just("fetch_body"), epochs, heights, digests).map(to_bytes),
    st.tuples(st.just("body"), epochs, blocks).map(to_bytes),
    st.tuples(st.just("fetch_chunk"), epochs, heights, heights).map(to_bytes),
    st.tuples(st.just("chunk"), epochs, heights, heights, blocks, blocks).map(to_bytes),
    st.tuples(st.just("status"), epochs, heights, st.booleans(), heights, heights).map(to_bytes),
    st.tuples(st.just("forward"), epochs, st.lists(st.binary(max_size=9), max_size=4)).map(to_bytes),
    st.tuples(st.just("blocks"), epochs, st.lists(st.tuples(blocks, st.binary(max_size=9)), max_size=3)).map(to_bytes),
)
frames = payloads.map(lambda payload: seal(KEYS[PRIMARY], vote_domain("test"), payload)) | st.binary(max_size=300)


@settings(max_examples=60, deadline=None)
@given(st.lists(frames, max_size=12))
def test_no_bytes_from_a_validator_raise_anything_or_move_the_chain(hostile: list[bytes]) -> None:
    backup = node(FOUR, 1)
    for frame in hostile:
        backup.receive(PRIMARY, frame)
        backup.tick(300)
    assert backup.replica.height == 0
    assert backup.replica.epoch == 0
    assert not backup.halted()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_without_a_signature_are_counted_and_not_parsed(noise: bytes) -> None:
    backup = node(FOUR, 1)
    (code,) = backup.refusals(PRIMARY, noise)
    assert code in {"truncated", "bad_signature"}

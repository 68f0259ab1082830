"""A certificate convinces anybody who knows the group, and nothing less than a quorum's votes does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pbft_cluster import (
    FOUR,
    KEYS,
    STRANGER,
    block_at,
    certify,
    changed,
    commit,
    content_of,
    group_of,
    prepare,
    prepared_claim,
    stable_proof,
)

from tallystick.canon.votes import Checkpoint, Commit, Prepare, PrePrepare, Vote, seal_vote
from tallystick.consensus.pbft import ChainOfTrust, Group, verify_certificate
from tallystick.consensus.pbft.certificate import (
    encode_checkpoint,
    group_of_block,
    make_certificate,
    verify_checkpoint,
    verify_claim,
)
from tallystick.consensus.pbft.messages import Claim, seal_message
from tallystick.errors import Refused

BLOCK = block_at()
DIGEST = FOUR.block_digest(BLOCK)
GOOD = [commit(FOUR, i, DIGEST) for i in range(4)]


def test_a_quorum_of_commits_certifies_a_block() -> None:
    for signers in (GOOD[:3], GOOD[1:], GOOD):
        assert verify_certificate(FOUR, BLOCK, make_certificate(signers)).height == 1


def test_a_certificate_of_a_later_view_is_as_good() -> None:
    assert verify_certificate(FOUR, BLOCK, certify(FOUR, BLOCK, [0, 1, 2], view=5)).height == 1


BAD = {
    "too_few_votes": [GOOD[:2], []],
    "duplicate_signer": [[GOOD[0], GOOD[1], GOOD[1]], [*GOOD[:3], GOOD[0]]],
    "wrong_vote": [
        [*GOOD[:2], commit(FOUR, 2, DIGEST, height=2)],
        [*GOOD[:2], commit(FOUR, 2, b"x" * 32)],
        [*GOOD[:2], commit(FOUR, 2, DIGEST, view=1)],
        [*GOOD[:2], prepare(FOUR, 2, DIGEST)],
        [*GOOD[:2], seal_message(KEYS[2], FOUR, PrePrepare(0, 0, 1, DIGEST))],
        [*GOOD[:2], seal_message(KEYS[2], FOUR, Checkpoint(0, 1, DIGEST))],
    ],
    "not_a_validator": [
        [*GOOD[:2], seal_message(STRANGER, FOUR, Commit(0, 0, 1, DIGEST))],
        [*GOOD[:2], commit(FOUR, 4, DIGEST)],
    ],
    "bad_signature": [
        [*GOOD[:2], commit(group_of(4, chain="another"), 2, DIGEST)],
        [*GOOD[:2], GOOD[2][:32] + bytes(64) + GOOD[2][96:]],
    ],
    "wrong_epoch": [[*GOOD[:2], commit(group_of(4, epoch=1), 2, DIGEST)]],
    "too_large": [[*GOOD[:2], GOOD[2] + bytes(500)]],
    "truncated": [[*GOOD[:2], GOOD[2][:90]]],
}


@pytest.mark.parametrize(("code", "commits"), [(code, commits) for code in BAD for commits in BAD[code]])
def test_anything_less_is_refused(code: str, commits: list[bytes]) -> None:
    with pytest.raises(Refused) as refused:
        verify_certificate(FOUR, BLOCK, make_certificate(commits))
    assert refused.value.code == code


def test_a_certificate_is_for_one_block_of_one_chain() -> None:
    good = make_certificate(GOOD[:3])
    with pytest.raises(Refused, match="wrong_vote"):
        verify_certificate(FOUR, block_at(1, b"another"), good)
    with pytest.raises(Refused, match="bad_signature"):
        verify_certificate(group_of(4, chain="another"), BLOCK, good)
    with pytest.raises(Refused, match="too_few_votes"):
        verify_certificate(group_of(5), BLOCK, good)


def test_bytes_that_are_no_certificate_or_no_block_are_refused() -> None:
    with pytest.raises(Refused, match="malformed"):
        verify_certificate(FOUR, BLOCK, b"\xc1")
    with pytest.raises(Refused, match="malformed"):
        verify_certificate(FOUR, b"\xc1", make_certificate(GOOD))
    with pytest.raises(Refused, match="too_few_votes"):
        group_of_block(FOUR, make_certificate([]))


def test_the_name_of_a_block_does_not_depend_on_the_view_but_on_the_chain() -> None:
    assert Group("another", FOUR.validators).block_digest(BLOCK) != DIGEST
    assert FOUR.block_digest(BLOCK) != FOUR.checkpoint_digest(BLOCK)
    assert "view" not in type(verify_certificate(FOUR, BLOCK, make_certificate(GOOD))).__struct_fields__


def test_who_has_the_genesis_file_can_check_any_block_of_any_epoch() -> None:
    """One reply is enough: the block, its certificate, and the checkpoints at which the validators changed."""
    five = changed()
    assert five[2].replica.epoch > 1
    group = ChainOfTrust(FOUR, five[2].disk.history).group
    for height in range(5, five[2].replica.height + 1):
        block, certificate = five[2].disk.blocks[height]
        assert verify_certificate(group_of_block(group, certificate), block, certificate).height == height
        with pytest.raises(Refused):
            verify_certificate(group_of_block(FOUR, certificate), block, certificate)


# ---- prepared certificates


@pytest.mark.parametrize(
    ("code", "claim"),
    [
        ("wrong_vote", prepared_claim(FOUR, DIGEST, [1, 2, 3])),  # pre-prepared by no primary
        ("wrong_vote", prepared_claim(FOUR, DIGEST, [0, 1, 2], view=1)),
        ("wrong_vote", Claim(1, 0, DIGEST, [prepare(FOUR, i, DIGEST) for i in (1, 2, 3)])),  # no pre-prepare
        ("wrong_vote", Claim(1, 0, DIGEST, [prepare(FOUR, i, DIGEST) for i in (0, 1, 2)])),  # the primary prepares
        ("wrong_vote", Claim(1, 0, DIGEST, [*prepared_claim(FOUR, DIGEST, [0, 1]).votes, GOOD[2]])),  # mixed
        ("wrong_vote", Claim(1, 1, DIGEST, prepared_claim(FOUR, DIGEST, [0, 1, 2]).votes)),
        ("wrong_vote", Claim(2, 0, DIGEST, prepared_claim(FOUR, DIGEST, [0, 1, 2]).votes)),
        ("wrong_vote", Claim(1, 0, b"x" * 32, prepared_claim(FOUR, DIGEST, [0, 1, 2]).votes)),
        ("wrong_vote", Claim(1, 0, DIGEST, [seal_vote(KEYS[i], "test", Checkpoint(0, 1, DIGEST)) for i in range(3)])),
        ("too_few_votes", prepared_claim(FOUR, DIGEST, [0, 1])),
        ("duplicate_signer", prepared_claim(FOUR, DIGEST, [0, 1, 1])),
        ("wrong_epoch", prepared_claim(group_of(4, epoch=4), DIGEST, [0, 1, 2])),
        ("bad_signature", prepared_claim(group_of(4, chain="another"), DIGEST, [0, 1, 2])),
    ],
)
def test_a_claim_without_a_quorum_behind_it_is_refused(code: str, claim: Claim) -> None:
    verify_claim(FOUR, prepared_claim(FOUR, DIGEST, [0, 1, 2]))
    with pytest.raises(Refused) as refused:
        verify_claim(FOUR, claim)
    assert refused.value.code == code


# ---- checkpoints


def test_a_checkpoint_is_proven_by_a_quorum_of_its_epoch() -> None:
    content = content_of(FOUR, 4)
    assert verify_checkpoint(FOUR, stable_proof(FOUR, content, [1, 2, 3])).height == 4
    votes = [seal_vote(KEYS[i], "test", Checkpoint(0, 4, FOUR.checkpoint_digest(content))) for i in range(4)]
    other = content_of(FOUR, 4, data=b"another state")
    for code, proof in {
        "too_few_votes": stable_proof(FOUR, content, [1, 2]),
        "duplicate_signer": stable_proof(FOUR, content, [1, 2, 2]),
        "not_a_validator": stable_proof(FOUR, content, [1, 2, 5]),
        "wrong_vote": encode_checkpoint(other, votes),
        "malformed": b"\xc1",
    }.items():
        with pytest.raises(Refused) as refused:
            verify_checkpoint(FOUR, proof)
        assert refused.value.code == code
    with pytest.raises(Refused, match="wrong_epoch"):
        verify_checkpoint(group_of(4, epoch=1), stable_proof(FOUR, content, [0, 1, 2]))


# ---- properties

views, epochs, heights = st.integers(0, 3), st.integers(0, 1), st.integers(1, 3)
kinds = st.sampled_from([PrePrepare, Prepare, Commit])
votes = st.builds(lambda kind, *a: kind(*a), kinds, epochs, views, heights, st.sampled_from([DIGEST, b"x" * 32]))
signed = st.lists(st.tuples(st.integers(0, 5), votes), max_size=6)


@settings(max_examples=80, deadline=None)
@given(signed)
def test_a_certificate_holds_exactly_if_a_quorum_of_validators_committed_this_block_in_one_view(
    given_votes: list[tuple[int, Vote]],
) -> None:
    certificate = make_certificate(seal_vote(KEYS[i], "test", vote) for i, vote in given_votes)
    signers = [i for i, _ in given_votes]
    expected = (
        len(signers) >= 3
        and len(set(signers)) == len(signers)
        and max(signers) < 4
        and all(vote == Commit(0, given_votes[0][1].view, 1, DIGEST) for _, vote in given_votes)  # type: ignore[union-attr]
    )
    assert accepts(lambda: verify_certificate(FOUR, BLOCK, certificate)) == expected


alike = st.tuples(kinds, views).flatmap(
    lambda drawn: st.lists(st.tuples(st.integers(0, 4), st.just(drawn[0]) | kinds), max_size=5).map(
        lambda signers: (drawn[1], signers)
    )
)


@settings(max_examples=80, deadline=None)
@given(alike)
def test_a_claim_holds_exactly_if_a_quorum_committed_or_the_primary_and_backups_prepared(
    drawn: tuple[int, list[tuple[int, type[PrePrepare | Prepare | Commit]]]],
) -> None:
    view, signers = drawn
    claim = Claim(1, view, DIGEST, [seal_vote(KEYS[i], "test", kind(0, view, 1, DIGEST)) for i, kind in signers])
    who = [i for i, _ in signers]
    quorum = len(set(who)) == len(who) >= 3 and max(who) < 4
    committed = all(kind is Commit for _, kind in signers)
    prepared = view % 4 in who and all(kind is (PrePrepare if i == view % 4 else Prepare) for i, kind in signers)
    assert accepts(lambda: verify_claim(FOUR, claim)) == (quorum and (committed or prepared))


def accepts(check: object) -> bool:
    try:
        check()  # type: ignore[operator]
    except Refused:
        return False
    return True

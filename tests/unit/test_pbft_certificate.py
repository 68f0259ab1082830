"""A certificate convinces anybody who knows the group, and nothing less than a quorum's commits does."""

import pytest
from pbft_cluster import FOUR, KEYS, STRANGER, block_on, certify, commit, group_of, prepare

from tallystick.consensus.pbft import Group, verify_certificate
from tallystick.consensus.pbft.certificate import make_certificate
from tallystick.consensus.pbft.messages import Commit, PrePrepare, seal_message
from tallystick.errors import Refused

BLOCK = block_on(FOUR)
DIGEST = FOUR.block_digest(BLOCK)
GOOD = [commit(FOUR, key, DIGEST) for key in KEYS[:4]]


def test_a_quorum_of_commits_certifies_a_block() -> None:
    for signers in (GOOD[:3], GOOD[1:], GOOD):
        assert verify_certificate(FOUR, BLOCK, make_certificate(signers)).height == 1


def test_a_certificate_of_a_later_view_is_as_good() -> None:
    assert verify_certificate(FOUR, BLOCK, certify(FOUR, BLOCK, KEYS[:3], view=5)).height == 1


BAD = {
    "too_few_commits": [GOOD[:2], []],
    "duplicate_signer": [[GOOD[0], GOOD[1], GOOD[1]], [*GOOD[:3], GOOD[0]]],
    "wrong_commit": [
        [*GOOD[:2], commit(FOUR, KEYS[2], DIGEST, height=2)],
        [*GOOD[:2], commit(FOUR, KEYS[2], b"x" * 32)],
        [*GOOD[:2], commit(FOUR, KEYS[2], DIGEST, view=1)],
        [*GOOD[:2], prepare(FOUR, KEYS[2], DIGEST)],
        [*GOOD[:2], seal_message(KEYS[2], FOUR, PrePrepare(0, 0, 1, DIGEST))],
    ],
    "not_a_validator": [[*GOOD[:2], commit(FOUR, STRANGER, DIGEST)], [*GOOD[:2], commit(FOUR, KEYS[4], DIGEST)]],
    "bad_signature": [
        [*GOOD[:2], commit(group_of(4, chain="another"), KEYS[2], DIGEST)],
        [*GOOD[:2], GOOD[2][:32] + bytes(64) + GOOD[2][96:]],
    ],
    "wrong_epoch": [[*GOOD[:2], commit(group_of(4, epoch=1), KEYS[2], DIGEST)]],
    "too_large": [[*GOOD[:2], GOOD[2] + bytes(500)]],
}


@pytest.mark.parametrize(("code", "commits"), [(code, commits) for code in BAD for commits in BAD[code]])
def test_anything_less_is_refused(code: str, commits: list[bytes]) -> None:
    with pytest.raises(Refused) as refused:
        verify_certificate(FOUR, BLOCK, make_certificate(commits))
    assert refused.value.code == code


def test_a_certificate_is_for_one_block_of_one_chain() -> None:
    good = make_certificate(GOOD[:3])
    with pytest.raises(Refused, match="wrong_commit"):
        verify_certificate(FOUR, block_on(FOUR, transactions=[b"another"]), good)
    with pytest.raises(Refused, match="bad_signature"):
        verify_certificate(group_of(4, chain="another"), BLOCK, good)
    with pytest.raises(Refused, match="too_few_commits"):
        verify_certificate(group_of(5), BLOCK, good)


def test_bytes_that_are_no_certificate_or_no_block_are_refused() -> None:
    with pytest.raises(Refused, match="malformed"):
        verify_certificate(FOUR, BLOCK, b"\xc1")
    with pytest.raises(Refused, match="malformed"):
        verify_certificate(FOUR, b"\xc1", make_certificate(GOOD))


def test_the_name_of_a_block_does_not_depend_on_the_view_but_on_the_chain() -> None:
    assert "view" not in type(verify_certificate(FOUR, BLOCK, make_certificate(GOOD))).__struct_fields__
    assert Group("another", FOUR.validators).block_digest(BLOCK) != DIGEST
    assert "view" in Commit.__struct_fields__

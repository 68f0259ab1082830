"""Quorum arithmetic against the table of the design, and against what a quorum is for."""

import pytest

from tallystick.canon.quorum import faults, quorum


@pytest.mark.parametrize(
    ("voters", "expected"), [(4, 3), (5, 4), (7, 5), (8, 6), (10, 7), (16, 11), (31, 21), (50, 34)]
)
def test_the_quorum_is_that_of_the_published_table(voters: int, expected: int) -> None:
    assert quorum(voters) == expected


@pytest.mark.parametrize("voters", range(1, 200))
def test_two_quorums_share_an_honest_voter_and_the_honest_alone_are_one(voters: int) -> None:
    f, q = faults(voters), quorum(voters)
    assert 2 * q - voters >= f + 1
    assert 2 * (q - 1) - voters < f + 1, "one fewer would no longer do"
    assert q <= voters - f, "silent faulty voters cannot stop a decision"


def test_a_vote_without_voters_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one voter"):
        faults(0)

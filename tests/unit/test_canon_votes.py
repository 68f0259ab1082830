"""Votes and what two of them prove."""

import pytest

from tallystick.canon.identity import Key
from tallystick.canon.votes import Checkpoint, Commit, Prepare, Vote, culprit, open_vote, seal_vote
from tallystick.errors import Refused

KEY, OTHER = Key.from_seed(b"k" * 32), Key.from_seed(b"o" * 32)
A, B = b"a" * 32, b"b" * 32


def test_a_vote_opens_as_what_was_sealed() -> None:
    assert open_vote("c", seal_vote(KEY, "c", Commit(1, 2, 3, A))) == (KEY.identity, Commit(1, 2, 3, A))


def test_a_vote_is_worth_nothing_on_another_chain() -> None:
    with pytest.raises(Refused, match="signature"):
        open_vote("d", seal_vote(KEY, "c", Commit(1, 2, 3, A)))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Commit(1, 2, 3, A), Commit(1, 2, 3, B)),
        (Prepare(1, 2, 3, A), Prepare(1, 2, 3, B)),
        (Checkpoint(1, 3, A), Checkpoint(1, 3, B)),
    ],
)
def test_two_votes_for_one_slot_convict(first: Vote, second: Vote) -> None:
    assert culprit("c", seal_vote(KEY, "c", first), seal_vote(KEY, "c", second)) == (KEY.identity, first)


@pytest.mark.parametrize(
    ("first", "second", "by"),
    [
        (Commit(1, 2, 3, A), Commit(1, 2, 3, A), KEY),
        (Commit(1, 2, 3, A), Prepare(1, 2, 3, B), KEY),
        (Commit(1, 2, 3, A), Commit(1, 2, 4, B), KEY),
        (Commit(1, 2, 3, A), Commit(1, 3, 3, B), KEY),
        (Commit(1, 2, 3, A), Commit(2, 2, 3, B), KEY),
        (Commit(1, 2, 3, A), Commit(1, 2, 3, B), OTHER),
    ],
)
def test_nothing_else_convicts(first: Vote, second: Vote, by: Key) -> None:
    with pytest.raises(Refused, match="prove nothing"):
        culprit("c", seal_vote(KEY, "c", first), seal_vote(by, "c", second))

"""Two parties, one model: every way in which the question who trained first can go."""

from dataclasses import replace

import pytest

from tallystick.proof.ownership import Claim, Place, settle

ONE, TWO, MODEL = "1" * 64, "2" * 64, "d" * 64
EARLY, LATE = Place("chain-1", 7, 7_000, 3), Place("chain-1", 7, 7_000, 4)
FIRST = Claim(ONE, "a" * 64, MODEL, None, "verified", LATE, None)
SECOND = Claim(TWO, "b" * 64, MODEL, None, "verified", EARLY, None)


def test_of_two_verified_proofs_the_one_anchored_first_wins_even_within_a_block() -> None:
    assert (settle(FIRST, SECOND).winner, settle(SECOND, FIRST).winner) == ("second", "first")


def test_a_commitment_alone_does_not_win() -> None:
    assert settle(replace(FIRST, committed=Place("chain-1", 1, 1, 0)), SECOND).winner == "second"


@pytest.mark.parametrize(
    ("first", "second", "code", "winner"),
    [
        (FIRST, replace(SECOND, outcome="mismatch"), "only_verified", "first"),
        (replace(FIRST, outcome="could_not_check"), SECOND, "only_verified", "second"),
        (replace(FIRST, outcome="mismatch"), replace(SECOND, outcome="mismatch"), "none_verified", None),
        (FIRST, replace(SECOND, anchored=None), "only_anchored", "first"),
        (replace(FIRST, anchored=None), replace(SECOND, anchored=None), "not_anchored", None),
        (FIRST, replace(SECOND, anchored=replace(EARLY, chain="chain-2")), "different_chains", None),
        (FIRST, replace(SECOND, model="e" * 64), "different_models", None),
        (FIRST, FIRST, "same_proof", None),
        (replace(FIRST, parent=TWO), SECOND, "derived", None),
        (FIRST, replace(SECOND, parent=ONE, model="e" * 64), "derived", None),
    ],
)
def test_the_answer_says_why(first: Claim, second: Claim, code: str, winner: str | None) -> None:
    found = settle(first, second)
    assert (found.code, found.winner) == (code, winner)
    assert all(found.reasons)
    mirrored = settle(second, first)
    assert mirrored.code == code
    assert mirrored.winner == {"first": "second", "second": "first", None: None}[winner]

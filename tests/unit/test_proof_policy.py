"""Samples: what is drawn, that it cannot be steered, and what it is worth."""

from collections import Counter
from itertools import combinations
from math import isclose

import msgspec
import pytest

from proof_samples import sample
from tallystick.errors import Refused
from tallystick.proof.commitment import Commitment, default_segment
from tallystick.proof.policy import FULL, Listed, Sample, caught, chosen, default_count, detection, draw

PROOF = "1" * 64


def commitment(steps: int, segment: int | None = None) -> Commitment:
    length = segment or default_segment(steps)
    return msgspec.structs.replace(sample().commitment(), steps=steps, segment=length, roots_every=length)


def test_a_sample_has_the_ends_and_as_many_others_as_asked_for() -> None:
    for count in (0, 1, 5, 98):
        found = chosen(Sample(b"n", count), commitment(10_000), PROOF)
        assert {0, 133} <= set(found) and len(found) == count + 2 and found == sorted(set(found))
    assert chosen(Sample(b"n", 1000), commitment(10_000), PROOF) == list(range(134))


def test_a_sample_follows_from_nonce_and_proof() -> None:
    base = chosen(Sample(b"n", 20), commitment(10_000), PROOF)
    assert base == chosen(Sample(b"n", 20), commitment(10_000), PROOF)
    assert base != chosen(Sample(b"m", 20), commitment(10_000), PROOF)
    assert base != chosen(Sample(b"n", 20), commitment(10_000), "2" * 64)


def test_any_set_of_inner_segments_is_equally_likely() -> None:
    """5,000 draws of 2 out of 5: each of the 10 sets comes up 500 times, give or take five standard deviations."""
    drawn = Counter(tuple(sorted(draw(number.to_bytes(4, "big"), 7, 2))) for number in range(5000))
    assert set(drawn) == set(combinations(range(1, 6), 2))
    assert all(abs(count - 500) < 5 * (5000 * 0.1 * 0.9) ** 0.5 for count in drawn.values())


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_short_proofs_can_be_sampled(segments: int) -> None:
    assert chosen(Sample(b"n", 5), commitment(segments, 1), PROOF) == list(range(segments))


def test_by_default_short_proofs_are_checked_in_full_and_long_ones_to_three_percent() -> None:
    assert chosen(Sample(b"n"), commitment(200), PROOF) == list(range(commitment(200).segments))
    for steps in (10_000, 100_000, 10**6):
        asked = commitment(steps)
        found = chosen(Sample(b"n"), asked, PROOF)
        executed = sum(last - first for first, last in map(asked.bounds, found))
        assert len(found) == default_count(asked) + 2 and 0.025 * steps <= executed <= 0.027 * steps
    assert len(chosen(Sample(b"n"), commitment(1000), PROOF)) == 3


def test_probabilities_are_those_of_all_ways_to_draw() -> None:
    for pool, drawn, bad in [(6, 2, 1), (6, 2, 3), (6, 5, 2), (6, 0, 1), (6, 6, 1)]:
        ways = list(combinations(range(pool), drawn))
        met = sum(1 for way in ways if set(way) & set(range(bad)))
        assert isclose(caught(pool, drawn, bad), met / len(ways), abs_tol=1e-12)


def test_a_verdict_states_the_chance_for_a_prover_who_spares_the_ends() -> None:
    asked = commitment(10_000)
    found = detection(asked, chosen(Sample(b"n", 10), asked, PROOF), Sample(b"n", 10))
    assert [chance.bad for chance in found] == [1, 2, 7, 14]
    assert isclose(found[0].probability, 10 / 132)
    assert detection(asked, list(range(134)), FULL)[0].probability == 1.0
    assert isclose(detection(asked, [0, 5], Listed((0, 5)))[0].probability, 2 / 134)


def test_segments_that_are_not_there_are_refused() -> None:
    with pytest.raises(Refused, match="0 to 133"):
        chosen(Listed((3, 134)), commitment(10_000), PROOF)

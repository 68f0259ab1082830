"""Dealing and drawing: complete, proportional, and different for every key."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.ledger.assignment import deal, sample, shuffled

keys = st.binary(min_size=1, max_size=32)
weights = st.dictionaries(st.text("abcdef", min_size=1, max_size=6), st.integers(1, 2**62), min_size=1, max_size=12)


@given(keys, weights, st.integers(1, 200))
def test_every_slot_goes_to_somebody_and_no_share_is_off_by_one(key: bytes, shares: dict[str, int], slots: int) -> None:
    dealt = deal(key, list(shares.items()), slots)
    assert len(dealt) == slots
    counts, total = Counter(dealt), sum(shares.values())
    for worker, weight in shares.items():
        assert abs(counts[worker] * total - slots * weight) < total


@given(keys, weights, st.integers(1, 50))
def test_the_order_in_which_workers_are_listed_does_not_matter(key: bytes, shares: dict[str, int], slots: int) -> None:
    forward, backward = sorted(shares.items()), sorted(shares.items(), reverse=True)
    assert deal(key, forward, slots) == deal(key, backward, slots)


def test_a_small_worker_gets_its_share_in_the_long_run() -> None:
    """Fewer slots than workers, and one has slightly less at stake; the method of largest remainders would give it
    nothing, ever."""
    shares = [(worker, 100) for worker in "abcdefg"] + [("z", 99)]
    turns = Counter(worker for i in range(800) for worker in deal(b"key %d" % i, shares, 2))
    assert 150 < turns["z"] < 250  # 1600 slots for 8 workers
    assert all(150 < turns[worker] < 250 for worker in "abcdefg")


def test_the_deal_changes_with_the_key() -> None:
    shares = [("a", 1), ("b", 1)]
    assert len({tuple(deal(b"key %d" % i, shares, 20)) for i in range(20)}) == 20


def test_places_are_shuffled_and_not_in_runs() -> None:
    dealt = deal(b"key", [("a", 1), ("b", 1)], 100)
    runs = 1 + sum(left != right for left, right in itertools.pairwise(dealt))
    assert runs > 20


@given(keys, st.lists(st.text(), max_size=40))
def test_a_shuffle_keeps_every_entry(key: bytes, entries: list[str]) -> None:
    assert Counter(shuffled(key, entries)) == Counter(entries)


@given(keys, st.sets(st.integers(0, 4095), min_size=1, max_size=60), st.integers(1, 1000))
def test_a_draw_takes_its_share_rounded_up(key: bytes, candidates: set[int], permille: int) -> None:
    drawn = sample(key, sorted(candidates), permille)
    assert set(drawn) <= candidates and drawn == sorted(set(drawn))
    assert (len(drawn) - 1) * 1000 < permille * len(candidates) <= len(drawn) * 1000


@pytest.mark.parametrize("index", [0, 31])
def test_every_candidate_is_drawn_about_as_often(index: int) -> None:
    hits = sum(index in sample(b"key %d" % i, range(32), 250) for i in range(400))
    assert 70 < hits < 130  # 100 on average, with a standard deviation of 9

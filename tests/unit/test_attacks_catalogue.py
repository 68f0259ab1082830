"""The catalogue is whole, and what can be run is run."""

import re
from collections import Counter

import pytest

from tallystick.proof.attacks.catalogue import ROWS
from tallystick.proof.attacks.forgeries import FORGERIES
from tallystick.proof.attacks.history import BAD_SEGMENT
from tallystick.proof.attacks.run import ATTACKS
from tallystick.proof.attacks.sampling import TRIALS, measure, wilson
from tallystick.proof.commitment import Commitment
from tallystick.proof.policy import chosen, draw


def test_every_row_is_there_and_says_where_it_stands() -> None:
    assert [row.number for row in ROWS] == list(range(1, 29))
    for row in ROWS:
        assert row.name and row.source and row.gain and row.defense
        assert (row.standing == "run") == any(attack.row == row.number for attack in ATTACKS), row
        assert row.standing == "run" or row.note


def test_attacks_have_names_and_codes_of_their_own() -> None:
    assert len({(attack.row, attack.name) for attack in ATTACKS}) == len(ATTACKS)
    assert all(re.fullmatch("[a-z0-9_]+", attack.code) for attack in ATTACKS)
    assert set(FORGERIES) <= {attack.row for attack in ATTACKS}


def commitment() -> Commitment:
    digest = "0" * 64
    return Commitment(
        format="tallystick-proof-v3",
        spec=digest,
        program=digest,
        arithmetic="exact-v1",
        profile="full",
        data=digest,
        initial=digest,
        steps=40,
        segment=5,
        roots_every=5,
        parent=None,
        attempt=1,
        network=None,
        task=None,
    )


def test_one_bad_segment_is_drawn_as_often_as_the_verdict_says() -> None:
    """The nonces are fixed, so this either holds or does not; the segment is that of row 18."""
    measured = list(measure(commitment(), "1" * 64, BAD_SEGMENT))
    assert [(m.segments, m.drawn) for m in measured] == [(8, 1), (8, 2), (8, 4), (102, 1), (102, 10), (102, 50)]
    for m in measured:
        assert m.trials == TRIALS == 2000
        assert m.expected == pytest.approx(m.drawn / (m.segments - 2))
        assert m.within, m


def test_no_segment_is_favored() -> None:
    """A 95 % interval must miss one time in twenty; all segments together are held to Pearson's statistic."""
    segments, drawn, trials = 102, 10, 2000
    met = Counter(index for trial in range(trials) for index in draw(trial.to_bytes(8, "big"), segments, drawn))
    inner = segments - 2
    expected = trials * drawn / inner
    square = sum((met[index] - expected) ** 2 for index in range(1, segments - 1)) / (expected * (1 - drawn / inner))
    assert set(met) == set(range(1, segments - 1))
    assert square * (inner - 1) / inner < 149  # exceeded with probability 0.001 at 99 degrees of freedom


def test_the_ends_are_always_drawn() -> None:
    assert all(m.met == m.trials for m in measure(commitment(), "1" * 64, 0, trials=20))


def test_a_draw_that_spares_a_segment_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defense removed: a sampler that never draws one segment is far outside of the interval."""
    from tallystick.proof.attacks import sampling

    monkeypatch.setattr(sampling, "chosen", lambda *given: [index for index in chosen(*given) if index != 3])
    assert not any(m.within for m in measure(commitment(), "1" * 64, 3) if m.drawn > 1)


def test_wilsons_interval() -> None:
    low, high = wilson(50, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)
    assert wilson(0, 2000)[0] < 1e-9 and wilson(2000, 2000)[1] > 1 - 1e-9

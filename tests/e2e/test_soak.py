"""The soak of real validators, for some seconds: it starts, inflicts faults, and nothing is lost."""

from benchmarks.soak import soak


def test_a_short_soak_loses_nothing() -> None:
    rows = {row.what: row for row in soak(0.2, seed=1)}
    assert "0 acknowledged" not in rows["10 s windows with progress"].note
    assert rows["lost or executed twice"].ours == 0, rows["lost or executed twice"].note

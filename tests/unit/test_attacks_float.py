"""What the tolerant verifier and that of 2021 say to the same attacks, and the command that shows all three."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
import torch
from typer.testing import CliRunner

from tallystick.cli.main import app
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks.attempt import Attack, Finding
from tallystick.proof.attacks.forgeries import FORGERIES
from tallystick.proof.attacks.records import (
    FloatBench,
    Forgery,
    ask_2021,
    ask_tolerant,
    make_float_bench,
    make_record,
    setup_on,
)

CAUGHT: Final = {
    1: "wrong_settings",
    2: "wrong_weights",
    3: "wrong_data",
    4: "wrong_start",
    5: "wrong_start",
    6: "wrong_weights",
    7: "wrong_slots",
    8: "wrong_buffers",
    9: "wrong_settings",
    11: "wrong_data",
    12: "wrong_order",
    13: "wrong_weights",
    18: "wrong_weights",
    19: "wrong_weights",
    20: "not_finite",
    23: "wrong_weights",
}
"""Row to what the tolerant verifier says if it replays every segment."""
OPEN: Final = {10, 14, 16, 17}
"""Rows that it accepts."""
CAUGHT_IN_2021: Final = {5: "unlikely_start", 6: "distance", 13: "distance", 19: "distance", 23: "distance"}
"""Rows that the verifier of 2021 does not accept."""


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FloatBench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        folder = tmp_path_factory.mktemp("floats")
        yield make_float_bench(b.make_bench(folder), folder / "float")
    torch.set_num_threads(threads)


def test_both_accept_an_honest_record(floats: FloatBench, tmp_path: Path) -> None:
    honest = Forgery(make_record(tmp_path / "honest", setup_on(floats.data)))
    assert ask_tolerant(floats, honest) == Finding("accepted", "consistent")
    assert ask_2021(floats, honest) == Finding("accepted", "valid")


@pytest.mark.parametrize("row", FORGERIES)
def test_what_they_say(floats: FloatBench, tmp_path: Path, row: int) -> None:
    forgery = FORGERIES[row](floats, tmp_path / "forgery")
    tolerant = Finding("accepted", "consistent") if row in OPEN else Finding("caught", CAUGHT[row])
    assert ask_tolerant(floats, forgery) == tolerant
    answer = Finding("caught", CAUGHT_IN_2021[row]) if row in CAUGHT_IN_2021 else Finding("accepted", "valid")
    assert ask_2021(floats, forgery) == answer


def test_the_command_shows_one_row(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["attacks", "--only", "22", "--json", str(tmp_path / "a.json"), "--quiet"])
    assert done.exit_code == 0, done.output
    assert "caught (opening_refused)" in done.output
    [row] = msgspec.json.decode((tmp_path / "a.json").read_bytes())["results"]
    assert (row["row"], row["exact"], row["exact_why"]) == (22, "caught", "opening_refused")


def test_the_command_fails_if_an_attack_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attack, "ask", lambda attack, bench, path: Finding("accepted", "verified"))
    done = CliRunner().invoke(app, ["attacks", "--only", "22", "--quiet"])
    assert done.exit_code == 2, done.output
    assert "ACCEPTED" in done.output

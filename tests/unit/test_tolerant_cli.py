"""`tallystick calibrate` and `tallystick check-record` beside the example that the documentation runs."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tallystick.cli.main import app
from tolerant_samples import train

TRAINING = """
from tolerant_samples import setup
"""
EXAMPLE = Path(__file__).parents[2] / "examples/tolerant/digits.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    for seed in (1, 2):
        train(path / f"run-{seed}", seed)
    (path / "training.py").write_text(TRAINING)
    result = call("calibrate", path / "run-1", path / "run-2", "--training", path / "training.py",
                  "--out", path / "tolerance.json", "--replays", 3)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "d_ref of 2 models" in result.output
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def check(folder: Path, record: str, *options: object) -> Result:
    files = ("--training", folder / "training.py", "--tolerance", folder / "tolerance.json")
    return call("check-record", folder / record, *files, "--samples", 2, *options)


def test_a_consistent_record_exits_with_3_and_names_the_open_attacks(folder: Path) -> None:
    result = check(folder, "run-1", "--html", folder / "report.html")
    assert (result.exit_code, result.output.splitlines()[0]) == (3, "consistent within tolerance")
    page = (folder / "report.html").read_text()
    for said in (result.output, page):
        assert "steering within the tolerance" in said and "verified" not in said


def test_the_printed_nonce_draws_the_same_samples_again(folder: Path) -> None:
    first = json.loads(check(folder, "run-1", "--json").output)["report"]
    second = json.loads(check(folder, "run-1", "--json", "--nonce", first["nonce"]).output)["report"]
    assert first == second
    assert {attack["standing"] for attack in first["attacks"]} == {"open", "narrowed"}


def test_a_mismatch_exits_with_2(folder: Path) -> None:
    (folder / "other.py").write_text("from tolerant_samples import adam_setup as setup\n")
    result = call("check-record", folder / "run-1", "--training", folder / "other.py",
                  "--tolerance", folder / "tolerance.json")  # fmt: skip
    assert (result.exit_code, result.output.splitlines()[0]) == (2, "mismatch")


def test_what_cannot_be_read_exits_with_1(folder: Path) -> None:
    assert check(folder, "nowhere").exit_code == 1
    assert check(folder, "run-1", "--nonce", "later").exit_code == 1
    (folder / "empty.py").write_text("")
    assert call("check-record", folder / "run-1", "--training", folder / "empty.py",
                "--tolerance", folder / "tolerance.json").exit_code == 1  # fmt: skip


def test_verify_says_what_a_record_is(folder: Path) -> None:
    result = call("verify", folder / "run-1")
    assert result.exit_code == 1 and "check-record" in result.output


def test_code_in_the_record_is_never_run(folder: Path) -> None:
    (folder / "run-2" / "training.py").write_text("raise SystemExit('executed')")
    assert check(folder, "run-2").exit_code == 3


def test_the_example_records_and_is_its_own_training_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["digits.py", str(tmp_path / "run"), "--epochs", "1"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert (tmp_path / "run" / "signature").exists()

"""What the command says and returns when it is used wrongly: one line or a frame, exit status 1, never a traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lying_validator import World, listening

from proof_samples import sample
from tallystick.cli.main import main
from tallystick.ledger.transactions import MAX_AMOUNT
from tallystick.network.task_file import MAX_TASK_FILE_BYTES, TaskFileError, load_task_file


def said(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tallystick", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    code = left.value.code or 0
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "proof", "--sample", "-1"], "greater than or equal to 0"),
        (["verify"], "Missing argument"),
        (["nosuch"], "No such command"),
        (["verify", "proof", "--spec", "abc"], "--spec abc: is not a SHA-256"),
        (["verify", "proof", "--html", "/nosuch/report.html"], "--html /nosuch/report.html: a file cannot be written"),
        (["verify", "proof", "--html", "/"], "--html /: a file cannot be written"),
        (["attacks", "--json", "/nosuch/a.json"], "--json /nosuch/a.json: a file cannot be written"),
        (["dispute", "play", "p", "--key", "k", "--join", "h:1"], "k: No such file"),
        (["dispute", "host", "nosuch", "--key", "k"], "k: No such file"),
        (["lab", "consensus", "--planted", "all", "--ledger"], "leave out --ledger"),
        (["lab", "consensus", "--planted", ""], "no such bug; there are"),
        (["lab", "consensus", "--seeds", "3.."], "give a first and a last seed"),
        (["init", "net", "--epoch-length", str(2**20 + 32)], "should be less than or"),
        (["transfer", "0" * 64, str(MAX_AMOUNT + 1), "--key", "k", "--join", "u"], "should be less than or"),
        (["transfer", "0" * 64, str(MAX_AMOUNT), "--key", "k", "--join", "u"], "k: No such file"),
        (
            ["check-transaction", "0" * 64, "--genesis", "g", "--join", "u", "--height", "9" * 26],
            "should be less than or",
        ),
        (["balance", "0" * 64, "--join", "http://[::1"], "no URL"),
        (["validator", "deposit", "nohome", "5", "--join", "u"], "nohome: no such folder"),
        (["balance", "--join", "u"], "name an identity, or a key file with --key"),
        (["lab", "consensus", "--planted", "all", "--n", "4"], "every seed draws its size; leave out --n"),
        (["lab", "consensus", "--planted", "all", "--jobs", "2"], "leave out --jobs"),
        (["lab", "consensus", "--planted", "all", "--transcript"], "leave out --transcript"),
        (["lab", "consensus", "--seeds", "1..3", "--transcript"], "--transcript: tells the story of a single seed"),
        (["lab", "consensus", "--seeds", "1..1", "--transcript", "--json", "r.json"], "leave out --json"),
        (["lab", "consensus", "--seeds", "1..1", "--transcript", "--jobs", "2"], "leave out --jobs"),
        (["lab", "consensus", "--seeds", "0..0", "--n", "-1"], "--n -1: clusters have 4 to 29 validators"),
        (["lab", "consensus", "--seeds", "0..0", "--n", "3"], "--n 3: clusters have 4 to 29 validators"),
        (["lab", "consensus", "--seeds", "0..0", "--n", "30"], "--n 30: clusters have 4 to 29 validators"),
        (
            ["lab", "consensus", "--seeds", "0..0", "--json", "/nosuch/r.json"],
            "--json /nosuch/r.json: a file cannot be",
        ),
        (["lab", "consensus", "--planted", "primary_for_ever", "--seeds", "7..7", "--json", "/"], "--json /: a file"),
    ],
)
def test_wrong_usage_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit status 2 means mismatch, and whoever mistypes an option has not found one."""
    assert said(monkeypatch, *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert said(monkeypatch, "dispute", "host", str(tmp_path / "file"), "--key", str(tmp_path / "file")) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_help_and_version_are_no_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(monkeypatch, "--version") == 0 and said(monkeypatch, "verify", "--help") == 0
    assert "Exit status" in capsys.readouterr().out


def test_brackets_in_a_help_text_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(monkeypatch, "train", "--help") == 0
    assert "[reward]" in capsys.readouterr().out


def test_a_narrow_terminal_shows_whole_urls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert said(monkeypatch, "validator", "status", "--join", "http://127.0.0.1:1/a/long/path") == 1
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert "".join(rows) == "127.0.0.1:1/a/long/path"


def test_a_validator_is_one_line_of_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with listening(World(height=12_345_678)) as url:
        assert said(monkeypatch, "validator", "status", "--join", url) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "12345678" in line)
    assert row.split() == [url.removeprefix("http://"), "12345678", "0", "0", "0/0", "0", "0", "votes"]


def test_a_task_file_without_end_is_not_read() -> None:
    with pytest.raises(TaskFileError, match=str(MAX_TASK_FILE_BYTES)):
        load_task_file(Path("/dev/zero"))


def test_a_mismatch_is_still_2(tmp_path: Path) -> None:
    sample().write(tmp_path / "proof")
    command = [sys.executable, "-m", "tallystick.cli.main", "verify", str(tmp_path / "proof"), "--spec", "0" * 64]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "unwanted_spec" in done.stdout


def test_ctrl_c_during_the_imports_ends_the_process_without_a_word() -> None:
    program = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupting(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "tallystick.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from tallystick.cli import entry
entry.main()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (-signal.SIGINT, b"", b"")

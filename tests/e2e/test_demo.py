"""The demonstration as a user runs it, and as a user interrupts it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def command(out: Path) -> list[str]:
    task = ROOT / "examples" / "digits" / "task.toml"
    return [sys.executable, "-m", "tallystick.cli.main", "demo", "--plain", "--out", str(out), "--task", str(task)]


def processes_of(out: Path) -> list[str]:
    """Command lines of living processes that mention `out`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(out) in line:
                found.append(line)
    return found


def test_the_demo_shows_everything_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    run = subprocess.run(command(out), capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["root"] == summary["reference_root"]
    assert summary["test_accuracy"] >= 0.95
    assert summary["verdict"] == "verified"
    assert {(c["worker"], c["reason"]) for c in summary["caught"]} == {
        ("worker-0", "wrong_contribution"),
        ("worker-1", "commitment_does_not_open"),
    }
    assert all(c["height"] > 0 for c in summary["caught"])
    worker, backup, primary = summary["killed"]  # the backup is back by then, and may be the primary that is killed
    assert worker == "worker-5" and "validator-" in backup and "validator-" in primary
    assert f"{backup} killed with SIGKILL" in run.stdout and f"{backup} started again" in run.stdout
    assert 0 < summary["failover_seconds"] < 30
    assert f"{primary}, the primary, killed with SIGKILL" in run.stdout
    assert "is primary now: blocks go on" in run.stdout
    assert summary["conserved"] is True
    assert len(summary["heights"]) == 4
    assert len(set(summary["heights"].values())) == 1
    assert summary["payouts"]["worker-2"] > 0
    assert "worker-0" not in summary["payouts"]
    assert processes_of(out) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "demo-out"
    with subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "tracing the model" in line:
                assert len(processes_of(out)) > 10
                demo.send_signal(number)
        assert demo.wait(30) != 0
    assert processes_of(out) == []


def test_the_demo_does_not_empty_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    run = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert "not a demonstration's" in run.stderr
    assert (tmp_path / "thesis.txt").exists()

"""`tallystick train`, `pack` and `verify` as a user meets them: files, exit codes, JSON, Ctrl-C."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tallystick.cli.train import curve

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
STEPS = 30


def tallystick(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tallystick.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr[-2000:]
    return done


def task(folder: Path, **changes: str) -> Path:
    """The digits with fewer steps and no reward, and other fields replaced."""
    for name in ("model.py", "digits.safetensors"):
        (folder / name).write_bytes((EXAMPLE / name).read_bytes())
    text = (EXAMPLE / "task.toml").read_text().partition("[reward]")[0]
    for field, value in {"steps": str(STEPS), "micro_batches": "2", **changes}.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{field} ="))
        text = text.replace(line, f"{field} = {value}")
    (folder / "task.toml").write_text(text)
    return folder / "task.toml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    done = tallystick("train", str(task(folder)), "--out", str(folder / "proof"), "--json")
    result = json.loads(done.stdout)
    assert (result["finished"], result["step"], result["steps"]) == (True, STEPS, STEPS)
    assert "proof.key" in done.stderr
    return folder / "proof"


def test_a_training_without_reward_makes_a_proof_that_verifies(trained: Path, tmp_path: Path) -> None:
    done = tallystick("verify", str(trained), "--json", "--html", str(tmp_path / "report.html"))
    verdict = json.loads(done.stdout)
    assert (verdict["outcome"], verdict["steps"], verdict["coverage"]) == ("verified", STEPS, 1.0)
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_the_published_part_asks_for_what_it_lacks(trained: Path, tmp_path: Path) -> None:
    core = str(tmp_path / "core")
    tallystick("pack", str(trained), core, "--without-data")
    assert "missing_data" in tallystick("verify", core, code=1).stdout
    data = ("--data", str(trained / "train.safetensors"))
    assert "missing_checkpoint" in tallystick("verify", core, *data, code=1).stdout
    assert tallystick("verify", core, *data, "--segments", "0").stdout.startswith("verified")


def test_a_training_starts_from_its_parent_and_is_verified_with_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where verdicts on parents are remembered
    child = str(tmp_path / "child")
    tallystick("train", str(task(tmp_path, steps="3")), "--out", child, "--parent", str(trained), "-q")
    assert "missing_parent" in tallystick("verify", child, code=1).stdout
    assert tallystick("verify", child, "--alone").stdout.startswith("verified")
    together = json.loads(tallystick("verify", child, "--parent", str(trained), "--json").stdout)
    assert (together["outcome"], len(together["parents"])) == ("verified", 1)
    assert (
        tmp_path / "home" / ".cache" / "tallystick" / "verdicts" / f"{together['parents'][0]['proof']}.json"
    ).exists()


def test_options_that_exclude_each_other_are_refused(trained: Path) -> None:
    assert "exclude each other" in tallystick("verify", str(trained), "--full", "--sample", "1", code=1).stderr


def test_ctrl_c_stops_after_the_step_and_the_same_command_resumes(trained: Path, tmp_path: Path) -> None:
    """The signal comes when the first of twenty segments is on disk."""
    arguments = [
        "train",
        str(task(tmp_path, steps="400")),
        "--out",
        str(tmp_path / "proof"),
        "--key",
        str(trained) + ".key",
    ]
    command = [sys.executable, "-m", "tallystick.cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = tmp_path / "proof" / "segments.jsonl"
        while process.poll() is None and not (lines.exists() and lines.stat().st_size):
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Run the same command to resume" in said, said
    assert not (tmp_path / "proof" / "signature").exists()
    done = tallystick(*arguments)
    assert "resumed at step" in done.stderr and "check it with" in done.stdout
    assert (tmp_path / "proof" / "signature").exists()


def test_ctrl_c_ends_a_verification_by_several_processes(trained: Path) -> None:
    """It comes as a terminal sends it, to all of them, and while those that re-execute are still importing."""
    command = [sys.executable, "-m", "tallystick.cli.main", "verify", str(trained), "--full", "--jobs", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and len(children.read_text().split()) < 3:  # one of them counts semaphores
            os.sched_yield()
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)  # until none of them holds standard error any more
    assert (process.returncode, said) == (130, "")


def test_another_task_is_not_put_into_a_proof_that_was_begun(trained: Path, tmp_path: Path) -> None:
    other = str(task(tmp_path, seed="5"))
    assert "other_commitment" in tallystick("train", other, "--out", str(trained), code=1).stderr


def test_data_that_cannot_be_trained_on_leaves_no_key_behind(tmp_path: Path) -> None:
    path = task(tmp_path)
    save_file({"train.x": torch.tensor([math.nan]), "train.y": torch.tensor([0])}, tmp_path / "digits.safetensors")
    path.write_text(path.read_text().replace('test = { x = "test.x", y = "test.y" }', ""))
    said = tallystick("train", str(path), "--out", str(tmp_path / "proof"), code=1).stderr
    assert "digits.safetensors: train.x holds an infinity or a NaN" in said
    assert not list(tmp_path.glob("*.key"))


def test_a_training_that_diverges_says_where_and_what_to_do(tmp_path: Path) -> None:
    wild = str(task(tmp_path, learning_rate='"999999999"'))
    said = " ".join(tallystick("train", wild, "--out", str(tmp_path / "proof"), code=2).stderr.split())
    assert "has diverged" in said and "aten." in said and "lower the learning rate" in said
    assert list((tmp_path / "proof").glob("last-good-*.safetensors"))


def test_a_curve_has_a_block_for_each_stretch() -> None:
    assert curve([1.0]) == "▁" and len(curve([float(n) for n in range(500)])) == 60
    assert curve([2.0, 1.0]) == "█▁"

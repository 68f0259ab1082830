"""Recording: killed at any moment it goes on to the same proof, and nobody else's is ever continued."""

import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from proof_samples import ATTACKER, PROVER, SEGMENT, STEPS, nudged, sample
from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import encode_spec
from tallystick.program.tensors import from_blob, to_blob
from tallystick.program.training import initial_state, state_specs, train_step
from tallystick.proof import manifest as m
from tallystick.proof.recorder import DivergedError, Recorder, train
from tallystick.proof.transcript import LINK_BYTES
from tallystick.proof.writer import ProofExistsError

KILLS = 12
NURSERY = """
import os
import sys
from pathlib import Path
import torch
from proof_samples import PROVER, sample
from tallystick.proof.recorder import Recorder, train
torch.set_num_threads(1)
run = sample()
for line in sys.stdin:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("gone", flush=True)
        continue
    print(os.getpid(), flush=True)
    for number in range(int(line), int(line) + 1000):
        os.write(1, b"%d\\n" % number)  # one write: whoever is killed has said all of it or nothing
        with Recorder(Path(sys.argv[1]) / str(number), PROVER, run.run, run.commitment(segment=1)) as recorder:
            train(recorder)
"""
"""Starts one process after another that writes proof after proof, without importing everything anew each time."""


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "proof"
    sample().write(path)
    return path


def recorded(path: Path, steps: int) -> None:
    """The first steps of the sample's proof, as a process leaves it that is stopped in order."""
    with Recorder(path, PROVER, sample().run, sample().commitment()) as recorder:
        while recorder.step < steps:
            recorder.add(*train_step(sample().training, recorder.state, recorder.step))


def finished(path: Path) -> int:
    """Trains to the end; returns the step at which it went on."""
    with Recorder(path, PROVER, sample().run, sample().commitment()) as recorder:
        began = recorder.step
        assert train(recorder)
    return began


def test_a_process_killed_at_any_moment_leaves_a_proof_that_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL at random moments of a loop that writes one proof after another; each is then resumed and compared."""
    sample().write(tmp_path / "whole", sample().commitment(segment=1))
    wanted = contents(tmp_path / "whole")
    moments, number, resumed = random.Random(7), 0, []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", NURSERY, str(tmp_path)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        for _ in range(KILLS):
            nursery.stdin.write(f"{number}\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            number = int(nursery.stdout.readline())
            threading.Event().wait(moments.uniform(0.0, 0.8))
            os.kill(child, signal.SIGKILL)
            for line in iter(nursery.stdout.readline, "gone\n"):
                number = int(line)
            with Recorder(tmp_path / str(number), PROVER, sample().run, sample().commitment(segment=1)) as recorder:
                resumed.append(recorder.step)
                train(recorder)
            assert contents(tmp_path / str(number)) == wanted
            number += 1
    assert len(set(resumed)) > 1, f"the kills all fell on the same steps: {resumed}"


@pytest.mark.parametrize("steps", range(STEPS + 1))
def test_a_stopped_training_goes_on_at_the_last_boundary(whole: Path, tmp_path: Path, steps: int) -> None:
    recorded(tmp_path / "proof", steps)
    assert finished(tmp_path / "proof") == (steps if steps == STEPS else steps // SEGMENT * SEGMENT)
    assert contents(tmp_path / "proof") == contents(whole)


@pytest.mark.parametrize("name", [m.TRANSCRIPT, m.SEGMENTS])
@pytest.mark.parametrize("left", [0, 1, 40, 3 * LINK_BYTES, 3 * LINK_BYTES + 7, 1000])
def test_whatever_a_crash_leaves_of_a_file_the_rest_is_made_again(
    whole: Path, tmp_path: Path, name: str, left: int
) -> None:
    """A file system may keep less of the last appends than was written, or something else in their place."""
    recorded(tmp_path / "proof", 6)
    data = (tmp_path / "proof" / name).read_bytes()
    (tmp_path / "proof" / name).write_bytes(data[:left] + b"\0" * 5)
    assert finished(tmp_path / "proof") in {0, 3, 6}
    assert contents(tmp_path / "proof") == contents(whole)


def test_a_crash_before_the_signature_is_made_good(whole: Path, tmp_path: Path) -> None:
    for missing in ([m.SIGNATURE], [m.SIGNATURE, m.MANIFEST]):
        path = tmp_path / str(len(missing))
        sample().write(path)
        for name in missing:
            (path / name).unlink()
        assert finished(path) == STEPS
        assert contents(path) == contents(whole)


def test_a_finished_proof_is_not_touched(whole: Path, tmp_path: Path) -> None:
    sample().write(tmp_path / "proof")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "proof").rglob("*")}
    assert finished(tmp_path / "proof") == STEPS
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "proof").rglob("*")}


def test_a_signed_proof_that_is_not_whole_is_not_continued(tmp_path: Path) -> None:
    sample().write(tmp_path / "proof")
    os.truncate(tmp_path / "proof" / m.TRANSCRIPT, 4 * LINK_BYTES)
    with pytest.raises(Refused, match="broken_proof"):
        finished(tmp_path / "proof")


def test_a_checkpoint_that_was_changed_is_not_continued_from(tmp_path: Path) -> None:
    recorded(tmp_path / "proof", 5)
    false = to_blob(nudged(sample().final, "parameter/0.bias"))
    (tmp_path / "proof" / m.CHECKPOINTS / "00000003.safetensors").write_bytes(false)
    with pytest.raises(Refused, match="wrong_digest"):
        finished(tmp_path / "proof")


def test_two_trainings_cannot_write_one_proof(tmp_path: Path) -> None:
    with (
        Recorder(tmp_path / "proof", PROVER, sample().run, sample().commitment()),
        pytest.raises(ProofExistsError, match="another process is writing"),
    ):
        Recorder(tmp_path / "proof", PROVER, sample().run, sample().commitment())
    assert finished(tmp_path / "proof") == 0


def test_another_key_cannot_continue(tmp_path: Path) -> None:
    recorded(tmp_path / "proof", 4)
    with pytest.raises(Refused, match="other_prover"):
        Recorder(tmp_path / "proof", ATTACKER, sample().run, sample().commitment())
    assert finished(tmp_path / "proof") == 3  # and the lock was let go of


@pytest.mark.parametrize("change", [{"attempt": 2}, {"segment": 2, "roots_every": 2}, {"roots_every": 1}])
def test_another_commitment_cannot_be_continued(tmp_path: Path, change: dict[str, int]) -> None:
    recorded(tmp_path / "proof", 4)
    other = msgspec.structs.replace(sample().commitment(), **change)
    with pytest.raises(Refused, match=f"begun with {next(iter(change))}") as refused:
        Recorder(tmp_path / "proof", PROVER, sample().run, other)
    assert refused.value.code == "other_commitment"


def test_a_training_that_is_told_to_stop_says_so(tmp_path: Path) -> None:
    seen: list[int] = []
    with Recorder(tmp_path / "proof", PROVER, sample().run, sample().commitment()) as recorder:
        assert not train(recorder, lambda step, steps, loss: seen.append(step), lambda: len(seen) == 4)
        assert (recorder.step, recorder.durable, recorder.finished) == (4, 3, False)
    assert finished(tmp_path / "proof") == 3


def test_a_proof_is_not_finished_before_its_last_step(tmp_path: Path) -> None:
    with (
        Recorder(tmp_path / "proof", PROVER, sample().run, sample().commitment()) as recorder,
        pytest.raises(ValueError, match="0 of 8 steps"),
    ):
        recorder.finish()


def test_what_goes_wrong_beside_the_training_stops_it(tmp_path: Path) -> None:
    """A folder in the place of a checkpoint stands for a disk that is full."""
    with Recorder(tmp_path / "proof", PROVER, sample().run, sample().commitment()) as recorder:
        (tmp_path / "proof" / m.CHECKPOINTS / "00000003.safetensors").mkdir()
        with pytest.raises(OSError, match="00000003"):
            train(recorder)


def test_a_training_that_diverges_names_the_place_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    old = sample().training
    spec = msgspec.structs.replace(old.spec, learning_rate=ConstantRate("999999999"))
    training = replace(old, spec=spec)
    parameters = {name: sample().initial[f"parameter/{name}"] * 1e15 for name in training.parameters}
    slots = {name: sample().initial[f"slot/{name}"] for name in training.slots}
    run = replace(sample().run, training=training, initial=initial_state(training, parameters, slots))
    commitment = msgspec.structs.replace(sample().commitment(), spec=blob_name(encode_spec(spec)))
    with Recorder(tmp_path / "proof", PROVER, run, commitment) as recorder:
        with pytest.raises(DivergedError, match=r"step 1, .*aten\..*learning rate") as diverged:
            train(recorder)
        good = recorder.state
    path = tmp_path / "proof" / "last-good-00000001.safetensors"
    assert str(path) in str(diverged.value)
    kept = from_blob(path.read_bytes(), state_specs(training.program), "last good state")
    assert all(torch.equal(kept[name], good[name]) for name in good)
    assert not torch.equal(kept["parameter/0.weight"], run.initial["parameter/0.weight"])

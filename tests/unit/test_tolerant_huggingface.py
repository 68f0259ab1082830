"""The callback beside the real Hugging Face Trainer."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="accelerate is not installed; the Trainer needs it (extra: huggingface)")

from transformers import TrainerCallback

from tallystick.proof.tolerant.calibrate import calibrate
from tallystick.proof.tolerant.huggingface import ProofCallback, run_of
from tallystick.proof.tolerant.record import SIGNATURE
from tallystick.proof.tolerant.recorder import RecordError
from tallystick.proof.tolerant.run import Setup
from tallystick.proof.tolerant.tolerance import Tolerance
from tallystick.proof.tolerant.verify import Policy, check_record
from tolerant_samples import PROVER, read

build: Any = runpy.run_path(str(Path(__file__).parents[2] / "examples/tolerant/with_trainer.py"))["build"]
pytestmark = pytest.mark.filterwarnings("default")  # of the libraries, which are not ours to fix
SMALL: dict[str, Any] = {"num_train_epochs": 2, "max_steps": 14, "lr_scheduler_type": "constant_with_warmup"}


def recorded(path: Path, seed: int, **arguments: Any) -> Setup:
    """Trains with a record and returns the verifier's `setup` for the same arguments."""
    trainer = build(seed, **{**SMALL, **arguments})
    trainer.add_callback(ProofCallback(path, interval=4, key=PROVER))
    trainer.train()
    return lambda seed: run_of(build(seed, **{**SMALL, **arguments}))


def checked(path: Path, setup: Setup, tolerance: Tolerance) -> tuple[str, str]:
    report = check_record(path, setup, Policy(tolerance, b"nonce", q=1, samples=9))
    return report.outcome, report.code


@pytest.mark.parametrize(
    "arguments", [{}, {"gradient_accumulation_steps": 3, "max_grad_norm": 0.1, "dataloader_num_workers": 1}]
)
def test_what_the_trainer_did_is_replayed(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Also with accumulated and clipped gradients, and a loader that draws ahead in another process."""
    setup = recorded(tmp_path / "1", 1, **arguments)
    recorded(tmp_path / "2", 2, **arguments)
    tolerance = calibrate([tmp_path / "1", tmp_path / "2"], setup, replays=2)
    assert checked(tmp_path / "1", setup, tolerance) == ("consistent_within_tolerance", "consistent")
    faster: Setup = lambda seed: run_of(build(seed, **{**SMALL, **arguments, "learning_rate": 6e-3}))  # noqa: E731
    assert checked(tmp_path / "1", faster, tolerance) == ("mismatch", "wrong_settings")


class Interrupt(TrainerCallback):
    """Breaks training off, as a kill would, after the Trainer saved."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt


def interrupted(path: Path, folder: Path, save_steps: int) -> Any:
    """A trainer that was broken off in its second epoch (10 steps are 1.4 epochs), built again to go on."""
    saving = {**SMALL, "output_dir": str(folder), "save_strategy": "steps", "save_steps": save_steps}
    for stop in (True, False):
        trainer = build(1, **saving)
        trainer.add_callback(ProofCallback(path, interval=4, key=PROVER))
        if stop:
            trainer.add_callback(Interrupt(save_steps))
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
    return trainer


def test_a_resumed_training_goes_on_with_its_record(tmp_path: Path) -> None:
    recorded(tmp_path / "whole", 1)
    trainer = interrupted(tmp_path / "parts", tmp_path / "out", save_steps=8)
    trainer.train(resume_from_checkpoint=True)
    whole, parts = read(tmp_path / "whole"), read(tmp_path / "parts")
    assert [entry.indices for entry in parts.entries] == [entry.indices for entry in whole.entries]
    assert parts.chain == whole.chain


def test_a_training_that_resumes_between_checkpoints_of_the_record_is_refused(tmp_path: Path) -> None:
    trainer = interrupted(tmp_path / "parts", tmp_path / "out", save_steps=6)
    with pytest.raises(RecordError, match="save the run every 4 steps"):
        trainer.train(resume_from_checkpoint=True)
    assert not (tmp_path / "parts" / SIGNATURE).exists()


def test_a_state_that_is_not_the_recorded_one_is_not_gone_on_with(tmp_path: Path) -> None:
    trainer = interrupted(tmp_path / "parts", tmp_path / "out", save_steps=8)
    from safetensors.torch import load_file, save_file

    file = next((tmp_path / "out").glob("checkpoint-8/model.safetensors"))
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + torch.ones_like(weights[name])}, file, metadata={"format": "pt"})
    with pytest.raises(RecordError, match="is not the recorded one"):
        trainer.train(resume_from_checkpoint=True)

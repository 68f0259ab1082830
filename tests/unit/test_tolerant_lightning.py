"""The callback beside the real Lightning."""

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning", reason="lightning is not installed (extra: lightning)")

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from tallystick.proof.tolerant.calibrate import calibrate
from tallystick.proof.tolerant.lightning import ProofCallback, run_of
from tallystick.proof.tolerant.recorder import RecordError
from tallystick.proof.tolerant.run import Run, Setup
from tallystick.proof.tolerant.verify import Policy, check_record
from tallystick.proof.tolerant.watching import watch
from tolerant_samples import PROVER, read

build: Any = runpy.run_path(str(Path(__file__).parents[2] / "examples/tolerant/with_lightning.py"))["build"]
pytestmark = pytest.mark.filterwarnings("default")  # of the library, which are not ours to fix
BATCH, STEPS_PER_EPOCH = 128, 15  # of 1,797 digits


def parts(seed: int, workers: int = 0) -> tuple[Any, DataLoader[Any]]:
    module, loader = build(seed)
    return module, DataLoader(loader.dataset, batch_size=BATCH, shuffle=True, num_workers=workers)


def fit(path: Path, seed: int, module: Any, loader: DataLoader[Any], ckpt: str | None = None, **options: Any) -> None:
    callbacks = [ProofCallback(path, seed=seed, interval=5, key=PROVER), *options.pop("callbacks", [])]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(
        **{"max_epochs": 2, "enable_checkpointing": bool(options.get("default_root_dir")), **quiet, **options},
        callbacks=callbacks,
    )
    trainer.fit(module, loader, ckpt_path=ckpt)


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (4, 0.5)])
def test_what_lightning_did_is_replayed(tmp_path: Path, accumulate: int, clip: float | None) -> None:
    """With dropout, Adam and a schedule per epoch; also with accumulated and clipped gradients."""

    def setup(seed: int) -> Run:
        return run_of(*parts(seed), accumulate=accumulate, clip=clip)

    for seed in (1, 2):
        options: dict[str, Any] = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
        fit(tmp_path / str(seed), seed, *parts(seed), **options)
    tolerance = calibrate([tmp_path / "1", tmp_path / "2"], setup, replays=2)
    report = check_record(tmp_path / "1", setup, Policy(tolerance, b"nonce", q=1, samples=9))
    assert (report.outcome, report.code) == ("consistent_within_tolerance", "consistent")
    assert max(checked.loss_error for checked in report.checked) < 1e-4
    other: Setup = lambda seed: run_of(*parts(seed), accumulate=accumulate, clip=0.01)  # noqa: E731
    assert check_record(tmp_path / "1", other, Policy(tolerance, b"nonce")).outcome == "mismatch"


def test_a_loader_with_workers_must_be_watched_before(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"call `watch\(loader\)` before `fit`"):
        fit(tmp_path / "refused", 1, *parts(1, workers=1))
    module, loader = parts(1, workers=1)
    watch(loader)
    fit(tmp_path / "watched", 1, module, loader, max_epochs=1)
    drawn = [index for entry in read(tmp_path / "watched").entries for index in entry.indices]
    assert sorted(drawn) == list(range(1797))


class Interrupt(L.Callback):
    """Breaks the fit off in the second epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == STEPS_PER_EPOCH + 3:
            raise RuntimeError("power cut")


def test_a_fit_that_goes_on_from_a_checkpoint_goes_on_with_its_record(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path / "saved", save_top_k=-1, every_n_epochs=1)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "run", 1, *parts(1), default_root_dir=str(tmp_path), callbacks=[saver, Interrupt()])
    (saved,) = (tmp_path / "saved").glob("*.ckpt")
    fit(tmp_path / "run", 1, *parts(1), ckpt=str(saved), default_root_dir=str(tmp_path))
    record = read(tmp_path / "run")
    assert len(record.entries) == 2 * STEPS_PER_EPOCH
    second = [index for entry in record.entries[STEPS_PER_EPOCH:] for index in entry.indices]
    assert sorted(second) == list(range(1797))

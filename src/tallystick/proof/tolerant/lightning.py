"""Records of training with Lightning: a callback, and the `Run` that replays what it recorded.

trainer = L.Trainer(callbacks=[ProofCallback("run", seed=1, interval=100)])
trainer.fit(module, loader)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tallystick.canon.identity import Key
from tallystick.proof.tolerant.recorder import DEFAULT_INTERVAL, Recorder, RecordError, Setting
from tallystick.proof.tolerant.run import Run
from tallystick.proof.tolerant.watching import WatchedSampler, watch


class ProofCallback(Callback):
    """Records one `Trainer.fit()` with one optimizer, one process and automatic optimization.

    A loader with workers draws before any callback is called: then call `watch(loader)` before `fit`. A fit that goes
    on from a checkpoint needs one of the record at the same step.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        seed: int,
        interval: int = DEFAULT_INTERVAL,
        key: Key | None = None,
        hyperparameters: Mapping[str, Setting] | None = None,
    ) -> None:
        self._path, self._seed, self._interval, self._key = path, seed, interval, key
        self._hyperparameters = hyperparameters
        self._recorder: Recorder | None = None
        self._watched: WatchedSampler
        self._batch_size = 0
        self._indices: list[int] = []
        """Of the micro-batches since the last step."""
        self._loss = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 or len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise RecordError("a record is of one process with one optimizer and automatic optimization; "
                              "call `Recorder.step` yourself in other loops")  # fmt: skip
        loader: Any = trainer.train_dataloader
        begun = isinstance(loader, DataLoader) and loader.num_workers > 0
        if begun and not isinstance(getattr(loader.batch_sampler, "sampler", None), WatchedSampler):
            raise RecordError("the loader's workers have drawn records already; call `watch(loader)` before `fit`")
        self._watched, self._batch_size = watch(loader), loader.batch_sampler.batch_size
        self._recorder = Recorder(
            self._path,
            pl_module,
            trainer.optimizers[0],
            loader.dataset,
            seed=self._seed,
            interval=self._interval,
            key=self._key,
            hyperparameters=self._hyperparameters,
            at=trainer.global_step,
        ).__enter__()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._indices:
            self._open().begin_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        recorder = self._open()
        self._indices += self._watched.take(self._batch_size)
        self._loss += float(outputs["loss"])  # already divided by the number of micro-batches
        if trainer.global_step > recorder.done:
            recorder.step(self._indices, self._loss)
            self._indices, self._loss = [], 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open().finish()
        self._recorder = None

    def _open(self) -> Recorder:
        assert self._recorder is not None, "Lightning calls on_train_start first"
        return self._recorder


def run_of(module: LightningModule, loader: DataLoader[Any], *, accumulate: int = 1, clip: float | None = None) -> Run:
    """The run that `Trainer(accumulate_grad_batches=accumulate, gradient_clip_val=clip).fit(module, loader)` would do.

    For `setup(seed)` in a training file, with a freshly built module; the loader gives data set, batch size and
    collation, not the order.
    """
    optimizer, scheduler, every = _configured(module, -(-len(loader) // accumulate))
    dataset: Any = loader.dataset
    collate, size = loader.collate_fn, loader.batch_size or 1

    def step(indices: Sequence[int]) -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for start in range(0, len(indices), size):
            batch = collate([dataset[index] for index in indices[start : start + size]])
            output: Any = module.training_step(batch, start // size)
            loss = (output["loss"] if isinstance(output, dict) else output) / accumulate
            loss.backward()
            total = total + loss.detach().cpu()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        return total

    return Run(module, optimizer, dataset, step, scheduler, every)


def _configured(
    module: LightningModule, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None, int]:
    """Optimizer, schedule, and how many steps the schedule stands still.

    Raises:
        RecordError: `configure_optimizers` returns something else than one optimizer, alone or with one schedule.
    """
    configured: Any = module.configure_optimizers()
    if isinstance(configured, torch.optim.Optimizer):
        return configured, None, 1
    if isinstance(configured, tuple) and [len(part) for part in configured] == [1, 1]:
        configured = {"optimizer": configured[0][0], "lr_scheduler": configured[1][0]}
    if isinstance(configured, dict) and isinstance(configured.get("optimizer"), torch.optim.Optimizer):
        chosen = configured.get("lr_scheduler")
        settings: dict[str, Any] = chosen if isinstance(chosen, dict) else {"scheduler": chosen}
        per = 1 if settings.get("interval") == "step" else steps_per_epoch
        return configured["optimizer"], settings["scheduler"], per * settings.get("frequency", 1)
    raise RecordError("configure_optimizers must give one optimizer, alone or with one schedule, to be replayed")

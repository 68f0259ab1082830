"""Records of training with the Hugging Face `Trainer`: a callback, and the `Run` that replays what it recorded.

trainer.add_callback(ProofCallback("run", interval=100))
trainer.train()
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tallystick.canon.identity import Key
from tallystick.proof.tolerant.recorder import DEFAULT_INTERVAL, Recorder, RecordError, Setting
from tallystick.proof.tolerant.run import Run
from tallystick.proof.tolerant.watching import WatchedSampler, watch


class ProofCallback(TrainerCallback):
    """Records one `Trainer.train()`, in one process. The seed is that of the training arguments.

    A run that `resume_from_checkpoint` goes on with needs a checkpoint of the record at the same step: `save_steps`
    must be a multiple of `interval`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        interval: int = DEFAULT_INTERVAL,
        key: Key | None = None,
        hyperparameters: Mapping[str, Setting] | None = None,
    ) -> None:
        self._path, self._interval, self._key, self._hyperparameters = path, interval, key, hyperparameters
        self._recorder: Recorder | None = None
        self._watched: WatchedSampler
        self._batch_size = 0
        self._skip = 0
        """Records of the epoch that a resumed run has already seen and draws again."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.world_size > 1:
            raise RecordError("a record is of one process; train with one, or record on exact arithmetic's network")
        loader = kwargs["train_dataloader"]
        self._watched, self._batch_size = watch(loader), loader.batch_sampler.batch_size
        steps_per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
        if not args.ignore_data_skip:
            seen = state.global_step % steps_per_epoch * args.gradient_accumulation_steps
            self._skip = seen * self._batch_size
        self._recorder = Recorder(
            self._path,
            kwargs["model"],
            _plain(kwargs["optimizer"]),
            loader.dataset,
            seed=args.seed,
            interval=self._interval,
            key=self._key,
            hyperparameters=self._hyperparameters,
            at=state.global_step,
        ).__enter__()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._open().begin_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._skip:
            self._watched.take(self._skip)
            self._skip = 0
        indices = self._watched.take(self._batch_size * args.gradient_accumulation_steps)
        self._open().step(indices)
        if state.global_step >= state.max_steps:
            self._finish()  # here, because `load_best_model_at_end` puts other weights in before `on_train_end`

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._recorder is not None and args.load_best_model_at_end:
            raise RecordError("training stopped early and then loaded its best model, which no step led to; "
                              "record without `load_best_model_at_end`")  # fmt: skip
        if self._recorder is not None:
            self._finish()

    def _open(self) -> Recorder:
        assert self._recorder is not None, "the Trainer calls on_train_begin first"
        return self._recorder

    def _finish(self) -> None:
        self._open().finish()
        self._recorder = None


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def run_of(trainer: Trainer) -> Run:
    """The run that a freshly built `trainer` would do, for `setup(seed)` in a training file.

    A step is what `Trainer.train` does in one: micro-batches through `training_step`, clipping, the optimizer.
    """
    args = trainer.args
    loader = trainer.get_train_dataloader()
    dataset: Any = loader.dataset
    collate, size = loader.collate_fn, args.per_device_train_batch_size
    *_, max_steps = trainer.set_initial_training_values(args, loader)
    trainer.create_optimizer_and_scheduler(num_training_steps=max_steps)
    model, optimizer, scheduler = trainer.model, _plain(trainer.optimizer), trainer.lr_scheduler
    assert model is not None

    def step(indices: Sequence[int]) -> float:
        parts = [indices[start : start + size] for start in range(0, len(indices), size)]
        inputs = iter([collate([dataset[index] for index in part]) for part in parts])
        batches, items = trainer.get_batch_samples(inputs, len(parts), args.device)
        trainer.current_gradient_accumulation_steps = len(batches)
        loss = sum(float(trainer.training_step(model, batch, items)) for batch in batches)
        if args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        model.zero_grad()
        return loss

    return Run(model, optimizer, dataset, step, scheduler)

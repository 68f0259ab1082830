"""What a verifier must bring: the training code, as a function of the seed alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

Step = Callable[[Sequence[int]], Tensor | float | None]
"""Trains for one step on the records of these indices and returns the loss; forward, backward, `optimizer.step()`."""


class Dataset(Protocol):
    """Anything map-style: `torch.utils.data.Dataset`, a list, a tensor, a `datasets.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Run:
    """Everything that one training run is made of, before its first step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: Dataset
    step: Step
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    """Not stepped by `step`, but by whoever drives the run, once per `scheduler_every` steps."""
    scheduler_every: int = 1


Setup = Callable[[int], Run]
"""`setup(seed)`: builds a fresh run, the same one for the same seed. A training file defines it under this name."""
SETUP_NAME: Final = "setup"


def as_float(loss: Tensor | float) -> float:
    return float(loss.detach()) if isinstance(loss, Tensor) else float(loss)


def advance(run: Run, steps: int) -> None:
    """Brings the fresh run's schedule to where it stands after `steps` steps, without training.

    Optimizers skip parameters without gradients, so stepping one changes nothing but the count that schedulers look
    at to warn about calls in the wrong order.
    """
    if run.scheduler is None:
        return
    run.optimizer.zero_grad(set_to_none=True)
    run.optimizer.step()
    for _ in range(steps // run.scheduler_every):
        run.scheduler.step()

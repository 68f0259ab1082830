"""Optimizers as pure functions: tensors in, tensors out, so that they can be traced like a model."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Optimizer(Protocol):
    """What tracing needs from an optimizer. All mappings but `slots` have the parameters' names."""

    def slots(self, parameters: Tensors) -> Tensors:
        """The optimizer's own state before step 0, named "slot/parameter"."""

    def update(self, parameters: Tensors, slots: Tensors, gradients: Tensors, rate: Tensor) -> tuple[Tensors, Tensors]:
        """New parameters and new slots; `rate` is a float32 scalar."""


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as `torch.optim.SGD` defines it, with momentum (zero buffers before step 0)."""

    momentum: float = 0.0

    def slots(self, parameters: Tensors) -> Tensors:
        if self.momentum == 0:
            return {}
        return {f"momentum/{name}": torch.zeros_like(value) for name, value in parameters.items()}

    def update(self, parameters: Tensors, slots: Tensors, gradients: Tensors, rate: Tensor) -> tuple[Tensors, Tensors]:
        if self.momentum == 0:
            return {name: value - rate * gradients[name] for name, value in parameters.items()}, {}
        steps = {name: self.momentum * slots[f"momentum/{name}"] + gradients[name] for name in parameters}
        moved = {name: value - rate * steps[name] for name, value in parameters.items()}
        return moved, {f"momentum/{name}": step for name, step in steps.items()}

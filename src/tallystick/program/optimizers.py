"""Optimizers as pure functions: tensors in, tensors out, so that they can be traced like a model.

Numbers that depend on the step come in as float32 scalars, whose rules are data (`schedule`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tallystick.program.schedule import BiasCorrection, RateScalar, Scalar

Tensors = dict[str, Tensor]
CLIP_EPSILON = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""


class Optimizer(Protocol):
    """What tracing needs from an optimizer. All mappings but slots have the parameters' names."""

    @property
    def scalars(self) -> Sequence[Scalar]:
        """The numbers that `update` takes, in order."""

    def slots(self, parameters: Tensors) -> Tensors:
        """The optimizer's own state before step 0, named "slot/parameter"."""

    def update(
        self, parameters: Tensors, slots: Tensors, gradients: Tensors, scalars: Sequence[Tensor]
    ) -> tuple[Tensors, Tensors]:
        """New parameters and new slots; `scalars` are float32 scalars."""


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as `torch.optim.SGD` defines it, with zero momentum buffers before step 0."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    @property
    def scalars(self) -> Sequence[Scalar]:
        return (RateScalar(),)

    def slots(self, parameters: Tensors) -> Tensors:
        if self.momentum == 0:
            return {}
        return {f"momentum/{name}": torch.zeros_like(value) for name, value in parameters.items()}

    def update(
        self, parameters: Tensors, slots: Tensors, gradients: Tensors, scalars: Sequence[Tensor]
    ) -> tuple[Tensors, Tensors]:
        (rate,) = scalars
        moved, kept = {}, {}
        for name, value in parameters.items():
            step = _decayed(gradients[name], value, self.weight_decay)
            if self.momentum != 0:
                momentum = kept[f"momentum/{name}"] = self.momentum * slots[f"momentum/{name}"] + step
                step = step + self.momentum * momentum if self.nesterov else momentum
            moved[name] = value - rate * step
        return moved, kept


@dataclass(frozen=True)
class Adam:
    """Adam as `torch.optim.Adam` defines it (Kingma and Ba 2015); with `decoupled` decay, AdamW (Loshchilov and
    Hutter 2019). The betas are decimal text, because the bias correction reads them exactly."""

    beta1: str = "0.9"
    beta2: str = "0.999"
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    @property
    def scalars(self) -> Sequence[Scalar]:
        return (RateScalar(), BiasCorrection(self.beta1), BiasCorrection(self.beta2))

    def slots(self, parameters: Tensors) -> Tensors:
        zeros = {name: torch.zeros_like(value) for name, value in parameters.items()}
        return {f"first/{name}": zero for name, zero in zeros.items()} | {
            f"second/{name}": zero.clone() for name, zero in zeros.items()
        }

    def update(
        self, parameters: Tensors, slots: Tensors, gradients: Tensors, scalars: Sequence[Tensor]
    ) -> tuple[Tensors, Tensors]:
        rate, correction1, correction2 = scalars
        beta1, beta2 = float(self.beta1), float(self.beta2)
        size, root = rate / correction1, torch.sqrt(correction2)
        moved, first, second = {}, {}, {}
        for name, value in parameters.items():
            gradient = gradients[name] if self.decoupled else _decayed(gradients[name], value, self.weight_decay)
            held = value - value * (rate * self.weight_decay) if self.decoupled and self.weight_decay else value
            m = first[f"first/{name}"] = beta1 * slots[f"first/{name}"] + (1 - beta1) * gradient
            v = second[f"second/{name}"] = beta2 * slots[f"second/{name}"] + (1 - beta2) * (gradient * gradient)
            moved[name] = held - size * (m / (torch.sqrt(v) / root + self.epsilon))
        return moved, first | second


@dataclass(frozen=True)
class Clipped:
    """Another optimizer that sees clipped gradients: each entry within +-`value`, then all together within `norm`."""

    optimizer: Optimizer
    norm: float | None = None
    value: float | None = None

    @property
    def scalars(self) -> Sequence[Scalar]:
        return self.optimizer.scalars

    def slots(self, parameters: Tensors) -> Tensors:
        return self.optimizer.slots(parameters)

    def update(
        self, parameters: Tensors, slots: Tensors, gradients: Tensors, scalars: Sequence[Tensor]
    ) -> tuple[Tensors, Tensors]:
        if self.value is not None:
            gradients = {name: g.clamp(-self.value, self.value) for name, g in gradients.items()}
        if self.norm is not None:
            squares = [(gradient * gradient).sum() for gradient in gradients.values()]
            length = torch.sqrt(torch.stack(squares).sum())
            factor = (self.norm / (length + CLIP_EPSILON)).clamp(max=1.0)
            gradients = {name: gradient * factor for name, gradient in gradients.items()}
        return self.optimizer.update(parameters, slots, gradients, scalars)


def _decayed(gradient: Tensor, value: Tensor, decay: float) -> Tensor:
    return gradient + decay * value if decay else gradient

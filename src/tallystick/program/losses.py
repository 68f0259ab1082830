"""Losses by name: functions of a model's output and the target, each the mean over the micro-batch."""

from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from tallystick.program.trace import Loss, main_output


class CrossEntropy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="cross_entropy"):
    """Outputs [N, classes] for targets [N], or [N, T, classes] for targets [N, T]."""

    ignore_index: int = -100
    label_smoothing: float = 0.0
    weights: tuple[float, ...] = ()
    """One for each class; empty for equal weights."""


class MSE(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="mse"):
    pass


class L1(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="l1"):
    pass


class Huber(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="huber"):
    delta: float = 1.0


class BCEWithLogits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="bce_with_logits"):
    pass


LossSpec = CrossEntropy | MSE | L1 | Huber | BCEWithLogits


def loss_function(spec: LossSpec) -> Loss:
    """The function that `spec` describes, for `trace`."""

    plain = _function(spec)

    def loss(output: Any, target: Tensor) -> Tensor:
        return plain(main_output(output), target)

    return loss


def _function(spec: LossSpec) -> Callable[[Tensor, Tensor], Tensor]:
    match spec:
        case CrossEntropy():
            return lambda output, target: _cross_entropy(spec, output, target)
        case MSE():
            return functional.mse_loss
        case L1():
            return functional.l1_loss
        case Huber():
            return lambda output, target: functional.huber_loss(output, target, delta=spec.delta)
        case BCEWithLogits():
            return functional.binary_cross_entropy_with_logits


def _cross_entropy(spec: CrossEntropy, output: Tensor, target: Tensor) -> Tensor:
    classes = output.shape[-1]
    weights = None
    if spec.weights:
        # One by one, because a program can hold numbers but no constant tensor.
        weights = torch.stack([torch.full((), weight) for weight in spec.weights])
    return functional.cross_entropy(
        output.reshape(-1, classes),
        target.reshape(-1),
        weight=weights,
        ignore_index=spec.ignore_index,
        label_smoothing=spec.label_smoothing,
    )

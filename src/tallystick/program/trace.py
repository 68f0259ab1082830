"""Traces a PyTorch model, loss and optimizer into a `StepProgram`.

torch.func turns the model into a function of its parameters and buffers, and `capture` records what a step does. What a
model does while it trains (dropout, batch statistics) is recorded in training mode for the gradient and in evaluation
mode for predictions; the model itself is left as it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from tallystick.errors import Refused
from tallystick.exact import ARITHMETIC
from tallystick.program.capture import Captured, capture, spec_of
from tallystick.program.decompositions import Noise
from tallystick.program.fusion import filled_with
from tallystick.program.graph import Graph, Profile, StepProgram, TensorSpec
from tallystick.program.optimizers import Optimizer, Tensors
from tallystick.program.places import Places
from tallystick.program.refusals import TraceError

__all__ = ["Loss", "TraceError", "Traced", "specs", "trace"]

Loss = Callable[[Any, Tensor], Tensor]

KEY: Final = "key"
"""The gradient's input that random operators are keyed with."""


@dataclass(frozen=True)
class Traced:
    """A step program and the values that training starts from."""

    program: StepProgram
    parameters: Tensors
    buffers: Tensors
    slots: Tensors


def trace(model: nn.Module, loss: Loss, optimizer: Optimizer, batch: Tensors, profile: Profile = "full") -> Traced:
    """Records one training step of `model`.

    Args:
        loss: maps the model's output and the target to a scalar, the mean over the micro-batch.
        batch: an example micro-batch: the model's inputs in order, then the target. First sizes are equal.
        profile: how many digits the operands of matrix products have (docs/exact-v1.md).

    Raises:
        Refused: `unsupported_operator`, `unsupported_dtype` or `unsupported_model`, naming the place in the model.
        TraceError: the model's Python cannot be recorded, for instance because it branches on values.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise Refused("unsupported_model", f"model: {name} has no shape yet; run the model on one batch first")
    _require_no_gradient_hooks(model)
    parameters = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    buffers = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    buffers |= {name: value.detach() for name, value in model.named_buffers()}
    _require_finite(parameters | buffers)
    if not parameters:
        raise Refused("unsupported_model", "model: no parameter requires a gradient; there is nothing to train")
    slots = optimizer.slots(parameters)
    gradient = _gradient(model, loss, parameters, buffers, batch)
    moved = [[*parameters, *buffers, *batch][place] for place in gradient.written]
    for name in moved:
        if name not in buffers:
            kind = "a parameter" if name in parameters else "a tensor of the batch"
            reason = (
                f"model: {name} is {kind}, and the step writes into it in place; make a new tensor, or clone it first"
            )
            raise Refused("unsupported_model", reason)
    _require_loss(gradient.graph, list(parameters))
    program = StepProgram(
        arithmetic=ARITHMETIC,
        profile=profile,
        parameters=specs(parameters),
        buffers=specs(buffers),
        moved=moved,
        slots=specs(slots),
        batch=specs(batch),
        scalars=list(optimizer.scalars),
        gradient=_moved_before_loss(gradient, len(parameters)),
        update=_update(model, optimizer, parameters, slots).graph,
        predict=_predict(model, parameters, buffers, batch).graph,
    )
    return Traced(program, parameters, buffers, slots)


def _require_no_gradient_hooks(model: nn.Module) -> None:
    """A parameter's hooks would never run: recording differentiates with respect to other tensors."""
    for name, value in model.named_parameters():
        if value.requires_grad and (value._backward_hooks or value._post_accumulate_grad_hooks):
            limit = "limit it in the optimizer (Clipped; in a task file clip_norm or clip_value)"
            way_out = f"remove it, and change the gradient in the loss, or {limit}"
            raise Refused("unsupported_model", f"model: {name} has a hook on its gradient, which is not run; {way_out}")
    for path, module in model.named_modules():
        if module._backward_pre_hooks or (module._backward_hooks and module._is_full_backward_hook):
            what = f"{path or type(module).__name__} has a hook on its backward pass, which cannot be recorded"
            raise Refused("unsupported_model", f"model: {what}; remove it, or write what it does into forward")


def _require_finite(tensors: Tensors) -> None:
    """As in every state of a training. A tensor on the meta device has no values."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.is_meta and not bool(value.isfinite().all()):
            way_out = "hold a mask as bool and use masked_fill, or make it in forward"
            raise Refused(
                "unsupported_model", f"model: {name} holds an infinity or a NaN, which no state may; {way_out}"
            )


def specs(tensors: Tensors) -> list[TensorSpec]:
    """What `tensors` are called, hold and measure."""
    return [spec_of(name, value) for name, value in tensors.items()]


def _gradient(model: nn.Module, loss: Loss, parameters: Tensors, buffers: Tensors, batch: Tensors) -> Captured:
    names, held = list(parameters), list(buffers)

    def objective(values: Tensors, state: Tensors, *arguments: Tensor) -> Tensor:
        output = torch.func.functional_call(model, values | state, arguments[:-1])
        return loss(output, arguments[-1])

    def gradient(*flat: Tensor) -> list[Tensor]:
        values, rest = dict(zip(names, flat, strict=False)), flat[len(names) : -1]
        state, arguments = dict(zip(held, rest, strict=False)), rest[len(held) :]
        gradients, value = torch.func.grad_and_value(objective)(values, state, *arguments)
        return [*(gradients[name] for name in names), value]

    example = parameters | buffers | batch | {KEY: torch.zeros(2, dtype=torch.int64)}
    if len(example) != len(parameters) + len(buffers) + len(batch) + 1:
        raise Refused("unsupported_model", "model: a batch tensor has the name of a parameter or buffer; rename it")
    with _mode(model, training=True):
        return capture(Places(model, "loss", training=True), gradient, example, Noise(), key=True)


def _predict(model: nn.Module, parameters: Tensors, buffers: Tensors, batch: Tensors) -> Captured:
    names = [*parameters, *buffers]

    def predict(*flat: Tensor) -> list[Tensor]:
        output = torch.func.functional_call(model, dict(zip(names, flat, strict=False)), flat[len(names) :])
        return [main_output(output)]

    inputs = dict(list(batch.items())[:-1])
    with _mode(model, training=False):
        return capture(Places(model, "model"), predict, parameters | buffers | inputs, Noise())


def _update(model: nn.Module, optimizer: Optimizer, parameters: Tensors, slots: Tensors) -> Captured:
    names, count = list(parameters), len(parameters)

    def update(*flat: Tensor) -> list[Tensor]:
        moved, kept = optimizer.update(
            dict(zip(names, flat, strict=False)),
            dict(zip(slots, flat[count:], strict=False)),
            dict(zip(names, flat[count + len(slots) :], strict=False)),
            list(flat[2 * count + len(slots) :]),
        )
        return [*(moved[name] for name in names), *(kept[name] for name in slots)]

    gradients = {f"gradient/{name}": value for name, value in parameters.items()}
    scalars = {f"scalar/{index}": torch.zeros(()) for index in range(len(optimizer.scalars))}
    return capture(Places(model, "optimizer"), update, parameters | slots | gradients | scalars, Noise())


def main_output(output: Any) -> Tensor:
    """The tensor that a model's output is about: itself, its `logits`, or its first part.

    Raises:
        Refused: `unsupported_model`.
    """
    if isinstance(output, Tensor):
        return output
    chosen = getattr(output, "logits", None)
    if chosen is None and isinstance(output, dict):
        chosen = output.get("logits")
    if chosen is None and isinstance(output, tuple | list) and output:
        chosen = output[0]
    if not isinstance(chosen, Tensor):
        raise Refused("unsupported_model", f"model: its output is a {type(output).__name__} without a tensor `logits`")
    return chosen


def _require_loss(graph: Graph, parameters: list[str]) -> None:
    """The loss is one float32 number and depends on a parameter."""
    made = {len(graph.inputs) + at: node for at, node in enumerate(graph.nodes)}
    loss = graph.outputs[len(parameters)].index
    spec = made[loss].result if loss in made else graph.inputs[loss]
    if spec.dtype != "float32" or spec.shape != ():
        raise Refused("unsupported_model", f"model: loss: it is {spec.dtype} {spec.shape}; return one float32 number")
    gradients = [made.get(ref.index) for ref in graph.outputs[: len(parameters)]]
    if all(node is not None and filled_with(node) == 0 for node in gradients):
        reason = "model: loss: it depends on no parameter; do not detach it, or compute it without torch.no_grad"
        raise Refused("unsupported_model", reason)


def _moved_before_loss(captured: Captured, count: int) -> Graph:
    """The outputs as a program has them: gradients, new values of buffers, loss."""
    outputs = captured.graph.outputs
    ordered = [*outputs[:count], *outputs[count + 1 :], outputs[count]]
    return Graph(captured.graph.inputs, captured.graph.nodes, ordered)


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts every module in training or evaluation mode, and afterwards all that modules hold back as it was.

    What a forward pass stores in a module is no tensor once recording is over; and functional_call leaves such a thing
    in place of a parameter where a module has two paths.
    """
    modes = {module: module.training for module in model.modules()}
    held = [part for module in modes for part in (vars(module), *vars(module).values()) if isinstance(part, dict)]
    before = [(part, dict(part)) for part in held]
    model.train(training)
    try:
        yield
    finally:
        for part, items in before:
            part.clear()
            part.update(items)
        for module, mode in modes.items():
            module.training = mode  # a scripted module does not hold it in Python

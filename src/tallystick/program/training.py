"""A training run as pure functions: which records a micro-batch has, what it contributes, and what a step does.

    contribution(step, micro-batch)  for every micro-batch of the step, on any machine
    combine(contributions)           in any order, in any grouping
    advance(state, total)            the state after the step

The state is a mapping from names to tensors and holds everything the next step depends on: `parameter/...`, the
optimizer's `slot/...`, and `exponent/...` for each parameter's gradient sum (see `exact/accumulate.py`). The number of
the step is bound beside it, by whoever names the state.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact import accumulate
from tallystick.exact.random import permutation
from tallystick.exact.rounding import canonical
from tallystick.program.graph import StepProgram, TensorSpec
from tallystick.program.interpreter import Prepared, prepare, run
from tallystick.program.optimizers import Tensors
from tallystick.program.spec import TrainingSpec, rate_at

MEMORY_LIMIT: Final = 8 * 2**30
"""Most bytes that one graph of a program may need at once."""
LOSS, PEAKS = "loss", "peaks"


@dataclass(frozen=True)
class Training:
    """A run that is ready to compute: specification, checked graphs and the training records."""

    spec: TrainingSpec
    program: StepProgram
    gradient: Prepared
    update: Prepared
    predict: Prepared
    records: Tensors

    @property
    def parameters(self) -> list[str]:
        return [spec.name for spec in self.program.parameters]

    @property
    def slots(self) -> list[str]:
        return [spec.name for spec in self.program.slots]


def prepare_training(spec: TrainingSpec, program: StepProgram, records: Tensors) -> Training:
    """Checks that specification, program and records fit together.

    Raises:
        Refused: `bad_spec`, `bad_program` or `too_large`.
    """
    for data_set in [spec.train] + ([spec.test] if spec.test else []):
        for part, have in zip(program.batch, data_set.tensors, strict=False):
            if (part.name, part.dtype, part.shape[1:]) != (have.name, have.dtype, have.shape[1:]):
                raise Refused("bad_spec", f"data: {have.name} is {have.dtype} {have.shape}, the program wants {part}")
        if len(program.batch) != len(data_set.tensors):
            raise Refused("bad_spec", "data: the data set and the program's batch have different tensors")
    if spec.train.records < spec.micro_batches * program.micro_batch_size:
        raise Refused("bad_spec", f"data: {spec.train.records} records are too few for one step")
    graphs = [prepare(graph, MEMORY_LIMIT) for graph in (program.gradient, program.update, program.predict)]
    return Training(spec, program, graphs[0], graphs[1], graphs[2], records)


def state_specs(program: StepProgram) -> list[TensorSpec]:
    """Names, dtypes and shapes of the training state."""
    return [
        *(TensorSpec(f"parameter/{p.name}", p.dtype, p.shape) for p in program.parameters),
        *(TensorSpec(f"slot/{s.name}", s.dtype, s.shape) for s in program.slots),
        *(TensorSpec(f"exponent/{p.name}", "int32", ()) for p in program.parameters),
    ]


def contribution_specs(program: StepProgram) -> list[TensorSpec]:
    """Names, dtypes and shapes of a contribution, and of any sum of contributions."""
    return [
        *(TensorSpec(f"gradient/{p.name}", "int32", p.shape) for p in program.parameters),
        TensorSpec(PEAKS, "int32", (len(program.parameters),)),
        TensorSpec(LOSS, "int64", ()),
    ]


def record_indices(training: Training, step: int, micro_batch: int) -> Tensor:
    """The records (int64 [micro-batch size]) of one micro-batch.

    Each epoch is a permutation keyed by (seed, epoch), cut into steps and those into micro-batches; records left over
    at the end of an epoch are not used in it.
    """
    size = training.program.micro_batch_size
    per_step = size * training.spec.micro_batches
    epoch, place = divmod(step, training.spec.train.records // per_step)
    order = _order(training.spec.seed, epoch, training.spec.train.records)
    start = place * per_step + micro_batch * size
    return order[start : start + size]


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, records: int) -> Tensor:
    return permutation(seed, epoch, records)


def initial_state(training: Training, parameters: Tensors, slots: Tensors) -> Tensors:
    """The state before step 0, a canonical copy. Exponents come from the gradient of the first micro-batch."""
    state = {f"parameter/{name}": canonical(parameters[name]) for name in training.parameters}
    state |= {f"slot/{name}": slots[name] for name in training.slots}
    gradients = _gradient(training, state, 0, 0)[:-1]
    for name, gradient in zip(training.parameters, gradients, strict=True):
        state[f"exponent/{name}"] = accumulate.peak_of(gradient) + accumulate.HEADROOM
    return state


def contribution(training: Training, state: Tensors, step: int, micro_batch: int) -> Tensors:
    """What one micro-batch adds to a step: fixed-point gradients, their peaks, and its loss.

    Raises:
        NonFiniteError: training has diverged; the message names the operator.
    """
    *gradients, loss = _gradient(training, state, step, micro_batch)
    count = training.spec.micro_batches
    parts = {
        f"gradient/{name}": accumulate.to_fixed(gradient, state[f"exponent/{name}"], count)
        for name, gradient in zip(training.parameters, gradients, strict=True)
    }
    parts[PEAKS] = torch.stack([accumulate.peak_of(gradient) for gradient in gradients])
    parts[LOSS] = accumulate.loss_to_fixed(loss)
    return parts


def combine(parts: Iterable[Tensors]) -> Tensors:
    """The sum of contributions or of such sums: the same bits in any order and any grouping."""
    total: Tensors | None = None
    for part in parts:
        if total is None:
            total = dict(part)
        else:
            total = {
                name: torch.maximum(value, part[name]) if name == PEAKS else value + part[name]
                for name, value in total.items()
            }
    if total is None:
        raise ValueError("there is nothing to combine")
    return total


def advance(training: Training, state: Tensors, step: int, total: Tensors) -> Tensors:
    """The state after `step`, from the state before it and the sum over all its micro-batches."""
    count = training.spec.micro_batches
    means = [
        accumulate.mean_of(total[f"gradient/{name}"], state[f"exponent/{name}"], count) for name in training.parameters
    ]
    rate = torch.tensor(rate_at(training.spec, step), dtype=torch.float32)
    inputs = [state[f"parameter/{n}"] for n in training.parameters] + [state[f"slot/{n}"] for n in training.slots]
    outputs = run(training.update, [*inputs, *means, rate])
    names = [f"parameter/{n}" for n in training.parameters] + [f"slot/{n}" for n in training.slots]
    after = dict(zip(names, outputs, strict=True))
    for position, name in enumerate(training.parameters):
        exponent = state[f"exponent/{name}"]
        after[f"exponent/{name}"] = accumulate.next_exponent(exponent, total[PEAKS][position])
    return after


def train_step(training: Training, state: Tensors, step: int) -> tuple[Tensors, Tensors]:
    """One whole step on this machine: the state after it and the sum that led there."""
    total = combine(contribution(training, state, step, index) for index in range(training.spec.micro_batches))
    return advance(training, state, step, total), total


def mean_loss(total_loss: int, micro_batches: int) -> float:
    """The loss of a step for people to read, from its fixed-point sum."""
    return total_loss / micro_batches / 2**accumulate.LOSS_BITS


def accuracy(training: Training, state: Tensors, records: Tensors) -> float:
    """Share of `records` whose largest output is at the target's place; the model must be a classifier."""
    *names, target = [spec.name for spec in training.program.batch]
    size, count = training.program.micro_batch_size, records[target].shape[0]
    parameters = [state[f"parameter/{name}"] for name in training.parameters]
    hits = 0
    for start in range(0, count, size):
        chosen = torch.arange(start, start + size).clamp(max=count - 1)
        outputs = run(training.predict, [*parameters, *(records[name][chosen] for name in names)])[0]
        right = outputs.argmax(-1) == records[target][chosen]
        hits += int(right[: count - start].sum())
    return hits / count


def _gradient(training: Training, state: Tensors, step: int, micro_batch: int) -> list[Tensor]:
    chosen = record_indices(training, step, micro_batch)
    batch = [training.records[spec.name][chosen] for spec in training.program.batch]
    return run(training.gradient, [*(state[f"parameter/{name}"] for name in training.parameters), *batch])

"""A training run as pure functions: which records a micro-batch has, what it contributes, and what a step does.

    contribution(step, micro-batch)  for every micro-batch of the step, on any machine
    combine(contributions)           in any order, in any grouping
    advance(state, total)            the state after the step

The state is a mapping from names to tensors and holds everything the next step depends on: `parameter/...`, the model's
`buffer/...`, the optimizer's `slot/...`, and an `exponent/...` for each sum of float32 tensors over micro-batches
(`exact/accumulate.py`): those of gradients, and those of buffers that a step changes, such as running statistics. A
new running statistic is the mean of what the micro-batches make of the old one; an integer buffer, the largest. The
number of the step is bound beside it, by whoever names the state.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tallystick.canon.hashing import digest
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact import accumulate
from tallystick.exact.random import permutation
from tallystick.exact.rounding import canonical
from tallystick.program.graph import INTEGER_BITS, DType, StepProgram, TensorSpec
from tallystick.program.heap import keep_freed_memory
from tallystick.program.interpreter import Prepared, prepare, run
from tallystick.program.optimizers import Tensors
from tallystick.program.schedule import scalar_at
from tallystick.program.spec import TrainingSpec

MEMORY_LIMIT: Final = 8 * 2**30
"""Most bytes that one graph of a program may need at once."""
DIVERGED: Final = "lower the learning rate, limit the gradient (clip_norm), or check the records"
LOSS, PEAKS = "loss", "peaks"
SUMMED_AS: Final[dict[str, DType]] = {"float32": "int32", "int64": "int64"}
"""What the new values of a moved buffer travel as: fixed-point sums, or for integers the largest so far."""


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
    def device(self) -> torch.device:
        """Where it computes: where its records are. A state has to be there, too."""
        return next((value.device for value in self.records.values()), torch.device("cpu"))

    @property
    def parameters(self) -> list[str]:
        return [spec.name for spec in self.program.parameters]

    @property
    def buffers(self) -> list[str]:
        return [spec.name for spec in self.program.buffers]

    @property
    def slots(self) -> list[str]:
        return [spec.name for spec in self.program.slots]

    @property
    def accumulated(self) -> list[str]:
        return [spec.name for spec in self.program.accumulated]

    @property
    def moved(self) -> list[str]:
        return self.program.moved


def prepare_training(spec: TrainingSpec, program: StepProgram, records: Tensors) -> Training:
    """Checks that specification, program and records fit together. From now on this process keeps what it frees.

    Raises:
        Refused: `bad_spec`, `bad_program` or `too_large`.
    """
    for data_set in [spec.train] + ([spec.test] if spec.test else []):
        for part, have in zip(program.batch, data_set.tensors, strict=False):
            if (part.name, part.dtype, part.shape[1:]) != (have.name, have.dtype, have.shape[1:]):
                raise Refused("bad_spec", f"data: {have.name} is {have.dtype} {have.shape}, the program wants {part}")
        if len(program.batch) != len(data_set.tensors):
            raise Refused("bad_spec", "data: the data set and the program's batch have different tensors")
    wanted = spec.micro_batches * program.micro_batch_size
    if spec.train.records < wanted:
        each = f"{spec.micro_batches} micro-batches of {program.micro_batch_size} take {wanted}"
        raise Refused("bad_spec", f"data: {spec.train.records} records are too few for one step: {each}")
    bits = INTEGER_BITS[program.profile]
    graphs = [prepare(graph, MEMORY_LIMIT, bits) for graph in (program.gradient, program.update, program.predict)]
    keep_freed_memory()
    return Training(spec, program, graphs[0], graphs[1], graphs[2], records)


def state_specs(program: StepProgram) -> list[TensorSpec]:
    """Names, dtypes and shapes of the training state."""
    return [
        *(TensorSpec(f"parameter/{p.name}", p.dtype, p.shape) for p in program.parameters),
        *(TensorSpec(f"buffer/{b.name}", b.dtype, b.shape) for b in program.buffers),
        *(TensorSpec(f"slot/{s.name}", s.dtype, s.shape) for s in program.slots),
        *(TensorSpec(f"exponent/{a.name}", "int32", ()) for a in program.accumulated),
    ]


def contribution_specs(program: StepProgram) -> list[TensorSpec]:
    """Names, dtypes and shapes of a contribution, and of any sum of contributions."""
    return [
        *(TensorSpec(f"gradient/{p.name}", "int32", p.shape) for p in program.parameters),
        *(TensorSpec(f"moved/{b.name}", SUMMED_AS[b.dtype], b.shape) for b in program.moved_specs),
        TensorSpec(PEAKS, "int32", (len(program.accumulated),)),
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


def initial_state(training: Training, parameters: Tensors, slots: Tensors, buffers: Tensors | None = None) -> Tensors:
    """The state before step 0, a canonical copy. Exponents come from what the first micro-batch gives."""
    state = {f"parameter/{name}": canonical(parameters[name]) for name in training.parameters}
    state |= {f"buffer/{name}": canonical_values((buffers or {})[name]) for name in training.buffers}
    state |= {f"slot/{name}": slots[name] for name in training.slots}
    gradients, moved, _ = _gradient(training, state, 0, 0)
    for name, value in _accumulated(gradients, moved).items():
        state[f"exponent/{name}"] = accumulate.peak_of(value) + accumulate.HEADROOM
    return state


def contribution(training: Training, state: Tensors, step: int, micro_batch: int) -> Tensors:
    """What one micro-batch adds to a step: gradients and moved buffers in fixed point, their peaks, and its loss.

    Raises:
        NonFiniteError: training has diverged; the message names the step, the operator and its place.
    """
    gradients, moved, loss = _gradient(training, state, step, micro_batch)
    summed = _accumulated(gradients, moved)
    with _diverging(step, micro_batch):
        both = {name: _fixed_and_peak(training, state, name, value) for name, value in summed.items()}
        fixed_loss = accumulate.loss_to_fixed(loss)
    fixed = {name: part for name, (part, _) in both.items()}
    parts = {f"gradient/{name}": fixed[name] for name in gradients}
    parts |= {f"moved/{name}": fixed.get(name, value) for name, value in moved.items()}
    parts[PEAKS] = torch.stack([peak for _, peak in both.values()])
    parts[LOSS] = fixed_loss
    return parts


@contextmanager
def _diverging(step: int, micro_batch: int) -> Iterator[None]:
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"step {step}, micro-batch {micro_batch}: {error}; {DIVERGED}") from None
    except Refused as error:
        raise Refused(error.code, f"step {step}, micro-batch {micro_batch}: {error.reason}") from None


def _fixed_and_peak(training: Training, state: Tensors, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return accumulate.fixed_and_peak(value, state[f"exponent/{name}"], training.spec.micro_batches)
    except NonFiniteError as error:
        raise NonFiniteError(f"{name}: {error}") from None


def combine(parts: Iterable[Tensors]) -> Tensors:
    """The sum of contributions or of such sums: the same bits in any order and any grouping."""
    total: Tensors | None = None
    for part in parts:
        if total is None:
            total = dict(part)
        else:
            total = {name: _merge(name)(value, part[name]) for name, value in total.items()}
    if total is None:
        raise ValueError("there is nothing to combine")
    return total


def _merge(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.maximum if name == PEAKS else _largest_or_sum if name.startswith("moved/") else torch.add


def _largest_or_sum(a: Tensor, b: Tensor) -> Tensor:
    """Integer buffers, such as counters of steps, do not add up over micro-batches; fixed-point values do."""
    return torch.maximum(a, b) if a.dtype == torch.int64 else a + b


def advance(training: Training, state: Tensors, step: int, total: Tensors) -> Tensors:
    """The state after `step`, from the state before it and the sum over all its micro-batches."""
    spec = training.spec
    rules = training.program.scalars
    rates = [scalar_at(rule, spec.learning_rate, step) for rule in rules]
    scalars = [torch.tensor(rate, dtype=torch.float32, device=training.device) for rate in rates]
    parameters = [state[f"parameter/{name}"] for name in training.parameters]
    slots = [state[f"slot/{name}"] for name in training.slots]
    # A generator, so that nothing but the interpreter holds the means, which lets go of each after its use.
    means = (_mean(training, state, total, f"gradient/{name}") for name in training.parameters)
    outputs = run(training.update, [*parameters, *slots, *means, *map(canonical, scalars)])
    names = [f"parameter/{name}" for name in training.parameters] + [f"slot/{name}" for name in training.slots]
    after = dict(zip(names, outputs, strict=True))
    for name in training.buffers:
        kept = name not in training.moved
        after[f"buffer/{name}"] = state[f"buffer/{name}"] if kept else _mean(training, state, total, f"moved/{name}")
    for position, name in enumerate(training.accumulated):
        after[f"exponent/{name}"] = accumulate.next_exponent(state[f"exponent/{name}"], total[PEAKS][position])
    return after


def _mean(training: Training, state: Tensors, total: Tensors, name: str) -> Tensor:
    """What a step makes of a sum: the mean of float32 tensors, the largest of integers."""
    if total[name].dtype == torch.int64:
        return total[name]
    exponent = state[f"exponent/{name.partition('/')[2]}"]
    return accumulate.mean_of(total[name], exponent, training.spec.micro_batches)


def train_step(training: Training, state: Tensors, step: int) -> tuple[Tensors, Tensors]:
    """One whole step on this machine: the state after it and the sum that led there."""
    total = combine(contribution(training, state, step, index) for index in range(training.spec.micro_batches))
    return advance(training, state, step, total), total


def mean_loss(total_loss: int, micro_batches: int) -> float:
    """The loss of a step for people to read, from its fixed-point sum."""
    return total_loss / micro_batches / 2**accumulate.LOSS_BITS


def accuracy(training: Training, state: Tensors, records: Tensors) -> float:
    """Share of `records`' targets at whose place the largest output is; the model must be a classifier.

    Outputs are [N, classes] for targets [N], or [N, T, classes] for targets [N, T].

    Raises:
        Refused: `not_a_classifier`.
    """
    *names, target = [spec.name for spec in training.program.batch]
    size, count = training.program.micro_batch_size, records[target].shape[0]
    held = _held(training, state)
    hits = 0
    for start in range(0, count, size):
        chosen = torch.arange(start, start + size).clamp(max=count - 1)
        outputs = run(training.predict, [*held, *(records[name][chosen] for name in names)])[0]
        wanted = records[target][chosen]
        if outputs.shape[:-1] != wanted.shape or wanted.is_floating_point():
            raise Refused(
                "not_a_classifier", f"model: outputs {tuple(outputs.shape)} for targets {tuple(wanted.shape)}"
            )
        hits += int((outputs.argmax(-1) == wanted)[: count - start].sum())
    return hits / records[target].numel()


def _gradient(training: Training, state: Tensors, step: int, micro_batch: int) -> tuple[Tensors, Tensors, Tensor]:
    """Gradients, new values of the moved buffers, and the loss of one micro-batch."""
    chosen = record_indices(training, step, micro_batch)
    batch = [training.records[spec.name][chosen] for spec in training.program.batch]
    key = noise_key(training.spec.seed, step, micro_batch).to(training.device)
    with _diverging(step, micro_batch):
        *values, loss = run(training.gradient, [*_held(training, state), *batch, key])
    count = len(training.parameters)
    gradients = dict(zip(training.parameters, values[:count], strict=True))
    return gradients, dict(zip(training.moved, values[count:], strict=True)), loss


def canonical_values(value: Tensor) -> Tensor:
    """`value` as a state or a data set may hold it: float32 made canonical, anything else as it is."""
    return canonical(value) if value.is_floating_point() else value


def noise_key(seed: int, step: int, micro_batch: int) -> Tensor:
    """What the random operators of one micro-batch are keyed with: int64 [2], two 32-bit words."""
    place = b"".join(number.to_bytes(8, "big") for number in (seed, step, micro_batch))
    name = digest("tallystick/noise", place)
    return torch.tensor([int.from_bytes(name[:4], "big"), int.from_bytes(name[4:8], "big")])


def _held(training: Training, state: Tensors) -> list[Tensor]:
    """Parameters and buffers, in the order in which graphs take them."""
    parameters = [state[f"parameter/{name}"] for name in training.parameters]
    return parameters + [state[f"buffer/{name}"] for name in training.buffers]


def _accumulated(gradients: Tensors, moved: Tensors) -> Tensors:
    return gradients | {name: value for name, value in moved.items() if value.is_floating_point()}

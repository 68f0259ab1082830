"""Small training runs for tests: a perceptron on made-up records, prepared as a node would prepare it."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tallystick.program.graph import StepProgram, encode_program, program_name
from tallystick.program.optimizers import SGD, Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import DataSet, TrainingSpec
from tallystick.program.trace import specs, trace
from tallystick.program.training import Training, initial_state, prepare_training

FEATURES, CLASSES = 6, 3
NAME = "0" * 64


def records_of(count: int, seed: int = 0) -> Tensors:
    """Records whose label is the largest of their first three features."""
    x = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))
    return {"x": x, "y": x[:, :CLASSES].argmax(1)}


def perceptron(seed: int = 0, hidden: int = 8, features: int = FEATURES, classes: int = CLASSES) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def with_function(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A perceptron with `function` as its layer 1.1."""

    class Applies(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Sequential(nn.ReLU(), Applies()), nn.Linear(8, CLASSES))


def traced(model: nn.Module, momentum: float = 0.9, size: int = 5) -> StepProgram:
    return trace(model, nn.functional.cross_entropy, SGD(momentum), records_of(size)).program


@functools.cache
def encoded() -> bytes:
    return encode_program(traced(perceptron()))


def spec_of(program: StepProgram, records: Tensors, micro_batches: int, rate: str) -> TrainingSpec:
    return TrainingSpec(
        format="tallystick-training-v1",
        program=program_name(encode_program(program)),
        initial_state=NAME,
        initial_root=NAME,
        train=DataSet(NAME, NAME, specs(records)),
        test=None,
        steps=1000,
        micro_batches=micro_batches,
        seed=5,
        learning_rate=ConstantRate(rate),
    )


def start(
    model: nn.Module, records: Tensors, *, size: int, micro_batches: int, momentum: float = 0.9, rate: str = "0.1"
) -> tuple[Training, Tensors]:
    """A prepared run and its state before step 0."""
    optimizer = SGD(momentum)
    example = {name: value[:size] for name, value in records.items()}
    traced = trace(model, nn.functional.cross_entropy, optimizer, example)
    program = traced.program
    training = prepare_training(spec_of(program, records, micro_batches, rate), program, records)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    return training, initial_state(training, parameters, optimizer.slots(parameters))


def same(a: Tensors, b: Tensors) -> bool:
    """Whether two sets of tensors are equal to the last bit."""
    return list(a) == list(b) and all(_bits(x) == _bits(y) for x, y in zip(a.values(), b.values(), strict=True))


def _bits(x: Tensor) -> tuple[torch.dtype, Sequence[int], bytes]:
    return x.dtype, x.shape, x.contiguous().view(-1).numpy().tobytes()

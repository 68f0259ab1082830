"""What is measured: a matrix product and the training steps of three models, each as ours and as plain PyTorch.

Everything that depends on how the exact arithmetic is called (profiles, paths, tracing) is in the four functions at the
end, and nowhere else in the benchmarks.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.models import MLP, SmallResNet, Transformer
from tallystick.errors import TallystickError
from tallystick.exact import products
from tallystick.program.graph import INTEGER_BITS, Profile, StepProgram
from tallystick.program.optimizers import SGD, Tensors
from tallystick.program.schedule import ConstantRate, Rate
from tallystick.program.spec import DataSet, TrainingSpec
from tallystick.program.tensors import to_entries
from tallystick.program.trace import Loss, specs, trace
from tallystick.program.training import Training, contribution, initial_state, prepare_training, train_step

SEED: Final = 7
MOMENTUM: Final = 0.9
BATCHES: Final = 4
"""Of records, so that steps see different ones."""
NOBODY: Final = "0" * 64
"""Names a blob that is not needed here."""

Action = Callable[[], object]


class NotSupportedError(TallystickError):
    """What is to be measured does not exist here; the message says why."""


@dataclass(frozen=True)
class Workload:
    """A model to train."""

    model: Callable[[], nn.Module]
    records: Callable[[], Tensors]
    batch: int
    rate: str


def _images(shape: tuple[int, ...], batch: int, dtype: torch.dtype) -> Tensors:
    generator = torch.Generator().manual_seed(SEED)
    if dtype == torch.uint8:
        x = torch.randint(0, 256, (BATCHES * batch, *shape), generator=generator, dtype=dtype)
    else:
        x = torch.randn(BATCHES * batch, *shape, generator=generator)
    return {"x": x, "y": torch.randint(0, 10, (BATCHES * batch,), generator=generator)}


def _text(length: int, batch: int) -> Tensors:
    tokens = torch.randint(0, 96, (BATCHES * batch, length + 1), generator=torch.Generator().manual_seed(SEED))
    return {"x": tokens[:, :-1].contiguous(), "y": tokens[:, 1:].contiguous()}


ALONE: Final = "PyTorch alone"
"""The path without the compiled library."""
PRODUCT: Final = "product"
SIZE: Final = 1024
WORKLOADS: Final[dict[str, Workload]] = {
    "mlp": Workload(lambda: MLP(784, 1024, 1024, 10), lambda: _images((1, 28, 28), 256, torch.uint8), 256, "0.01"),
    "resnet": Workload(SmallResNet, lambda: _images((3, 32, 32), 64, torch.float32), 64, "0.01"),
    "transformer": Workload(Transformer, lambda: _text(128, 16), 16, "0.01"),
}
NAMES: Final = {
    PRODUCT: "matrix product 1024^3",
    "mlp": "step, MLP 784-1024-1024-10, batch 256",
    "resnet": "step, ResNet on 32x32, batch 64",
    "transformer": "step, transformer 4x256, T=128, batch 16",
}


def loss(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))


def operands() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(SIZE, SIZE, generator=generator), torch.randn(SIZE, SIZE, generator=generator)


def built(workload: Workload) -> nn.Module:
    torch.manual_seed(SEED)
    return workload.model()


def plain_step(workload: Workload) -> Action:
    """One step of plain PyTorch, each time it is called."""
    model, records = built(workload), workload.records()
    optimizer = torch.optim.SGD(model.parameters(), lr=float(workload.rate), momentum=MOMENTUM)
    done = 0

    def step() -> None:
        nonlocal done
        start = done % BATCHES * workload.batch
        chosen = torch.arange(start, start + workload.batch)
        optimizer.zero_grad()
        value = loss(model(records["x"][chosen]), records["y"][chosen])
        value.backward()
        optimizer.step()
        done += 1

    return step


def program_of(workload: Workload, profile: Profile) -> StepProgram:
    records = workload.records()
    example = {name: value[: workload.batch] for name, value in records.items()}
    return traced(built(workload), loss, example, profile)


def exact_step(workload: Workload, program: StepProgram) -> Action:
    """One step of ours, each time it is called."""
    training, state = started(built(workload), program, workload.records(), ConstantRate(workload.rate))
    done = 0

    def step() -> None:
        nonlocal state, done
        state, _ = train_step(training, state, done)
        done += 1

    return step


def started(
    model: nn.Module, program: StepProgram, records: Tensors, rate: Rate, seed: int = SEED
) -> tuple[Training, Tensors]:
    """A run that is ready for step 0, and its state."""
    data = DataSet(NOBODY, NOBODY, specs(records))
    spec = TrainingSpec(
        format="tallystick-training-v1",
        program=NOBODY,
        initial_state=NOBODY,
        initial_root=NOBODY,
        train=data,
        test=None,
        steps=10**6,
        micro_batches=1,
        seed=seed,
        learning_rate=rate,
    )
    training = prepare_training(spec, program, records)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())
    return training, initial_state(training, parameters, SGD(MOMENTUM).slots(parameters), buffers)


def traced(model: nn.Module, objective: Loss, example: Tensors, profile: Profile) -> StepProgram:
    """The step program of `model` under `profile`."""
    require_profile(profile)
    return trace(model, objective, SGD(MOMENTUM), example, profile).program


def exact_product(profile: Profile) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact product of float32 matrices under `profile`."""
    require_profile(profile)
    product: Callable[..., Tensor] = products.matmul
    if not _takes_bits():
        return product
    bits = INTEGER_BITS[profile]
    return lambda a, b: product(a, b, bits)


def require_profile(profile: Profile) -> None:
    """Refuses to measure one profile and call it another."""
    if profile != "full" and not _takes_bits():
        raise NotSupportedError(f"products have no profile {profile!r} yet")


def _takes_bits() -> bool:
    return len(inspect.signature(products.matmul).parameters) > 2


def require_path(path: str) -> None:
    """Refuses compiled kernels where there are none, and `PyTorch alone` where they are still switched on."""
    try:
        native: Any = importlib.import_module("tallystick.exact.native")
        library = getattr(native, "LIBRARY", None)
    except ModuleNotFoundError:
        library = None
    if path != ALONE and library is None:
        raise NotSupportedError("there is no native library here")
    if path == ALONE and library is not None:
        raise NotSupportedError("the native library is not switched off")


def contribution_bytes(workload: Workload, program: StepProgram) -> tuple[int, int]:
    """What a worker sends for one micro-batch, and what float32 gradients would take."""
    training, state = started(built(workload), program, workload.records(), ConstantRate(workload.rate))
    gradients = sum(state[f"parameter/{name}"].nbytes for name in training.parameters)
    return len(to_entries(contribution(training, state, 0, 0))), gradients

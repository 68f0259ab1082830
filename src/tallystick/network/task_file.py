"""`task.toml`: what a client writes to describe a task, and how it becomes blobs and an `OpenTask`.

The model file is the client's own Python and runs only on the client's machine, to be traced.
"""

import importlib.util
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, get_args

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tallystick.canon.hashing import blob_name
from tallystick.errors import TallystickError
from tallystick.ledger.transactions import OpenTask, Policy
from tallystick.network.blobs import BlobStore
from tallystick.program.graph import Profile, encode_program
from tallystick.program.losses import LossSpec, loss_function
from tallystick.program.optimizers import SGD, Adam, Clipped, Optimizer, Tensors
from tallystick.program.schedule import ConstantRate, Decimal, Rate
from tallystick.program.spec import DataSet, TrainingSpec, encode_spec
from tallystick.program.tensors import to_blob
from tallystick.program.trace import specs, trace
from tallystick.program.training import Training, canonical_values, initial_state, prepare_training
from tallystick.proof.recorder import Run
from tallystick.proof.roots import records_root, state_root

MAX_TASK_FILE_BYTES: Final = 2**20
Count = Annotated[int, msgspec.Meta(ge=1)]


class TaskFileError(TallystickError):
    """A task file that cannot be used, or that names something that is not there."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str
    """Python file, relative to the task file."""
    factory: str
    """Function in it that returns the `torch.nn.Module`."""
    seed: int
    """Seeds torch's generator before the factory is called, so that the initial weights are yours again."""


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str
    """Safetensors file, relative to the task file."""
    train: dict[str, str]
    """Batch tensor to tensor in the file; the model's inputs in order, the target last."""
    test: dict[str, str] = {}


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: Count
    micro_batches: Count
    micro_batch_size: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]


class SGDTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="sgd"):
    learning_rate: Decimal | Rate
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None


class AdamTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="adam"):
    learning_rate: Decimal | Rate
    beta1: Decimal = "0.9"
    beta2: Decimal = "0.999"
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None


class AdamWTable(AdamTable, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="adamw"):
    weight_decay: float = 0.01


OptimizerTable = SGDTable | AdamTable | AdamWTable


class Reward(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    total: Count
    stake: Count
    forfeit: Annotated[int, msgspec.Meta(ge=0)]
    validator_permille: int
    finder_permille: int
    audit_permille: int
    commit_ms: Count
    reveal_ms: Count
    expires_ms: Count


class TaskFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Model
    data: Data
    schedule: Schedule
    optimizer: OptimizerTable
    loss: LossSpec
    reward: Reward | None = None
    """What the network is paid; training on this machine needs none."""
    profile: Profile = "full"


CHOICES: Final[dict[str, tuple[type[msgspec.Struct], ...]]] = {
    "loss.name": get_args(LossSpec),
    "optimizer.name": get_args(OptimizerTable),
    "optimizer.learning_rate.kind": get_args(Rate),
}


@dataclass(frozen=True)
class PreparedTask:
    """A task whose blobs are in the store: ready to be offered, or to be trained right here."""

    offer: OpenTask
    training: Training
    initial: Tensors
    program: bytes
    test: Tensors | None


def load_task_file(path: Path) -> TaskFile:
    """Reads and checks a task file.

    Raises:
        TaskFileError: naming the field that is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TASK_FILE_BYTES + 1)
        if len(data) > MAX_TASK_FILE_BYTES:
            raise TaskFileError(f"{path}: is larger than {MAX_TASK_FILE_BYTES} bytes, so it is no task file")
        return msgspec.convert(tomllib.loads(data.decode()), TaskFile)
    except OSError as error:
        raise TaskFileError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise TaskFileError(f"{path}: {error}{_choice(str(error))}") from None


def _choice(message: str) -> str:
    """What may stand in the field that `message`, of msgspec, calls an invalid value."""
    for field, kinds in CHOICES.items():
        if message.startswith("Invalid value") and message.endswith(f"`$.{field}`"):
            return f"; there is {', '.join(str(kind.__struct_config__.tag) for kind in kinds)}"
    return ""


def prepare_task(path: Path, blobs: BlobStore) -> PreparedTask:
    """Traces the model, stores program, data and initial state, and writes the offer.

    Raises:
        TaskFileError: the file or what it names cannot be used.
        Refused, TraceError: the model has a step that is not part of the exact arithmetic.
    """
    task = load_task_file(path)
    if task.reward is None:
        raise TaskFileError(f"{path}: has no [reward]; the network trains for one, `tallystick train` without")
    policy = _policy(task.reward)
    run = prepare_run(path, task, blobs.put)
    spec = run.training.spec
    offer = OpenTask(
        spec=blobs.put(encode_spec(spec)),
        initial_root=spec.initial_root,
        steps=spec.steps,
        micro_batches=spec.micro_batches,
        reward=task.reward.total,
        policy=policy,
    )
    return PreparedTask(offer, run.training, run.initial, run.program, run.test)


def prepare_run(
    path: Path, task: TaskFile, put: Callable[[bytes], str] = blob_name, start: Tensors | None = None
) -> Run:
    """Traces the model of the task file at `path` and makes its training ready.

    Args:
        start: parameters and buffers to start from, by their names in the model, instead of the factory's.
        put: stores a blob and returns its name; nothing is stored unless told otherwise.

    Raises:
        TaskFileError, Refused, TraceError
    """
    train, test = _load_data(path.parent / task.data.file, task.data)
    model = _load_model(path.parent / task.model.file, task.model)
    _put_into(model, start or {})
    optimizer = _optimizer(task.optimizer)
    example = {name: value[: task.schedule.micro_batch_size] for name, value in train.items()}
    traced = trace(model, loss_function(task.loss), optimizer, example, task.profile)
    program = traced.program
    encoded = encode_program(program)
    spec = TrainingSpec(
        format="tallystick-training-v1",
        program=put(encoded),
        initial_state="0" * 64,  # until the state is known, a few lines below
        initial_root="0" * 64,
        train=_store_records(put, train),
        test=_store_records(put, test) if test else None,
        steps=task.schedule.steps,
        micro_batches=task.schedule.micro_batches,
        seed=task.schedule.seed,
        learning_rate=_rate(task.optimizer.learning_rate),
    )
    training = prepare_training(spec, program, train)
    initial = initial_state(training, traced.parameters, traced.slots, traced.buffers)
    root = state_root(initial, 0)
    spec = msgspec.structs.replace(spec, initial_state=put(to_blob(initial)), initial_root=root)
    return Run(prepare_training(spec, program, train), encoded, initial, test)


def _optimizer(table: OptimizerTable) -> Optimizer:
    plain: Optimizer
    if isinstance(table, SGDTable):
        plain = SGD(table.momentum, table.nesterov, table.weight_decay)
    else:
        decoupled = isinstance(table, AdamWTable)
        plain = Adam(table.beta1, table.beta2, table.epsilon, table.weight_decay, decoupled)
    clipped = table.clip_norm is not None or table.clip_value is not None
    return Clipped(plain, table.clip_norm, table.clip_value) if clipped else plain


def _rate(given: str | Rate) -> Rate:
    return ConstantRate(given) if isinstance(given, str) else given


def _policy(reward: Reward) -> Policy:
    """The policy, checked against the limits of the ledger."""
    terms = [getattr(reward, field) for field in Policy.__struct_fields__]
    try:
        return msgspec.convert(terms, Policy)
    except msgspec.ValidationError as error:
        raise TaskFileError(f"[reward]: {error}") from None


def _load_data(path: Path, data: Data) -> tuple[Tensors, Tensors | None]:
    try:
        found = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise TaskFileError(f"{path}: {error}") from None
    missing = [name for name in [*data.train.values(), *data.test.values()] if name not in found]
    if missing:
        raise TaskFileError(f"{path}: has no tensor {missing[0]!r}; it has {', '.join(sorted(found))}")
    for source in (*data.train.values(), *data.test.values()):
        _require_finite(path, source, found[source])
    train = {name: canonical_values(found[source]) for name, source in data.train.items()}
    test = {name: canonical_values(found[source]) for name, source in data.test.items()}
    return train, test or None


def _require_finite(path: Path, name: str, value: Tensor) -> None:
    if value.is_floating_point() and not bool(value.isfinite().all()):
        record = int((~value.isfinite()).nonzero()[0][0]) if value.dim() else 0
        way_out = "leave such records out, or give them a number, as torch.nan_to_num does"
        raise TaskFileError(f"{path}: {name} holds an infinity or a NaN, first in record {record}; {way_out}")


def _load_model(path: Path, model: Model) -> nn.Module:
    if not path.is_file():
        raise TaskFileError(f"{path}: is no file; `file` in [model] names the one that holds your model")
    location = importlib.util.spec_from_file_location(path.stem, path)
    if location is None or location.loader is None:
        raise TaskFileError(f"{path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(location)
    with _blamed_on(path):
        location.loader.exec_module(module)
    factory = getattr(module, model.factory, None)
    if not callable(factory):
        raise TaskFileError(f"{path}: has no function {model.factory!r}")
    torch.manual_seed(model.seed)
    with _blamed_on(path):
        built = factory()
    if not isinstance(built, nn.Module):
        raise TaskFileError(f"{path}: {model.factory} returned {type(built).__name__}, not a torch.nn.Module")
    return built


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """What the client's own code in `path` raises is told with its place there, in one line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        what = " ".join(f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}".split())
        raise TaskFileError(f"{_place(error, path)}: {what}") from error


def _place(error: BaseException, path: Path) -> str:
    """PATH:LINE of what does not parse, or else of the last line of `path` that was running."""
    if isinstance(error, SyntaxError):
        elsewhere = error.filename and Path(error.filename) != path.absolute()
        return f"{error.filename if elsewhere else path}:{error.lineno}" if error.lineno else str(path)
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(path.absolute())]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _put_into(model: nn.Module, start: Tensors) -> None:
    """Sets those parameters and buffers of `model` that `start` has, which must be of one shape and at least one."""
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    shared = held.keys() & start.keys()
    if start and not shared:
        raise TaskFileError(f"[model]: shares no parameter with the parent, which has {', '.join(sorted(start))}")
    with torch.no_grad():
        for name in sorted(shared):
            if held[name].shape != start[name].shape:
                shapes = f"{tuple(held[name].shape)} here, {tuple(start[name].shape)} in the parent"
                raise TaskFileError(f"[model]: {name} has the shape {shapes}; rename it if it is to be new")
            held[name].copy_(start[name])


def _store_records(put: Callable[[bytes], str], records: Tensors) -> DataSet:
    return DataSet(put(to_blob(records)), records_root(records), specs(records))

"""The whole state of a run between two steps, as tensors and text: captured, put back, written, read.

A checkpoint is one safetensors file with `model/...` and `optimizer/...` tensors. Its metadata holds a canonical JSON
document with the number of steps done and the optimizer's settings, as text that is compared and never obeyed: a
replay takes its settings from the verifier's own optimizer. Generators have no state here; see `seeding`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import digest
from tallystick.errors import Refused, TallystickError
from tallystick.proof.tolerant.run import Run

METADATA_KEY: Final = "tallystick"
MAX_HEADER_BYTES: Final = 32 * 2**20
MAX_STATE_JSON_BYTES: Final = 4 * 2**20
SLOTS_PER_PARAMETER: Final = 6
"""Adam with all options keeps four tensors per parameter; this bounds what a checkpoint may take."""

MECHANICS: Final = frozenset({"params", "foreach", "fused", "capturable", "differentiable"})
"""Entries of a parameter group that say how an optimizer computes, not what."""

Settings = dict[str, str]
"""Settings of one parameter group, each as Python prints it: compared and shown, never parsed."""
Text = Annotated[str, msgspec.Meta(max_length=4096)]


class StateError(TallystickError):
    """A state that cannot be captured: something in it is neither a tensor nor a number."""


class Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a checkpoint is not a tensor."""

    step: Annotated[int, msgspec.Meta(ge=0, le=10**7)]
    """Steps done."""
    groups: Annotated[list[dict[Text, Text]], msgspec.Meta(max_length=4096)]
    numbers: Annotated[list[Text], msgspec.Meta(max_length=10**6)]
    """Slots that the optimizer keeps as Python numbers, stored as tensors without dimensions."""


@dataclass(frozen=True)
class Checkpoint:
    """A state, as read or captured."""

    details: Details
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix`, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def capture(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Checkpoint:
    """A copy of the state after `step` steps.

    Raises:
        StateError: the optimizer keeps something that has no plain form.
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    numbers = []
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            name = f"optimizer/{index}/{slot}"
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Tensor | int | float):
                raise StateError(f"{name}: a {type(value).__name__} cannot be stored; use an optimizer of torch.optim")
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                numbers.append(name)
                tensors[name] = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return Checkpoint(Details(step, settings(optimizer), sorted(numbers)), copies)


def settings(optimizer: torch.optim.Optimizer) -> list[Settings]:
    """The optimizer's settings per parameter group: what it computes, without the parameters and without the how."""
    groups = optimizer.state_dict()["param_groups"]
    return [{key: _text(value) for key, value in sorted(group.items()) if key not in MECHANICS} for group in groups]


def _text(value: Any) -> str:
    return repr(value.tolist() if isinstance(value, Tensor) else value)


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Puts weights, buffers and optimizer slots into `run`; settings stay those of the run's own optimizer.

    Raises:
        Refused: `wrong_tensors`: the tensors are not those of this model and this optimizer.
    """
    model = checkpoint.part("model/")
    expected = {name: value for name, value in run.model.state_dict().items() if isinstance(value, Tensor)}
    _check_names("model", model, expected)
    run.model.load_state_dict(model, strict=False)
    own = run.optimizer.state_dict()
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    own["state"] = _slots(checkpoint, parameters)
    run.optimizer.load_state_dict(own)


def _check_names(what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name in sorted(set(found) | set(expected)):
        if name not in found or name not in expected:
            raise Refused("wrong_tensors", f"checkpoint: {what}: {name[:200]!r} is missing or was not expected")
        if found[name].shape != expected[name].shape or found[name].dtype != expected[name].dtype:
            got, want = (f"{t.dtype} {list(t.shape)}" for t in (found[name], expected[name]))
            raise Refused("wrong_tensors", f"checkpoint: {what}: {name}: {got}, the model has {want}")


def _slots(checkpoint: Checkpoint, parameters: list[Tensor]) -> dict[int, dict[str, Any]]:
    slots: dict[int, dict[str, Any]] = {}
    for name, value in checkpoint.part("optimizer/").items():
        number, _, slot = name.partition("/")
        if not (number.isascii() and number.isdigit() and len(number) <= 8 and int(number) < len(parameters) and slot):
            raise Refused("wrong_tensors", f"checkpoint: optimizer: {name[:200]!r} belongs to no parameter")
        if value.dim() and value.numel() > max(parameters[int(number)].numel(), 1):
            raise Refused("wrong_tensors", f"checkpoint: optimizer: {name}: larger than its parameter")
        is_number = f"optimizer/{name}" in checkpoint.details.numbers
        if is_number and value.dim():
            raise Refused("wrong_tensors", f"checkpoint: optimizer: {name}: a number cannot have dimensions")
        slots.setdefault(int(number), {})[slot] = value.item() if is_number else value
    return slots


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    text = to_json(checkpoint.details).decode()
    return safetensors.torch.save(checkpoint.tensors, metadata={METADATA_KEY: text})


def decode_checkpoint(data: bytes, what: str) -> Checkpoint:
    """Reads a checkpoint from untrusted bytes, whose size the caller has bounded.

    Raises:
        Refused: `malformed`, `not_canonical` or `too_large`.
    """
    size = int.from_bytes(data[:8], "little")
    if not 8 <= size + 8 <= min(len(data), MAX_HEADER_BYTES):
        raise Refused("malformed", f"{what}: not a safetensors file")
    try:
        header = msgspec.json.decode(data[8 : 8 + size], type=dict[str, Any])
        tensors = safetensors.torch.load(data)
    except (SafetensorError, msgspec.DecodeError, ValueError, RuntimeError, KeyError, OverflowError) as error:
        raise Refused("malformed", f"{what}: not a safetensors file: {str(error)[:200]}") from None
    metadata = header.get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise Refused("malformed", f"{what}: its metadata does not say what it is a checkpoint of")
    return Checkpoint(from_json(text.encode(), Details, limit=MAX_STATE_JSON_BYTES, what=what), tensors)


def checkpoint_limit(model: nn.Module) -> int:
    """The largest checkpoint that a reader with this model admits, bytes."""
    size = sum(t.nbytes for t in model.state_dict().values() if isinstance(t, Tensor))
    return size * (1 + SLOTS_PER_PARAMETER) + MAX_HEADER_BYTES


def architecture(model: nn.Module) -> str:
    """Names the modules' types and the shape of every tensor."""
    modules = [f"{name} {type(module).__qualname__}" for name, module in model.named_modules()]
    shapes = [f"{n} {t.dtype} {list(t.shape)}" for n, t in model.state_dict().items() if isinstance(t, Tensor)]
    return digest("tallystick/tolerant/architecture", *(text.encode() for text in (*modules, "", *shapes))).hex()


def groups_of_tensors(checkpoint: Checkpoint, trainable: set[str]) -> dict[str, dict[str, Tensor]]:
    """The floating-point tensors, by what they are: `weights` (trainable), `buffers` (the model's others) and `slots`.

    Tied weights are counted as often as the model names them.
    """
    found: dict[str, dict[str, Tensor]] = {"weights": {}, "buffers": {}, "slots": {}}
    for name, value in checkpoint.tensors.items():
        if value.is_floating_point() and not _counts(name):
            group = "slots" if name.startswith("optimizer/") else "buffers"
            found["weights" if name.removeprefix("model/") in trainable else group][name] = value
    return found


def counters(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors that are not floating-point, and those that count steps: equal exactly, or not equal."""
    return {name: value for name, value in checkpoint.tensors.items() if not value.is_floating_point() or _counts(name)}


def _counts(name: str) -> bool:
    return name.startswith("optimizer/") and name.endswith("/step")

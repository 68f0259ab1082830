"""Layers one by one: their gradients are those of PyTorch, and the same bits with and without the compiled kernels."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tallystick.exact.rounding import canonical
from tallystick.program.interpreter import prepare, run
from tallystick.program.optimizers import SGD
from tallystick.program.trace import trace
from tallystick.program.training import noise_key

TESTS = Path(__file__).parents[1]


class NormWithoutBias(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return functional.group_norm(x, self.num_groups, self.weight, None, self.eps)


class Roll(nn.Module):
    def __init__(self, shifts: int | tuple[int, ...], dims: int | tuple[int, ...]) -> None:
        super().__init__()
        self.shifts, self.dims = shifts, dims

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(x, self.shifts, self.dims)


def between(layer: nn.Module) -> nn.Module:
    """`layer` on 4 channels of 6x5 that need a gradient."""
    return nn.Sequential(nn.Conv2d(2, 4, 2), layer)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "group norm of rows": (lambda: nn.Sequential(nn.Linear(7, 6), nn.GroupNorm(2, 6)), (5, 7)),
    "group norm of signals": (lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.GroupNorm(3, 6)), (5, 2, 9)),
    "group norm of images": (lambda: between(nn.GroupNorm(2, 4)), (5, 2, 7, 6)),
    "group norm, one sample": (lambda: between(nn.GroupNorm(2, 4)), (1, 2, 7, 6)),
    "group norm, one group": (lambda: between(nn.GroupNorm(1, 4)), (5, 2, 7, 6)),
    "group norm, as many groups as channels": (lambda: between(nn.GroupNorm(4, 4)), (5, 2, 7, 6)),
    "group norm without bias": (lambda: between(NormWithoutBias(2, 4)), (5, 2, 7, 6)),
    "group norm without weights": (lambda: between(nn.GroupNorm(2, 4, affine=False)), (5, 2, 7, 6)),
    "valid padding": (lambda: between(nn.Conv2d(4, 3, 3, padding="valid")), (5, 2, 7, 6)),
    "valid padding, no bias": (lambda: between(nn.Conv2d(4, 3, 3, padding="valid", bias=False)), (5, 2, 7, 6)),
    "same padding": (lambda: between(nn.Conv2d(4, 3, 3, padding="same")), (5, 2, 7, 6)),
    "valid padding of signals": (lambda: nn.Sequential(nn.Conv1d(2, 6, 3, padding="valid")), (5, 2, 9)),
    "upsampling of images": (lambda: between(nn.Upsample(scale_factor=2)), (5, 2, 7, 6)),
    "upsampling by a broken factor": (lambda: between(nn.Upsample(scale_factor=(2.3, 1.6))), (2, 2, 7, 6)),
    "upsampling to a size": (lambda: between(nn.Upsample((13, 20))), (2, 2, 7, 6)),
    "upsampling to fewer": (lambda: between(nn.Upsample((4, 7))), (2, 2, 7, 6)),
    "upsampling by 49": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Upsample(scale_factor=49)), (2, 2, 5)),
    "upsampling of volumes": (
        lambda: between(nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Upsample(scale_factor=3))),
        (2, 2, 7, 6),
    ),
    "roll": (lambda: between(Roll(2, -1)), (5, 2, 7, 6)),
    "roll over the end": (lambda: between(Roll((-9, 1), (2, 3))), (5, 2, 7, 6)),
    "roll of all entries": (lambda: between(Roll(7, ())), (5, 2, 7, 6)),
}


def model_of(name: str) -> tuple[nn.Module, Tensor]:
    layer, shape = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(layer(), nn.Flatten())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(canonical(torch.randn(parameter.shape)))
        return model, canonical(torch.randn(shape))


def weighted(output: Tensor, target: Tensor) -> Tensor:
    """A loss in which every entry has another gradient."""
    return (output * target).mean()


def gradients(name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Ours and PyTorch's, the loss last."""
    model, x = model_of(name)
    loss = weighted(model(x), target := canonical(torch.cos(torch.arange(1.0, model(x).numel() + 1)).view(len(x), -1)))
    theirs = [*torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True), loss.detach()]
    traced = trace(model, weighted, SGD(), {"x": x, "y": target})
    ours = run(prepare(traced.program.gradient, 2**30), [*traced.parameters.values(), x, target, noise_key(0, 0, 0)])
    return ours, theirs


def bits() -> dict[str, str]:
    parts = {name: b"".join(g.contiguous().numpy().tobytes() for g in gradients(name)[0]) for name in LAYERS}
    return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_a_layer_is_that_of_torch(name: str) -> None:
    (*ours, loss), (*theirs, torch_loss) = gradients(name)
    for our, their in zip(ours, theirs, strict=True):
        assert float((our - their).abs().max()) <= 1e-5 * max(float(their.abs().max()), 0.01)
    assert abs(float(loss - torch_loss)) <= 1e-5  # it is a mean over terms of about one


def test_a_layer_has_the_same_bits_without_the_compiled_kernels() -> None:
    script = "import test_program_layers; print(*test_program_layers.bits().items(), sep=chr(10))"
    environment = os.environ | {
        "TALLYSTICK_NATIVE": "0",
        "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS / "unit")]),
    }
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.splitlines() == [str(item) for item in bits().items()]

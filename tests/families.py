"""One small model of each family that trains exactly, on real data: the digits, as images, rows or tokens."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tallystick.exact.random import philox
from tallystick.program.graph import Profile, encode_program, program_name
from tallystick.program.losses import BCEWithLogits, CrossEntropy, Huber, LossSpec, loss_function
from tallystick.program.optimizers import SGD, Adam, Clipped, Optimizer, Tensors
from tallystick.program.schedule import ConstantRate, CosineRate, LinearRate, Rate, StepRate
from tallystick.program.spec import DataSet, TrainingSpec
from tallystick.program.trace import specs, trace
from tallystick.program.training import Training, initial_state, prepare_training

DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "digits.safetensors"
NAME = "0" * 64
TOKENS = 17
LENGTH = 16


class Rotary(nn.Module):
    """Rotary positions: pairs of channels are turned by an angle that grows with the position."""

    cos: Tensor
    sin: Tensor

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        angles = [[place * 100.0 ** (-c / channels) for c in range(0, channels, 2)] for place in range(length)]
        self.register_buffer("cos", torch.tensor([[math.cos(angle) for angle in row] for row in angles]))
        self.register_buffer("sin", torch.tensor([[math.sin(angle) for angle in row] for row in angles]))

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.cat((even * self.cos - odd * self.sin, even * self.sin + odd * self.cos), -1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool, norm: type[nn.Module], act: nn.Module) -> None:
        super().__init__()
        self.before, self.between = norm(width), norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.act = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), act
        self.rotary = Rotary(width // heads, LENGTH)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(part) for part in self.qkv(self.before(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        added: Tensor = x + self.down(self.act(self.up(self.between(x))))
        return added

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Transformer(nn.Module):
    """Predicts the next of 17 gray levels."""

    def __init__(self, *, causal: bool, norm: type[nn.Module], act: nn.Module) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, 32), nn.Parameter(torch.randn(LENGTH, 32) * 0.02)
        self.blocks = nn.Sequential(*(Block(32, 4, causal=causal, norm=norm, act=act) for _ in range(2)))
        self.dropout, self.norm, self.scores = nn.Dropout(0.1), norm(32), nn.Linear(32, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(self.tokens(x) + self.places)
        scores: Tensor = self.scores(self.norm(self.blocks(h)))
        return scores


class Recurrent(nn.Module):
    """Reads an image row by row."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.cell, self.scores = cell(8, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.cell(x)
        scores: Tensor = self.scores(states[:, -1])
        return scores


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.LeakyReLU(0.1), nn.Linear(32, 10))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@dataclass(frozen=True)
class Family:
    model: Callable[[], nn.Module]
    data: Callable[[Tensors], Tensors]
    loss: LossSpec
    optimizer: Optimizer
    rate: Rate


@functools.cache
def _digits() -> Tensors:
    return load_file(DIGITS)


def _labels(shape: tuple[int, ...]) -> Callable[[Tensors], Tensors]:
    return lambda d: {"x": (d["train.x"].to(torch.float32) / 16).reshape(-1, *shape), "y": d["train.y"]}


def _next_tokens(d: Tensors) -> Tensors:
    stream = d["train.x"][:, 16 : 16 + LENGTH + 1].to(torch.int64)
    return {"x": stream[:, :-1].contiguous(), "y": stream[:, 1:].contiguous()}


def _one_hot(d: Tensors) -> Tensors:
    x = (d["train.x"].to(torch.float32) / 16).reshape(-1, 8, 8)
    return {"x": x, "y": nn.functional.one_hot(d["train.y"], 10).to(torch.float32)}


FAMILIES: dict[str, Family] = {
    "mlp": Family(perceptron, _labels((64,)), CrossEntropy(label_smoothing=0.1), SGD(0.9), ConstantRate("0.1")),
    "cnn": Family(
        convolutional,
        _labels((1, 8, 8)),
        CrossEntropy(weights=tuple(1 + 0.1 * c for c in range(10))),
        SGD(0.9, nesterov=True, weight_decay=1e-4),
        StepRate("0.1", 200, "0.5"),
    ),
    "transformer": Family(
        lambda: Transformer(causal=True, norm=nn.LayerNorm, act=nn.GELU()),
        _next_tokens,
        CrossEntropy(ignore_index=16),
        Adam(weight_decay=0.01, decoupled=True),
        CosineRate("0.003", "0.0003", 1000, 20),
    ),
    "llama": Family(
        lambda: Transformer(causal=False, norm=nn.RMSNorm, act=nn.GELU("tanh")),
        _next_tokens,
        CrossEntropy(),
        Clipped(Adam(), norm=1.0),
        LinearRate("0.003", "0", 1000, 20),
    ),
    "lstm": Family(lambda: Recurrent(nn.LSTM), _one_hot, Huber(), Clipped(SGD(0.9), value=0.05), ConstantRate("0.5")),
    "gru": Family(lambda: Recurrent(nn.GRU), _one_hot, BCEWithLogits(), Adam(), ConstantRate("0.003")),
}
SIZE, MICRO_BATCHES = 16, 2


def initialize(model: nn.Module) -> None:
    """Weights that are the same on every machine; torch's own depend on the instruction set.

    Matrices are uniform within 1/sqrt(inputs), biases zero, and the weights of norms stay one.
    """
    with torch.no_grad():
        for stream, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.dim() > 1:
                draws = philox(1, stream, parameter.numel())[:, 0].double() / 2**31 - 1
                parameter.copy_((draws / parameter[0].numel() ** 0.5).to(torch.float32).reshape(parameter.shape))
            elif "bias" in name:
                parameter.zero_()


def start(name: str, profile: Profile = "full", steps: int = 1000) -> tuple[Training, Tensors, nn.Module]:
    """A prepared run of a family, its state before step 0, and the model that it was traced from."""
    model = FAMILIES[name].model()
    initialize(model)
    return *start_with(model, FAMILIES[name], profile, steps), model


def start_with(
    model: nn.Module, family: Family, profile: Profile = "full", steps: int = 1000
) -> tuple[Training, Tensors]:
    """A prepared run of any model on a family's data and terms, and its state before step 0."""
    records = family.data(_digits())
    example = {key: value[:SIZE] for key, value in records.items()}
    traced = trace(model, loss_function(family.loss), family.optimizer, example, profile)
    spec = TrainingSpec(
        format="tallystick-training-v1",
        program=program_name(encode_program(traced.program)),
        initial_state=NAME,
        initial_root=NAME,
        train=DataSet(NAME, NAME, specs(records)),
        test=None,
        steps=steps,
        micro_batches=MICRO_BATCHES,
        seed=11,
        learning_rate=family.rate,
    )
    training = prepare_training(spec, traced.program, records)
    return training, initial_state(training, traced.parameters, traced.slots, traced.buffers)

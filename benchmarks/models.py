"""The models that are measured: plain PyTorch, written as if Tallystick did not exist."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A perceptron for images (uint8 [N, ...] of `sizes[0]` pixels, 0..`white`), with ReLU between its layers."""

    def __init__(self, *sizes: int, white: float = 255.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.white = white

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1).to(torch.float32) / self.white
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        scores: Tensor = self.layers[-1](x)
        return scores


class SmallCNN(nn.Module):
    """Two convolutions of stride 2 and a linear layer, for gray images (uint8 [N, 1, 28, 28])."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 5, 2, 2)
        self.second = nn.Conv2d(8, 16, 3, 2, 1)
        self.scores = nn.Linear(16 * 7 * 7, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.first(images.to(torch.float32) / 255))
        scores: Tensor = self.scores(torch.relu(self.second(x)).flatten(1))
        return scores


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut (He et al. 2016), which is 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels, `blocks` residual blocks each, for images (float32 [N, 3, 32, 32])."""

    def __init__(self, blocks: int = 2, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = [16, 16, 32, 64]
        stages = []
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            first = ResidualBlock(inputs, outputs, 1 if number == 0 else 2)
            stages.append(nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1) for _ in range(blocks - 1))))
        self.stages = nn.Sequential(*stages)
        self.scores = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.stages(self.stem(images)).mean((2, 3)))
        return scores


class TransformerBlock(nn.Module):
    """Pre-norm attention and GELU layers (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        parts = self.queries_keys_values(self.attention_norm(x)).reshape(n, t, 3, self.heads, d // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.joined(attended.transpose(1, 2).reshape(n, t, d))
        fed: Tensor = x + self.feed(self.feed_norm(x))
        return fed


class Transformer(nn.Module):
    """A causal language model: tokens (int64 [N, T]) to scores for the next one (float32 [N, T, vocabulary])."""

    def __init__(
        self, vocabulary: int = 96, width: int = 256, depth: int = 4, heads: int = 4, length: int = 128
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.norm(self.blocks(self.tokens(tokens) + self.places)))
        return scores

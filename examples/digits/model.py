"""The model of the digits task: a plain PyTorch module, written as if Tallystick did not exist."""

import torch
from torch import Tensor, nn


class Digits(nn.Module):
    """Scores 8x8 images of handwritten digits (uint8 [N, 64], entries 0..16) for the ten digits (float32 [N, 10])."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 128)
        self.scores = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.scores(torch.relu(self.hidden(images.to(torch.float32) / 16)))
        return scores


def build() -> nn.Module:
    return Digits()

"""A plain PyTorch loop with a record of it, and the `setup` that a verifier replays it with.

python examples/tolerant/digits.py run-1 --seed 1
"""

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tallystick.proof.tolerant import Recorder, Run


def setup(seed: int) -> Run:
    """Builds the run from nothing but the seed: the verifier calls this, too."""
    torch.manual_seed(seed)
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(indices: Sequence[int]) -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[indices]), y[indices])
        loss.backward()
        optimizer.step()
        return loss

    return Run(model, optimizer, TensorDataset(x, y), step)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("record")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    run = setup(options.seed)
    with Recorder(
        options.record, run.model, run.optimizer, run.data, seed=options.seed, interval=10, batch_size=32
    ) as recorder:
        for indices in recorder.batches(epochs=options.epochs):
            loss = run.step(indices)
            recorder.step(indices, loss)
    print(f"{options.record}: {recorder.done} steps")


if __name__ == "__main__":
    main()

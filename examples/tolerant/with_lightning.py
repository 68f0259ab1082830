"""The digits trained with Lightning, recorded, and the `setup` that a verifier replays it with.

python examples/tolerant/with_lightning.py pl-1 --seed 1
"""

import argparse
from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tallystick.proof.tolerant import Run
from tallystick.proof.tolerant.lightning import ProofCallback, run_of


class Digits(L.LightningModule):  # type: ignore[misc, unused-ignore]
    """An ordinary LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)]


def build(seed: int) -> tuple[Digits, DataLoader[Any]]:
    L.seed_everything(seed, verbose=False)
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels))
    return Digits(), DataLoader(data, batch_size=64, shuffle=True)


def setup(seed: int) -> Run:
    return run_of(*build(seed))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("record")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    module, loader = build(options.seed)
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[ProofCallback(options.record, seed=options.seed, interval=10)],
    )  # fmt: skip
    trainer.fit(module, loader)


if __name__ == "__main__":
    main()

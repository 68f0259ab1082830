"""Randomness of a recorded run: a function of (seed, step), so that there is no generator state to store or to forge.

Before each step the global generators of Python, NumPy and torch are seeded from the run's seed and the step's number.
Dropout and augmentation are then the same in a replay and after a restart, whatever a data loader drew in between.
"""

import functools
import random

import numpy as np
import torch

from tallystick.canon.hashing import digest
from tallystick.exact.random import permutation


def _derived(role: str, seed: int, number: int) -> int:
    name = digest(f"tallystick/tolerant/{role}", seed.to_bytes(8, "big"), number.to_bytes(8, "big"))
    return int.from_bytes(name[:8], "big")


def seed_step(seed: int, step: int) -> None:
    """Seeds the global generators for step `step`, counted from 0."""
    value = _derived("step", seed, step)
    random.seed(value)
    np.random.seed(value & 0xFFFF_FFFF)
    torch.manual_seed(value)


def batch_of_step(seed: int, step: int, records: int, batch_size: int) -> list[int]:
    """The record indices of step `step`: each epoch a new permutation of all records, its last odd records left out."""
    per_epoch = records // batch_size
    epoch, place = divmod(step, per_epoch)
    return _order(seed, epoch, records)[place * batch_size : (place + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, records: int) -> list[int]:
    order: list[int] = permutation(_derived("order", seed, 0), epoch, records).tolist()
    return order

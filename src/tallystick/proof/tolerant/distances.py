"""How far apart two sets of tensors are: the four metrics of the 2021 paper, in float64."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
import torch
from torch import Tensor

Metric = Literal["l1", "l2", "linf", "cosine"]
METRICS: Final[tuple[Metric, ...]] = ("l1", "l2", "linf", "cosine")


class Distances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number per metric; also used for thresholds, which are distances."""

    l1: float
    l2: float
    linf: float
    cosine: float
    """1 - cos of the angle, 0 for equal vectors (also for two zero vectors), at most 2."""

    def of(self, metric: Metric) -> float:
        value: float = getattr(self, metric)
        return value

    def within(self, limits: "Distances") -> bool:
        """Whether no metric is over its limit. A NaN is over every limit, which the 2021 code had the other way."""
        return all(self.of(metric) <= limits.of(metric) for metric in METRICS)

    def scaled(self, factor: float) -> "Distances":
        return Distances(*(self.of(metric) * factor for metric in METRICS))


ZERO: Final = Distances(0.0, 0.0, 0.0, 0.0)


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All entries as one float64 vector, tensors in the order of their names."""
    parts = [tensors[name].detach().reshape(-1).to("cpu", torch.float64) for name in sorted(tensors)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def distances(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Distances:
    """The distances between two sets of tensors with the same names and shapes."""
    return between(flat(left), flat(right))


def between(a: Tensor, b: Tensor) -> Distances:
    """The distances between two float64 vectors of one length."""
    if not a.numel():
        return ZERO
    difference = (a - b).abs()
    cosine = 0.0 if torch.equal(a, b) else _cosine(a, b)
    return Distances(float(difference.sum()), float((difference**2).sum().sqrt()), float(difference.max()), cosine)


def _cosine(a: Tensor, b: Tensor) -> float:
    norms = float(a.norm()) * float(b.norm())
    return max(0.0, 1.0 - float(a @ b) / norms) if norms != 0 else 1.0


def largest(values: list[Distances]) -> Distances:
    """The largest of each metric."""
    return Distances(*(max(value.of(metric) for value in values) for metric in METRICS))


def mean(values: list[Distances]) -> Distances:
    return Distances(*(sum(value.of(metric) for value in values) / len(values) for metric in METRICS))

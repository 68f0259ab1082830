"""What the referee is told about a tensor of a step: a line, that follows from earlier lines by one rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tallystick.proof.dispute.referee.numbers import Value

Index = tuple[int, ...]
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Operand:
    """A line where another one uses it."""

    number: int
    dtype: str
    shape: Index


@dataclass(frozen=True)
class Line:
    """A tensor and the rule of its elements; operands are among the arguments."""

    rule: str
    dtype: str
    shape: Index
    args: tuple[Any, ...]
    where: str = ""
    """Where in the program it comes from, for people."""


Read = Callable[[Operand, int], Value]
"""The element of an operand at a place in row-major order."""


class Lines:
    """Lines under construction, numbered from `first`."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.lines: list[Line] = []
        self.where = ""

    def add(self, rule: str, dtype: str, shape: Sequence[int], *args: Any) -> Operand:
        self.lines.append(Line(rule, dtype, tuple(shape), args, self.where))
        return Operand(self.first + len(self.lines) - 1, dtype, tuple(shape))

    def peak(self, shape: Sequence[int], *selection: Any) -> Operand:
        """The exponent above the terms of each entry."""
        return self.add("peak", "int32", shape, *selection)

    def sum(self, result: Operand, *selection: Any) -> Operand:
        exact = selection[1].dtype == "float32"
        units = self.peak(result.shape, *selection) if exact else None
        return self.add("sum", result.dtype, result.shape, units, *selection)

    def float32(self, x: Operand) -> Operand:
        return x if x.dtype == "float32" else self.add("cast", "float32", x.shape, x)


def size(shape: Sequence[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def index(shape: Sequence[int], place: int) -> Index:
    """The coordinates of a place in row-major order."""
    at = []
    for n in reversed(shape):
        place, coordinate = divmod(place, n)
        at.append(coordinate)
    return tuple(reversed(at))


def place(shape: Sequence[int], at: Sequence[int]) -> int:
    result = 0
    for n, coordinate in zip(shape, at, strict=True):
        result = result * n + coordinate
    return result


def broadcast(shape: Sequence[int], at: Index) -> int:
    """The place in a tensor of `shape` that meets entry `at` of a larger one."""
    return place(shape, [0 if n == 1 else c for n, c in zip(shape, at[len(at) - len(shape) :], strict=True)])


def span(axis: tuple[Any, ...], length: int, o: int) -> range:
    """The places of a line of `length` that window o covers."""
    if axis[0] == "even":
        return range(o * length // axis[1], -((o + 1) * length // -axis[1]))
    kernel, stride, padding, dilation = axis[1:]
    start = o * stride - padding
    skipped = max(0, -(start // dilation)) * dilation if start < 0 else 0
    return range(start + skipped, min(start + kernel * dilation, length), dilation)

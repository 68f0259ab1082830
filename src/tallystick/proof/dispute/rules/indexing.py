"""The lines of operators that write or add where an index of the data says.

All of them begin with a line that says, for each entry of the index's shape, which entry of the operand it names, in
row-major order. What is written is then the source's last entry that names a place, and what is added, all that do.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from tallystick.proof.dispute.rules.lines import Index, Lines, Operand

Coordinate = tuple[int | Operand, tuple[int, int]]
"""Of what is named: that of the entry itself, or what an index says at some of them (the first, and how many)."""


def scatter(lines: Lines, out: Operand, x: Operand, dim: int, chosen: Operand, source: Any) -> Operand:
    return _written(lines, out, x, _along(lines, x, dim, chosen), source)


def scatter_add(lines: Lines, out: Operand, x: Operand, dim: int, chosen: Operand, source: Operand) -> Operand:
    return _added(lines, out, x, _along(lines, x, dim, chosen), source)


def index_add(
    lines: Lines, out: Operand, x: Operand, dim: int, chosen: Operand, source: Operand, alpha: Any = 1
) -> Operand:
    terms = source if alpha == 1 else lines.add("mul", x.dtype, source.shape, source, alpha)
    dim %= max(len(x.shape), 1)
    where = [(d, (d, 1)) if d != dim else (chosen, (d, 1)) for d in range(len(x.shape))]
    return _added(lines, out, x, _named(lines, x, source.shape, where), terms)


def index(lines: Lines, out: Operand, x: Operand, indices: list[Operand | None]) -> Operand:
    return lines.add("taken", out.dtype, out.shape, x, _at(lines, x, indices))


def index_put(
    lines: Lines, out: Operand, x: Operand, indices: list[Operand | None], values: Operand, accumulate: bool = False
) -> Operand:
    named = _at(lines, x, indices)
    return _added(lines, out, x, named, values) if accumulate else _written(lines, out, x, named, values)


def _along(lines: Lines, x: Operand, dim: int, chosen: Operand) -> Operand:
    """The entry itself, but along `dim` what its index says."""
    dim %= max(len(x.shape), 1)
    every = (0, len(chosen.shape))
    return _named(lines, x, chosen.shape, [(chosen, every) if d == dim else (d, (d, 1)) for d in range(len(x.shape))])


def _at(lines: Lines, x: Operand, indices: list[Operand | None]) -> Operand:
    """As NumPy indexes: the dimensions of the indices stand where the first of them is, or in front if others part
    them."""
    given = {d: part for d, part in enumerate(indices) if part is not None}
    shape = _broadcast([part.shape for part in given.values()])
    rest = [d for d in range(len(x.shape)) if d not in given]
    together = list(given) == list(range(min(given, default=0), max(given, default=-1) + 1))
    first = min(given, default=0) if together else 0
    sizes = [x.shape[d] for d in rest]
    place = {d: number if number < first else number + len(shape) for number, d in enumerate(rest)}
    where = [(given[d], (first, len(shape))) if d in given else (place[d], (place[d], 1)) for d in range(len(x.shape))]
    return _named(lines, x, (*sizes[:first], *shape, *sizes[first:]), where)


def _named(lines: Lines, x: Operand, shape: Index, where: Sequence[Coordinate]) -> Operand:
    return lines.add("named", "int64", shape, x.shape, [part for part, _ in where], [span for _, span in where])


def _written(lines: Lines, out: Operand, x: Operand, named: Operand, source: Any) -> Operand:
    last = lines.add("hit", "int64", x.shape, named)
    return lines.add("scattered", out.dtype, out.shape, x, last, named.shape, source)


def _added(lines: Lines, out: Operand, x: Operand, named: Operand, source: Operand) -> Operand:
    last = lines.add("hit", "int64", x.shape, named)
    total = lines.sum(Operand(-1, x.dtype, x.shape), "landing", x, last, named, source)
    return lines.add("landed", out.dtype, out.shape, x, last, total)


def _broadcast(shapes: list[Index]) -> Index:
    backwards = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return tuple(reversed([next((n for n in sizes if n != 1), 1) for sizes in backwards]))

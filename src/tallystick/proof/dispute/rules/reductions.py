"""Operators whose element is a sum or an extreme over many elements, given term by term.

A *selection* says which terms an element has: how many places to look at, and for place k the operand's element that
counts there, or None. A *geometry* says the same for a sum of products. So one term can be judged without the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from tallystick.proof.dispute.referee.numbers import Value, above, float32, is_nan, magnitude, scaled, wide, wrapped
from tallystick.proof.dispute.rules.lines import Index, Line, Operand, Read, broadcast, index, place, size, span
from tallystick.proof.dispute.rules.random import philox

Place = tuple[Operand, int]
Selection = Callable[[Line, Index, tuple[Any, ...]], "Places"]
TERM_BITS: Final = 30
FLOOR: Final = -126
"""The exponent above no terms, or above zeros."""


@dataclass(frozen=True)
class Places:
    """`count` places to look at, and what element each of them names."""

    count: int
    pick: Callable[[int, Read], Place | None]


def _dims(line: Line, at: Index, args: tuple[Any, ...]) -> Places:
    """All entries of x along the dimensions that the result has not."""
    x, dims, keepdim = args
    outer = [d for d in range(len(x.shape)) if d not in dims]
    kept = [at[d] for d in outer] if keepdim else at
    inner = [x.shape[d] for d in dims]

    def pick(k: int, read: Read) -> Place:
        full = dict(zip(outer, kept, strict=True)) | dict(zip(dims, index(inner, k), strict=True))
        return x, place(x.shape, [full[d] for d in range(len(x.shape))])

    return Places(size(inner), pick)


def _prefix(line: Line, at: Index, args: tuple[Any, ...]) -> Places:
    """The entries of x up to this one along `dim`; with `whole`, all of the line."""
    x, dim, whole = args
    return Places(
        x.shape[dim] if whole else at[dim] + 1,
        lambda k, read: (x, place(x.shape, (*at[:dim], k, *at[dim + 1 :]))),
    )


def _tokens(line: Line, at: Index, args: tuple[Any, ...]) -> Places:
    """The gradients of the places where this row's token stands."""
    gradient, tokens, padding = args

    def pick(k: int, read: Read) -> Place | None:
        hit = read(tokens, k) == at[0] != padding
        return (gradient, k * line.shape[1] + at[1]) if hit else None

    return Places(size(tokens.shape), pick)


def window(x: Operand, axes: Sequence[tuple[Any, ...]], at: Index) -> list[int]:
    """The places in its image that the window at `at` covers, in row-major order."""
    rows, columns = (span(axis, n, o) for axis, n, o in zip(axes, x.shape[-2:], at[-2:], strict=True))
    return [row * x.shape[-1] + column for row in rows for column in columns]


def _window(line: Line, at: Index, args: tuple[Any, ...]) -> Places:
    x, axes = args
    covered = window(x, axes, at)
    image = place(x.shape[:-2], at[:-2]) * size(x.shape[-2:])
    return Places(len(covered), lambda k, read: (x, image + covered[k]))


def _covering(line: Line, at: Index, args: tuple[Any, ...]) -> Places:
    """Of the gradients of all windows of an image, those whose window covers this entry."""
    gradient, axes = args
    count = size(gradient.shape[-2:])
    image = place(line.shape[:-2], at[:-2]) * count

    def pick(k: int, read: Read) -> Place | None:
        o = index(gradient.shape[-2:], k)
        spans = [span(axis, n, c) for axis, n, c in zip(axes, line.shape[-2:], o, strict=True)]
        return (gradient, image + k) if at[-2] in spans[0] and at[-1] in spans[1] else None

    return Places(count, pick)


def _pooled(line: Line, at: Index, args: tuple[Any, ...]) -> Places:
    """Of the gradients of all windows of an image, those whose largest entry is this one."""
    gradient, places = args
    count, here = size(gradient.shape[-2:]), at[-2] * line.shape[-1] + at[-1]
    image = place(line.shape[:-2], at[:-2]) * count
    return Places(count, lambda k, read: (gradient, image + k) if read(places, image + k) == here else None)


def _landing(line: Line, at: Index, args: tuple[Any, ...]) -> Places:
    """This entry and all entries of a source whose index names it; none at all if no index does."""
    x, last, named, source = args
    here = place(line.shape, at)

    def pick(k: int, read: Read) -> Place | None:
        if k == 0:
            return (x, here) if read(last, here) >= 0 else None
        lands = read(named, k - 1) == here
        return (source, broadcast(source.shape, index(named.shape, k - 1))) if lands else None

    return Places(1 + size(named.shape), pick)


def _batches(line: Line, at: Index, args: tuple[Any, ...]) -> Places:
    """The same entry of each micro-batch's part."""
    first, stride, count = args
    here = place(line.shape, at)
    return Places(count, lambda k, read: (Operand(first.number + k * stride, first.dtype, first.shape), here))


SELECTIONS: Final[dict[str, Selection]] = {
    "dims": _dims,
    "prefix": _prefix,
    "tokens": _tokens,
    "window": _window,
    "covering": _covering,
    "pooled": _pooled,
    "landing": _landing,
    "batches": _batches,
}


def _selected(line: Line, number: int, skip: int) -> Places:
    """The selection named by argument `skip` of a line, with the arguments after it."""
    return SELECTIONS[line.args[skip]](line, index(line.shape, number), line.args[skip + 1 :])


@dataclass(frozen=True)
class Products:
    """`count` products of an element of a and one of b (None where an operand ends), and the places of their units."""

    count: int
    pick: Callable[[int], tuple[int, int] | None]
    unit_a: int
    unit_b: int


def _matmul(a: Operand, b: Operand, at: Index, options: Any) -> Products:
    *stack, i, j = at
    (m, depth), n, batch = a.shape[-2:], b.shape[-1], place(a.shape[:-2], stack)
    row, column = (batch * m + i) * depth, batch * depth * n + j
    return Products(depth, lambda k: (row + k, column + k * n), batch * m + i, batch * n + j)


def _conv(x: Operand, w: Operand, at: Index, options: Any) -> Products:
    """Output (n, o, ...): over input channels of the group and taps."""
    stride, padding, dilation, groups = options
    n, o, *there = at
    group = o // (w.shape[0] // groups)

    def pick(k: int) -> tuple[int, int] | None:
        c, *taps = index(w.shape[1:], k)
        source = [y * s - p + t * d for y, s, p, t, d in zip(there, stride, padding, taps, dilation, strict=True)]
        return _pair(x, (n, group * w.shape[1] + c, *source), w, (o, c, *taps))

    return Products(size(w.shape[1:]), pick, n, o)


def _conv_input(g: Operand, w: Operand, at: Index, options: Any) -> Products:
    """Gradient of input (n, c, ...): over output channels of the group and taps."""
    stride, padding, dilation, groups = options
    n, c, *here = at
    outputs = w.shape[0] // groups
    group, channel = divmod(c, w.shape[1])

    def pick(k: int) -> tuple[int, int] | None:
        o, *taps = index((outputs, *w.shape[2:]), k)
        o += group * outputs
        far = [y + p - t * d for y, p, t, d in zip(here, padding, taps, dilation, strict=True)]
        if any(y % s for y, s in zip(far, stride, strict=True)):
            return None
        return _pair(g, (n, o, *(y // s for y, s in zip(far, stride, strict=True))), w, (o, channel, *taps))

    return Products(outputs * size(w.shape[2:]), pick, n, c)


def _conv_weight(g: Operand, x: Operand, at: Index, options: Any) -> Products:
    """Gradient of weight (o, c, ...): over samples and output places."""
    stride, padding, dilation, groups = options
    o, c, *taps = at
    channel = o // (g.shape[1] // groups) * (x.shape[1] // groups) + c

    def pick(k: int) -> tuple[int, int] | None:
        n, *there = index((g.shape[0], *g.shape[2:]), k)
        source = [y * s - p + t * d for y, s, p, t, d in zip(there, stride, padding, taps, dilation, strict=True)]
        return _pair(g, (n, o, *there), x, (n, channel, *source))

    return Products(g.shape[0] * size(g.shape[2:]), pick, o, channel)


def _pair(a: Operand, at_a: Index, b: Operand, at_b: Index) -> tuple[int, int] | None:
    inside = all(0 <= c < n for op, at in ((a, at_a), (b, at_b)) for c, n in zip(at, op.shape, strict=True))
    return (place(a.shape, at_a), place(b.shape, at_b)) if inside else None


GEOMETRIES: Final = {"matmul": _matmul, "conv": _conv, "conv_input": _conv_input, "conv_weight": _conv_weight}


def _products(line: Line, number: int) -> Products:
    geometry, a, b, *_, options = line.args
    return GEOMETRIES[geometry](a, b, index(line.shape, number), options)


# What can be asked of a line whose elements are sums: rules "sum", "product" and "order".


def terms(line: Line, number: int) -> int:
    """How many terms element `number` adds up."""
    if line.rule == "order":
        return int(line.args[2])
    return _products(line, number).count if line.rule == "product" else _selected(line, number, 1).count


def term(line: Line, number: int, k: int, read: Read, claimed: Value) -> int:
    """Term k, an integer. `claimed` matters to "order" alone: whether record k comes before that record."""
    if line.rule == "order":
        seed, epoch, *_ = line.args
        return int(_draw(seed, epoch, k) < _draw(seed, epoch, int(claimed)))
    if line.rule == "product":
        _, a, b, units_a, units_b, bits, _ = line.args
        products = _products(line, number)
        picked = products.pick(k)
        if picked is None:
            return 0
        up, down = bits - int(read(units_a, products.unit_a)), bits - int(read(units_b, products.unit_b))
        return scaled(read(a, picked[0]), up) * scaled(read(b, picked[1]), down)
    chosen = _selected(line, number, 1).pick(k, read)
    if chosen is None:
        return 0
    units = line.args[0]
    return int(read(*chosen)) if units is None else scaled(read(*chosen), TERM_BITS - int(read(units, number)))


def finished(line: Line, number: int, total: int, read: Read) -> Value:
    """The element whose terms add up to `total`."""
    if line.rule == "product":
        _, _, _, units_a, units_b, bits, _ = line.args
        products = _products(line, number)
        unit = int(read(units_a, products.unit_a)) + int(read(units_b, products.unit_b)) - 2 * bits
    elif line.args[0] is None:
        return wrapped(line.dtype, total)
    else:
        unit = int(read(line.args[0], number)) - TERM_BITS
    return float32(wide(Fraction(total)) * Fraction(2) ** unit)


def _draw(seed: int, epoch: int, record: int) -> tuple[int, int]:
    words = philox(seed, epoch, record)
    return words[0] << 31 | words[1] >> 1, record


# What can be asked of a line whose elements are extremes: rules "peak", "most", "least", "hit", "first" and "last".


def candidates(line: Line, number: int) -> int:
    """How many candidates element `number` has."""
    if line.rule == "hit":
        return size(line.args[0].shape)
    return _selected(line, number, 0).count


def candidate(line: Line, number: int, k: int, read: Read) -> Value | None:
    """What candidate k offers; -1 is what there is without any, None if there is nothing."""
    if k < 0:
        return FLOOR if line.rule == "peak" else -1 if line.rule == "hit" else None
    if line.rule == "hit":
        return k if read(line.args[0], k) == number else -1
    picked = _selected(line, number, 0).pick(k, read)
    if picked is None:
        return None
    return above(magnitude(read(*picked))) if line.rule == "peak" else read(*picked)


def rank(line: Line, value: Value) -> tuple[bool, Value]:
    """What an extreme is the largest of; a NaN is more extreme than any number."""
    return is_nan(value), -value if line.rule == "least" else value


def place_rank(line: Line, number: int, claimed: int, read: Read) -> tuple[Any, ...] | None:
    """What the place of an extreme is the largest of; None for a place that is not one of the element's.

    Rules "argmax" and "argmin" are of the first extreme, "pooled_at" is of the first, or of the last NaN.
    """
    selected = _selected(line, number, 0)
    if line.rule == "pooled_at":
        _, x, axes = line.args
        covered = window(x, axes, index(line.shape, number))
        k = covered.index(claimed) if claimed in covered else -1
    else:
        k = claimed if 0 <= claimed < selected.count else -1
    picked = selected.pick(k, read) if k >= 0 else None
    if picked is None:
        return None
    value = read(*picked)
    if is_nan(value):
        return True, 0, k if line.rule == "pooled_at" else -k
    return False, -value if line.rule == "argmin" else value, -k


SUMS: Final = frozenset({"sum", "product", "order"})
EXTREMES: Final = frozenset({"peak", "most", "least", "hit"})
PLACES: Final = frozenset({"argmax", "argmin", "pooled_at"})

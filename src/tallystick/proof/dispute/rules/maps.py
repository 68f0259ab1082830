"""Operators whose element follows from a few elements: arithmetic, functions, layouts, indexing, and the step's own."""

from collections.abc import Callable
from fractions import Fraction
from math import nan
from typing import Any, Final

from tallystick.proof.dispute.referee import numbers as n
from tallystick.proof.dispute.referee.numbers import Number, UndefinedError, Value, float32
from tallystick.proof.dispute.rules.lines import Index, Line, Operand, Read, broadcast, index, place, span
from tallystick.proof.dispute.rules.random import philox

Rule = Callable[[Line, Index, Read], Value]


def _by_entry(function: Callable[..., Value]) -> Rule:
    """`function` of the result's dtype and the arguments, each a constant or the element that meets this one."""

    def rule(line: Line, at: Index, read: Read) -> Value:
        args = (read(arg, broadcast(arg.shape, at)) if isinstance(arg, Operand) else arg for arg in line.args)
        return function(line.dtype, *args)

    return rule


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    def function(dtype: str, a: Value, b: Value, alpha: Value = 1) -> Value:
        if dtype != "float32":
            return n.wrapped(dtype, operation(a, b if alpha == 1 else b * alpha))
        second = float32(b) if alpha == 1 else float32(float32(b) * float32(alpha))
        return float32(operation(float32(a), second))

    return function


def _comparison(operation: Callable[[Any, Any], bool]) -> Callable[..., Value]:
    def function(dtype: str, a: Value, b: Value) -> Value:
        exact = isinstance(a, int) and isinstance(b, int)
        return int(operation(a, b) if exact else operation(float32(a), float32(b)))

    return function


def _extreme(dtype: str, a: Value | None, b: Value | None, larger: bool) -> Value:
    """maximum or minimum; None is no bound."""
    x, y = (None if v is None else n.cast(dtype, v) for v in (a, b))
    if x is None or y is None:
        return x if y is None else y  # type: ignore[return-value]
    return nan if n.is_nan(x) or n.is_nan(y) else max(x, y) if larger else min(x, y)


def _clamp(dtype: str, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    return _extreme(dtype, _extreme(dtype, x, low, True), high, False)


def _integer_division(dtype: str, a: int, b: int, rest: bool) -> Value:
    if b == 0:
        raise UndefinedError("an integer is divided by zero")
    return n.wrapped(dtype, a % b if rest else a // b)


def _power(dtype: str, x: Value, exponent: Value) -> Value:
    if dtype != "float32":
        return n.wrapped(dtype, int(x) ** int(exponent))
    if exponent in {Fraction(1, 2), Fraction(-1, 2)}:
        return n.FUNCTIONS["sqrt" if exponent > 0 else "rsqrt"](x)
    return _whole_power(float32(x), int(exponent))


def _whole_power(x: Number, exponent: int) -> Number:
    """For an integer exponent within +-64, rounded as the text says."""
    if exponent in {2, 3}:
        square = float32(x * x)
        return square if exponent == 2 else float32(square * x)
    if exponent in {0, 1, -1}:
        return Fraction(1) if exponent == 0 else x if exponent == 1 else float32(n.quotient(Fraction(1), x))
    p = x
    for bit in bin(abs(exponent))[3:]:
        p = n.wide(p * p)
        p = n.wide(p * x) if bit == "1" else p
    return float32(p if exponent > 0 else n.quotient(Fraction(1), p))


def _whole(operation: Callable[[Number], int]) -> Callable[..., Value]:
    return lambda dtype, x: x if isinstance(x, int | float) else Fraction(operation(x))


BY_ENTRY: Final[dict[str, Callable[..., Value]]] = {
    "add": _arithmetic(lambda a, b: a + b),
    "sub": _arithmetic(lambda a, b: a - b),
    "mul": _arithmetic(lambda a, b: a * b),
    "div": _arithmetic(n.quotient),
    "eq": _comparison(lambda a, b: a == b),
    "ne": _comparison(lambda a, b: a != b),
    "lt": _comparison(lambda a, b: a < b),
    "le": _comparison(lambda a, b: a <= b),
    "gt": _comparison(lambda a, b: a > b),
    "ge": _comparison(lambda a, b: a >= b),
    "maximum": lambda d, a, b: _extreme(d, a, b, True),
    "minimum": lambda d, a, b: _extreme(d, a, b, False),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda d, x, high: _clamp(d, x, None, high),
    "neg": lambda d, x: n.cast(d, 0 - x),
    "abs": lambda d, x: n.cast(d, abs(x)),
    "sign": lambda d, x: n.cast(d, (x > 0) - (x < 0)),
    "relu": lambda d, x: n.cast(d, 0) if x <= 0 else x,
    "floor": _whole(lambda x: x.__floor__()),
    "ceil": _whole(lambda x: x.__ceil__()),
    "trunc": _whole(int),
    "round": _whole(round),
    "floor_divide": lambda d, a, b: _integer_division(d, a, b, False),
    "remainder": lambda d, a, b: _integer_division(d, a, b, True),
    "logical_and": lambda d, a, b: int(a != 0 and b != 0),
    "logical_or": lambda d, a, b: int(a != 0 or b != 0),
    "logical_xor": lambda d, a, b: int((a != 0) != (b != 0)),
    "logical_not": lambda d, x: int(x == 0),
    "bitwise_and": lambda d, a, b: n.wrapped(d, a & b),
    "bitwise_or": lambda d, a, b: n.wrapped(d, a | b),
    "bitwise_xor": lambda d, a, b: n.wrapped(d, a ^ b),
    "bitwise_not": lambda d, x: n.wrapped(d, 1 - x if d == "bool" else ~x),
    "isnan": lambda d, x: int(n.is_nan(x)),
    "isinf": lambda d, x: int(isinstance(x, float) and not n.is_nan(x)),
    "pow": _power,
    "where": lambda d, chosen, a, b: n.cast(d, a if chosen else b),
    "cast": n.cast,
    **{name: (lambda d, x, f=f: f(x)) for name, f in n.FUNCTIONS.items()},
    "below": lambda d, x, peak: float32(x - (0 if peak == float("-inf") else peak)),
    "fixed": lambda d, g, e, bits: max(-(2**bits), min(2**bits, n.scaled(g, bits - e))),
    "fixed_loss": lambda d, loss: n.scaled(max(-(2**30), min(2**30, loss)), 20),
    "mean_of": lambda d, q, e, bits, count: float32(n.wide(Fraction(q) * Fraction(2) ** (e - bits) / count)),
    "next_exponent": lambda d, e, peak: max(peak + 4, e - 1),
}


def _part(line: Line, at: Index) -> Index | None:
    """Which entry of a part (slice or select) entry `at` of the whole is; None if it lies outside."""
    whole, _, dim, *where = line.args
    dim %= len(whole.shape)
    if line.rule == "select_scatter":
        return at[:dim] + at[dim + 1 :] if at[dim] == where[0] % whole.shape[dim] else None
    start, end, step = _bounds(whole.shape[dim], *where)
    k, rest = divmod(at[dim] - start, step)
    return (*at[:dim], k, *at[dim + 1 :]) if rest == 0 and start <= at[dim] < end else None


def _bounds(length: int, start: int | None = None, end: int | None = None, step: int = 1) -> tuple[int, int, int]:
    return *slice(start, end).indices(length)[:2], step


def _into_part(line: Line, at: Index, read: Read) -> Value:
    inside = _part(line, at)
    whole, part = line.args[:2]
    return read(whole, place(whole.shape, at)) if inside is None else read(part, place(part.shape, inside))


def _slice(line: Line, at: Index, read: Read) -> Value:
    x, dim, *bounds = (*line.args, 0) if len(line.args) == 1 else line.args
    start, _, step = _bounds(x.shape[dim], *bounds)
    dim %= len(at)
    return read(x, place(x.shape, (*at[:dim], start + at[dim] * step, *at[dim + 1 :])))


def _select(line: Line, at: Index, read: Read) -> Value:
    x, dim, chosen = line.args
    dim %= len(x.shape)
    return read(x, place(x.shape, (*at[:dim], chosen % x.shape[dim], *at[dim:])))


def _permute(line: Line, at: Index, read: Read) -> Value:
    x, dims = line.args
    source = [0] * len(at)
    for coordinate, dim in zip(at, dims, strict=True):
        source[dim] = coordinate
    return read(x, place(x.shape, source))


def _cat(line: Line, at: Index, read: Read) -> Value:
    parts, dim = (*line.args, 0)[:2]
    dim %= len(at)
    k = at[dim]
    for part in parts:
        if part.shape == (0,):
            continue
        if k < part.shape[dim]:
            return read(part, place(part.shape, (*at[:dim], k, *at[dim + 1 :])))
        k -= part.shape[dim]
    raise UndefinedError("an entry beyond the parts")


def _repeat(line: Line, at: Index, read: Read) -> Value:
    x = line.args[0]
    near = at[len(at) - len(x.shape) :]
    return read(x, place(x.shape, [c % size for c, size in zip(near, x.shape, strict=True)]))


def _flip(line: Line, at: Index, read: Read) -> Value:
    x, flipped = line.args[0], {dim % max(len(at), 1) for dim in line.args[1]}
    return read(x, place(x.shape, [s - 1 - c if d in flipped else c for d, (c, s) in enumerate(zip(at, x.shape))]))  # noqa: B905


def _pad(line: Line, at: Index, read: Read) -> Value:
    x, pad, value = (*line.args, 0)[:3]
    before = [0] * (len(at) - len(pad) // 2) + list(reversed(pad[::2]))
    source = [c - b for c, b in zip(at, before, strict=True)]
    inside = all(0 <= c < size for c, size in zip(source, x.shape, strict=True))
    return read(x, place(x.shape, source)) if inside else n.cast(line.dtype, value)


def _checked(chosen: Value, length: int) -> int:
    if not 0 <= chosen < length:
        raise UndefinedError(f"the index {chosen} is not within 0..{length - 1}")
    return int(chosen)


def _gather(line: Line, at: Index, read: Read) -> Value:
    x, dim, chosen = line.args
    if not at:
        return read(x, 0)
    dim %= len(at)
    k = _checked(read(chosen, place(chosen.shape, at)), x.shape[dim])
    return read(x, place(x.shape, (*at[:dim], k, *at[dim + 1 :])))


def _index_select(line: Line, at: Index, read: Read) -> Value:
    """x with the entries that an index of any shape names in the place of dimension `dim`; so also an embedding."""
    x, dim, chosen = line.args
    dim, depth = dim % len(x.shape), len(at) - len(x.shape) + 1
    k = _checked(read(chosen, place(chosen.shape, at[dim : dim + len(chosen.shape)])), x.shape[dim])
    return read(x, place(x.shape, (*at[:dim], k, *at[dim + depth :])))


def _scattered(line: Line, at: Index, read: Read) -> Value:
    """What the last entry of the index that names this one writes here, else the entry itself."""
    x, last, named, source = line.args
    k = read(last, place(x.shape, at))
    if k < 0:
        return read(x, place(x.shape, at))
    return read(source, broadcast(source.shape, index(named, int(k)))) if isinstance(source, Operand) else source


def _named(line: Line, at: Index, read: Read) -> Value:
    """Which entry of a tensor the entry `at` of an index names; an index may count from the end."""
    shape, where, spans = line.args
    found = []
    for part, (first, count), length in zip(where, spans, shape, strict=True):
        k = read(part, broadcast(part.shape, at[first : first + count])) if isinstance(part, Operand) else at[part]
        found.append(_checked(k + length if k < 0 else k, length))
    return place(shape, found)


def _taken(line: Line, at: Index, read: Read) -> Value:
    x, named = line.args
    return read(x, int(read(named, place(named.shape, at))))


def _landed(line: Line, at: Index, read: Read) -> Value:
    """The sum of this entry and all that lands here; the entry itself, whatever it is, if nothing does."""
    x, last, total = line.args
    here = place(x.shape, at)
    return read(x if read(last, here) < 0 else total, here)


def _arange(line: Line, at: Index, read: Read) -> Value:
    start, _, step = (*line.args, 1)[:3]
    if line.dtype != "float32":
        return int(start + at[0] * step)
    return float32(n.wide(n.wide(Fraction(at[0] * step)) + start))


def _uniform(line: Line, at: Index, read: Read) -> Value:
    key, size, stream = line.args
    low, high = (int(read(key, word)) & 0xFFFFFFFF for word in (0, 1))
    block, word = divmod(place(size, at), 4)
    return Fraction(philox(low | high << 32, stream, block)[word] >> 8, 2**24)


def _window_size(line: Line, at: Index, read: Read) -> Value:
    """How many entries the average over a window is taken of."""
    shape, axes, padded = line.args
    count = 1
    for axis, length, o in zip(axes, shape[-2:], at, strict=True):
        if padded:
            _, kernel, stride, padding, _ = axis
            start = o * stride - padding
            count *= min(start + kernel, length + padding) - start
        else:
            count *= len(span(axis, length, o))
    return float32(count)


MAPS: Final[dict[str, Rule]] = {
    **{name: _by_entry(function) for name, function in BY_ENTRY.items()},
    "fill": lambda line, at, read: n.cast(line.dtype, line.args[0]),
    "words": lambda line, at, read: line.args[at[0]],
    "same": lambda line, at, read: read(line.args[0], place(line.shape, at)),
    "stack": lambda line, at, read: read(line.args[at[0]], 0),
    "permute": _permute,
    "slice": _slice,
    "select": _select,
    "slice_scatter": _into_part,
    "select_scatter": _into_part,
    "cat": _cat,
    "repeat": _repeat,
    "flip": _flip,
    "constant_pad_nd": _pad,
    "gather": _gather,
    "index_select": _index_select,
    "scattered": _scattered,
    "named": _named,
    "taken": _taken,
    "landed": _landed,
    "arange": _arange,
    "window_size": _window_size,
    "uniform": _uniform,
}


def element(line: Line, number: int, read: Read) -> Value:
    """Element `number` of a line that has a rule here."""
    return MAPS[line.rule](line, index(line.shape, number), read)

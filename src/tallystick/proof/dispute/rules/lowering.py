"""The lines of one graph of a program: each operator as rules of `maps` and `reductions`.

An operator that is several steps of arithmetic becomes several lines: a product is the largest magnitude of each row
and of each column, and then the integer product; softmax is a maximum, a difference, an exponential, a sum and a
quotient. The last line of a node is the node's value. An operator that exact-v1 does not have is a line of rule
"unknown".
"""

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import inf, nan
from typing import Any, Final

from tallystick.proof.dispute.referee.numbers import Value, float32
from tallystick.proof.dispute.rules import indexing
from tallystick.proof.dispute.rules.lines import Index, Json, Lines, Operand, size
from tallystick.proof.dispute.rules.maps import BY_ENTRY

Lowering = Callable[..., Operand]
"""Lines, the declared result, and the node's arguments; `bits` of products among the keywords."""


def lower(lines: Lines, graph: Json, inputs: Sequence[Operand], bits: int) -> tuple[list[Operand], list[Operand]]:
    """Adds the lines of a graph. Returns all its values in the order of the program, and its outputs."""
    values = list(inputs)
    for node in graph["nodes"]:
        result = node["result"]
        declared = Operand(-1, result["dtype"], tuple(result["shape"]))
        args = [_argument(arg, values) for arg in node["args"]]
        options = {name: _argument(arg, values) for name, arg in node["kwargs"].items() if name != "dtype"}
        lines.where = f"{result['name']}: {node['op']}"
        made = _lowered(lines, node["op"], declared, args, options, bits)
        assert (made.dtype, made.shape) == (declared.dtype, declared.shape), lines.where
        values.append(made)
    lines.where = ""
    return values, [values[ref["index"]] for ref in graph["outputs"]]


def _lowered(lines: Lines, op: str, out: Operand, args: list[Any], options: dict[str, Any], bits: int) -> Operand:
    _, name, overload = op.split(".")
    name = f"{name}/{overload.partition('/')[2]}" if "/" in overload else name
    known = LOWERINGS.get(f"{name}.{overload}") or LOWERINGS.get(name)
    if known is not None:
        return (
            known(lines, out, *args, **options, bits=bits) if known in PRODUCTS else known(lines, out, *args, **options)
        )
    if name in BY_ENTRY:
        return lines.add(name, out.dtype, out.shape, *args, *options.values())
    return lines.add("unknown", out.dtype, out.shape, *[arg for arg in args if isinstance(arg, Operand)])


def _argument(arg: Any, values: Sequence[Operand]) -> Any:
    if isinstance(arg, list):
        return [_argument(atom, values) for atom in arg]
    if not isinstance(arg, dict):
        return arg
    if arg["kind"] == "value":
        return values[arg["index"]]
    return _constant(arg["hex"]) if arg["kind"] == "float" else arg["name"]


@functools.lru_cache(maxsize=1024)
def _constant(text: str) -> Value:
    """A float32 constant, as float.hex writes it."""
    if text in {"inf", "-inf", "nan"}:
        return {"inf": inf, "-inf": -inf, "nan": nan}[text]
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text)
    digits, exponent = rest.removeprefix("0x").split("p")
    whole, _, fraction = digits.partition(".")
    return sign * Fraction(int(whole + fraction, 16), 16 ** len(fraction)) * Fraction(2) ** int(exponent)


def _rule(rule: str) -> Lowering:
    return lambda lines, out, *args: lines.add(rule, out.dtype, out.shape, *args)


def _first(rule: str) -> Lowering:
    """A rule that needs the first argument alone."""
    return lambda lines, out, x, *args, **options: lines.add(rule, out.dtype, out.shape, x)


def _fill(position: int | None, value: int = 0) -> Lowering:
    """A constant, or the argument at `position`."""

    def lowering(lines: Lines, out: Operand, *args: Any) -> Operand:
        return lines.add("fill", out.dtype, out.shape, value if position is None else args[position])

    return lowering


def _dims(x: Operand, dims: Any) -> list[int]:
    listed = [dims] if isinstance(dims, int) else list(dims or range(len(x.shape)))
    return [d % max(len(x.shape), 1) for d in listed] if x.shape else []


def _sum(lines: Lines, out: Operand, x: Operand, dims: Any = None, keepdim: bool = False) -> Operand:
    x = lines.float32(x) if out.dtype == "float32" else x
    if not x.shape and x.dtype == "float32":
        return lines.add("same", out.dtype, out.shape, x)
    return lines.sum(out, "dims", x, _dims(x, dims), keepdim)


def _mean(lines: Lines, out: Operand, x: Operand, dims: Any = None, keepdim: bool = False) -> Operand:
    count = size(x.shape) // max(size(out.shape), 1)
    return lines.add("div", out.dtype, out.shape, _sum(lines, out, x, dims, keepdim), float32(count))


def _extreme(rule: str) -> Lowering:
    def lowering(lines: Lines, out: Operand, x: Operand, dims: Any = None, keepdim: bool = False) -> Operand:
        if rule in {"any", "all"}:
            if not size(x.shape):
                return lines.add("fill", out.dtype, out.shape, int(rule == "all"))
            flags = lines.add("cast", "bool", x.shape, x)
            extreme = "most" if rule == "any" else "least"
            return lines.add(extreme, out.dtype, out.shape, "dims", flags, _dims(x, dims), keepdim)
        return lines.add(rule, out.dtype, out.shape, "dims", x, _dims(x, dims), keepdim)

    return lowering


def _softmax(lines: Lines, out: Operand, x: Operand, dim: int, half_to_float: bool = False) -> Operand:
    if not size(x.shape):
        return lines.add("same", "float32", out.shape, x)
    _, e, s = _exponentials(lines, out, x, dim)
    return lines.add("div", "float32", out.shape, e, s)


def _log_softmax(lines: Lines, out: Operand, x: Operand, dim: int, half_to_float: bool = False) -> Operand:
    if not size(x.shape):
        return lines.add("same", "float32", out.shape, x)
    t, _, s = _exponentials(lines, out, x, dim)
    return lines.add("sub", "float32", out.shape, t, lines.add("log", "float32", s.shape, s))


def _exponentials(lines: Lines, out: Operand, x: Operand, dim: int) -> tuple[Operand, Operand, Operand]:
    """x less its maximum, the exponentials of that, and their sum."""
    dims = _dims(x, dim)
    shape = tuple(1 if d in dims else n for d, n in enumerate(x.shape))
    peak = lines.add("most", "float32", shape, "dims", x, dims, True)
    t = lines.add("below", "float32", x.shape, x, peak)
    e = lines.add("exp", "float32", x.shape, t)
    return t, e, _sum(lines, Operand(-1, "float32", shape), e, dims, True)


def _cumsum(lines: Lines, out: Operand, x: Operand, dim: int) -> Operand:
    x = lines.float32(x) if out.dtype == "float32" else x
    if not x.shape:
        return lines.add("same", out.dtype, out.shape, x)
    dim %= len(x.shape)
    units = lines.peak(x.shape, "prefix", x, dim, True) if x.dtype == "float32" else None
    return lines.add("sum", out.dtype, out.shape, units, "prefix", x, dim, False)


def _matmul(lines: Lines, out: Operand, a: Operand, b: Operand, *, bits: int) -> Operand:
    rows = lines.peak(a.shape[:-1], "dims", a, [len(a.shape) - 1], False)
    columns = lines.peak((*b.shape[:-2], b.shape[-1]), "dims", b, [len(b.shape) - 2], False)
    return lines.add("product", "float32", out.shape, "matmul", a, b, rows, columns, bits, None)


def _geometry(
    stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int, *rest: Any
) -> tuple[Any, ...]:
    """What `reductions` needs of how ATen describes a convolution."""
    return stride, padding, dilation, groups


def _convolution(
    lines: Lines, out: Operand, x: Operand, w: Operand, bias: Operand | None, *geometry: Any, bits: int
) -> Operand:
    samples = lines.peak(x.shape[:1], "dims", x, list(range(1, len(x.shape))), False)
    channels = lines.peak(w.shape[:1], "dims", w, list(range(1, len(w.shape))), False)
    options = _geometry(*geometry)
    result = lines.add("product", "float32", out.shape, "conv", x, w, samples, channels, bits, options)
    if bias is None:
        return result
    shaped = lines.add("same", "float32", (1, out.shape[1], *[1] * (len(out.shape) - 2)), bias)
    return lines.add("add", "float32", out.shape, result, shaped)


def _convolution_input(
    lines: Lines, out: Operand, g: Operand, x: Operand, w: Operand, sizes: Any, *geometry: Any, bits: int
) -> Operand:
    options = _geometry(*geometry)
    groups = options[-1]
    samples = lines.peak(g.shape[:1], "dims", g, list(range(1, len(g.shape))), False)
    grouped = lines.add("same", "float32", (groups, w.shape[0] // groups, *w.shape[1:]), w)
    others = [1, *range(3, len(grouped.shape))]
    channels = lines.peak((groups, w.shape[1]), "dims", grouped, others, False)
    return lines.add("product", "float32", out.shape, "conv_input", g, w, samples, channels, bits, options)


def _convolution_weight(
    lines: Lines, out: Operand, g: Operand, x: Operand, w: Operand, sizes: Any, *geometry: Any, bits: int
) -> Operand:
    outputs = lines.peak(g.shape[1:2], "dims", g, [0, *range(2, len(g.shape))], False)
    inputs = lines.peak(x.shape[1:2], "dims", x, [0, *range(2, len(x.shape))], False)
    options = _geometry(*geometry)
    return lines.add("product", "float32", out.shape, "conv_weight", g, x, outputs, inputs, bits, options)


def _convolution_bias(lines: Lines, out: Operand, g: Operand, *rest: Any) -> Operand:
    return _sum(lines, out, g, [0, *range(2, len(g.shape))])


def _pair(sizes: Any) -> tuple[int, int]:
    several = [sizes] if isinstance(sizes, int) else list(sizes)
    return (int(several[0]), int(several[-1]))


def _axes(kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> list[tuple[Any, ...]]:
    parts = (_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation))
    return [("regular", *sizes) for sizes in zip(*parts, strict=True)]


def _even(shape: Index) -> list[tuple[Any, ...]]:
    return [("even", count) for count in shape[-2:]]


def _max_pool(rule: str) -> Lowering:
    def lowering(
        lines: Lines,
        out: Operand,
        x: Operand,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Operand:
        return lines.add(rule, out.dtype, out.shape, "window", x, _axes(kernel, stride, padding, dilation))

    return lowering


def _adaptive_max_pool(rule: str) -> Lowering:
    return lambda lines, out, x, sizes: lines.add(rule, out.dtype, out.shape, "window", x, _even(out.shape))


def _max_pool_gradient(lines: Lines, out: Operand, g: Operand, x: Operand, *rest: Any) -> Operand:
    return lines.sum(out, "pooled", g, rest[-1])


def _average_pool(
    lines: Lines,
    out: Operand,
    x: Operand,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    include: bool = True,
    divisor: int | None = None,
) -> Operand:
    axes = _axes(kernel, stride, padding)
    total = lines.sum(out, "window", x, axes)
    count = _counts(lines, out.shape, x, axes, include, divisor)
    return lines.add("div", "float32", out.shape, total, count)


def _average_pool_gradient(
    lines: Lines,
    out: Operand,
    g: Operand,
    x: Operand,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    include: bool,
    divisor: int | None,
) -> Operand:
    axes = _axes(kernel, stride, padding)
    count = _counts(lines, g.shape, x, axes, include, divisor)
    share = lines.add("div", "float32", g.shape, g, count)
    return lines.sum(out, "covering", share, axes)


def _adaptive_average(lines: Lines, out: Operand, x: Operand, sizes: Any) -> Operand:
    axes = _even(out.shape)
    total = lines.sum(out, "window", x, axes)
    return lines.add("div", "float32", out.shape, total, _counts(lines, out.shape, x, axes, False, None))


def _adaptive_average_gradient(lines: Lines, out: Operand, g: Operand, x: Operand) -> Operand:
    axes = _even(g.shape)
    share = lines.add("div", "float32", g.shape, g, _counts(lines, g.shape, x, axes, False, None))
    return lines.sum(out, "covering", share, axes)


def _counts(lines: Lines, shape: Index, x: Operand, axes: Any, include: bool, divisor: int | None) -> Any:
    """What each window's sum is divided by: a line, or a number."""
    if divisor is not None:
        return float32(divisor)
    return lines.add("window_size", "float32", shape[-2:], x.shape, axes, include)


def _embedding(lines: Lines, out: Operand, weight: Operand, tokens: Operand, *rest: Any) -> Operand:
    return lines.add("index_select", out.dtype, out.shape, weight, 0, tokens)


def _embedding_gradient(
    lines: Lines, out: Operand, g: Operand, tokens: Operand, rows: int, padding: int, scale: bool
) -> Operand:
    return lines.sum(out, "tokens", g, tokens, padding)


def _copy(lines: Lines, out: Operand, x: Operand, source: Operand, *rest: Any) -> Operand:
    return lines.add("cast", out.dtype, out.shape, source)


PRODUCTS: Final = {_matmul, _convolution, _convolution_input, _convolution_weight}
LOWERINGS: Final[dict[str, Lowering]] = {
    **{
        name: _first("same") for name in ("alias", "detach", "clone", "lift_fresh_copy", "view", "unsqueeze", "squeeze")
    },
    **{name: _fill(None) for name in ("zeros", "zeros_like", "empty", "empty_like", "empty_permuted")},
    **{name: _fill(None, 1) for name in ("ones", "ones_like")},
    **{name: _fill(1) for name in ("full", "full_like")},
    **{name: _rule(name) for name in ("permute", "slice", "select", "slice_scatter", "select_scatter", "cat", "flip")},
    **{name: _rule(name) for name in ("repeat", "constant_pad_nd", "gather", "index_select", "arange", "uniform")},
    "scalar_tensor": _fill(0),
    "expand": _first("cast"),
    "_to_copy": _first("cast"),
    "copy": _copy,
    "sum": _sum,
    "mean": _mean,
    "amax": _extreme("most"),
    "amin": _extreme("least"),
    "any": _extreme("any"),
    "all": _extreme("all"),
    "argmax": _extreme("argmax"),
    "argmin": _extreme("argmin"),
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "cumsum": _cumsum,
    "mm": _matmul,
    "bmm": _matmul,
    "convolution": _convolution,
    "convolution_backward/0": _convolution_input,
    "convolution_backward/1": _convolution_weight,
    "convolution_backward/2": _convolution_bias,
    "max_pool2d_with_indices/0": _max_pool("most"),
    "max_pool2d_with_indices/1": _max_pool("pooled_at"),
    "max_pool2d_with_indices_backward": _max_pool_gradient,
    "adaptive_max_pool2d/0": _adaptive_max_pool("most"),
    "adaptive_max_pool2d/1": _adaptive_max_pool("pooled_at"),
    "adaptive_max_pool2d_backward": _max_pool_gradient,
    "avg_pool2d": _average_pool,
    "avg_pool2d_backward": _average_pool_gradient,
    "_adaptive_avg_pool2d": _adaptive_average,
    "_adaptive_avg_pool2d_backward": _adaptive_average_gradient,
    "embedding": _embedding,
    "embedding_dense_backward": _embedding_gradient,
    "scatter": indexing.scatter,
    "scatter_add": indexing.scatter_add,
    "index_add": indexing.index_add,
    "index": indexing.index,
    "index_put": indexing.index_put,
}

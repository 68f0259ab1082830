"""The tensors of all lines of one training step, in the order of `rules.step`.

A node of the program is computed by its exact kernel. The lines between nodes, such as the exponents of a product, come
from the same functions that the kernels use, or, where there is none, from the referee's own rules, entry by entry.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Final, cast

import torch
from torch import Tensor

from tallystick.exact import accumulate, convolution, functions, indexing, pooling
from tallystick.exact import elementwise as by_entry
from tallystick.exact.creation import to_copy
from tallystick.exact.products import matmul
from tallystick.exact.rounding import exponent_above
from tallystick.exact.sums import exact_sum
from tallystick.program.dtypes import DTYPES
from tallystick.program.graph import DType
from tallystick.program.optimizers import Tensors
from tallystick.program.training import Training, combine, record_indices
from tallystick.proof.dispute.referee.numbers import Value, encoded
from tallystick.proof.dispute.rules import maps, reductions
from tallystick.proof.dispute.rules.lines import Line, Operand, Read, index, size
from tallystick.proof.dispute.rules.step import STATE, Section, Step

Tamper = Callable[[int, Tensor], Tensor]
"""What a line's tensor becomes, for a party that lies about it; tests and demonstrations have such parties."""
Held = dict[int, Tensor]


def honest(number: int, tensor: Tensor) -> Tensor:
    return tensor


def values(step: Step, training: Training, state: Tensors, tamper: Tamper = honest) -> Iterator[tuple[int, Tensor]]:
    """Every line of the step: its number and its tensor. Those of a micro-batch are let go of when it is over."""
    inputs: Held = {}
    for number, line in enumerate(step.inputs.lines):
        role, name = line.args
        inputs[number] = tamper(number, (state if role == STATE else training.records)[name])
        yield number, inputs[number]
    total: Tensors | None = None
    for j in range(step.batches):
        section, held = step.batch(j), dict(inputs)
        yield from _section(step, section, training, training.gradient.calls, held, None, tamper)
        part = {name: held[op.number] for name, op in section.named.items() if name != "order"}
        total = part if total is None else combine([total, part])
    yield from _section(step, step.tail, training, training.update.calls, inputs, total, tamper)


def after(step: Step, tensors: Mapping[int, Tensor], role: str) -> Tensors:
    """The state after the step, or the summed contribution, from its lines."""
    return {name: tensors[step.target(role, name).number] for name, _, _ in step.tensors(role)}


def _section(
    step: Step, section: Section, training: Training, calls: Any, held: Held, total: Tensors | None, tamper: Tamper
) -> Iterator[tuple[int, Tensor]]:
    inputs = len(section.nodes) - len(calls)
    made = {operand.number: at for at, operand in enumerate(section.nodes[inputs:])}
    nodes: list[Any] = [None] * len(section.nodes)
    for number, line in enumerate(section.lines, start=section.first):
        if number in made:
            for at, operand in enumerate(section.nodes[: inputs + made[number]]):
                nodes[at] = held[operand.number]
            value = calls[made[number]](nodes)
        elif line.rule == "order":
            value = record_indices(training, step.number, (number - step.first) // step.width)
        elif total is not None and line.args and "batches" in line.args[:2]:
            value = total[next(name for name, op in step.tail.named.items() if op.number == number).partition("/")[2]]
        else:
            value = _value(line, held)
        held[number] = tamper(number, value)
        yield number, held[number]


def _value(line: Line, held: Held) -> Tensor:
    """A line that is not a node of the program."""
    compute = COMPUTED.get(line.rule)
    result = compute(line, [_known(arg, held) for arg in line.args]) if compute else None
    if result is None:
        return _by_the_rules(line, held)
    return result.to(dtype_of(line.dtype)).reshape(line.shape)


def _known(arg: Any, held: Held) -> Any:
    if isinstance(arg, Operand):
        return held[arg.number]
    return [_known(atom, held) for atom in arg] if isinstance(arg, list) else arg


def _by_the_rules(line: Line, held: Held) -> Tensor:
    compute: Callable[[Line, int, Read], Value] = maps.element
    if line.rule in reductions.EXTREMES:
        compute = _largest
    elif line.rule in reductions.SUMS:
        compute = _sum
    return from_values(line.dtype, line.shape, [compute(line, at, reader(held)) for at in range(size(line.shape))])


def from_values(dtype: str, shape: tuple[int, ...], elements: list[Value]) -> Tensor:
    """A tensor from the referee's values."""
    data = bytearray(b"".join(encoded(dtype, element) for element in elements))
    kind = dtype_of(dtype)
    return torch.frombuffer(data, dtype=kind).reshape(shape) if data else torch.empty(shape, dtype=kind)


def dtype_of(name: str) -> torch.dtype:
    return DTYPES[cast(DType, name)]


def reader(held: Mapping[int, Tensor]) -> Read:
    """Elements of tensors, as the referee reads them from openings."""

    def read(operand: Operand, place: int) -> Value:
        entry: int | float = held[operand.number][index(operand.shape, place)].item()
        return Fraction(entry) if isinstance(entry, float) and math.isfinite(entry) else entry

    return read


def _largest(line: Line, at: int, read: Read) -> Value:
    found = (reductions.candidate(line, at, k, read) for k in range(-1, reductions.candidates(line, at)))
    return max((value for value in found if value is not None), key=lambda value: reductions.rank(line, value))


def _sum(line: Line, at: int, read: Read) -> Value:
    total = sum(reductions.term(line, at, k, read, 0) for k in range(reductions.terms(line, at)))
    return reductions.finished(line, at, total, read)


def _peak(line: Line, args: list[Any]) -> Tensor | None:
    selection, x = args[:2]
    none = torch.full(line.shape, reductions.FLOOR, dtype=torch.int64)
    if selection == "dims":
        dims = tuple(args[2])
        full = all(x.shape[d] for d in dims)
        return exponent_above(x.abs().amax(dims) if dims else x.abs()) if full else none
    if selection == "pooled":
        images, places = none.view(-1, line.shape[-2] * line.shape[-1]), args[2]
        exponents = exponent_above(x.abs()).view(len(images), -1)
        return images.scatter_reduce(1, places.reshape(len(images), -1), exponents, "amax")
    if selection == "tokens":
        tokens = args[2].reshape(-1, 1).to(torch.int64)
        counted = torch.where(tokens != args[3], exponent_above(x.abs()).view(-1, x.shape[-1]), reductions.FLOOR)
        return none.scatter_reduce(0, tokens.expand_as(counted), counted, "amax")
    if selection == "landing":
        hit, named, terms = _landing_terms(args[1:])
        own = torch.where(hit, exponent_above(x.abs()).reshape(-1), reductions.FLOOR)
        return own.scatter_reduce(0, named, exponent_above(terms.abs()), "amax")
    return None


def _summed(line: Line, args: list[Any]) -> Tensor | None:
    selection = args[1]
    if selection == "landing":
        hit, named, terms = _landing_terms(args[2:])
        total = indexing.add_rows(args[2].reshape(-1, 1), named, terms.reshape(-1, 1)).reshape(-1)
        return torch.where(hit, total, torch.zeros_like(total))
    if selection == "dims":
        return exact_sum(args[2], args[3], args[4])
    if selection == "window" and args[3][0][0] == "regular":
        kernel, stride, padding, _ = zip(*(axis[1:] for axis in args[3]), strict=True)
        ceil = tuple(line.shape) != tuple(torch.ops.aten.avg_pool2d(args[2].to("meta"), kernel, stride, padding).shape)
        return pooling.average_pool(args[2], kernel, stride, padding, ceil, divisor_override=1)
    return None


def _product(line: Line, args: list[Any]) -> Tensor | None:
    geometry, a, b, _, _, bits, options = args
    if geometry == "matmul":
        return matmul(a, b, bits)
    if geometry != "conv":
        return None
    stride, padding, dilation, groups = options
    return convolution.convolution(a, b, None, stride, padding, dilation, False, [0] * len(stride), groups, bits=bits)


def _named(line: Line, args: list[Any]) -> Tensor:
    """Which entry of a tensor each entry of an index names."""
    shape, where, spans = args
    places = torch.zeros(line.shape, dtype=torch.int64)
    for part, (first, count), n in zip(where, spans, shape, strict=True):
        chosen = part if isinstance(part, Tensor) else torch.arange(line.shape[part])
        after = [1] * (len(line.shape) - first - count)
        chosen = chosen.reshape([1] * (first + count - chosen.dim()) + list(chosen.shape) + after).to(torch.int64)
        places = places * n + torch.where(chosen < 0, chosen + n, chosen)
    return places


def _last_hits(line: Line, args: list[Any]) -> Tensor:
    """The last entry of an index that names each place; -1 for none."""
    named, none = args[0].reshape(-1), torch.full((size(line.shape),), -1)
    return none.scatter_reduce(0, named, torch.arange(named.numel()), "amax")


def _landing_terms(args: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Which places something is added to, what lands where, and what it is."""
    _, last, named, source = args
    leading = source[tuple(slice(n) for n in named.shape)] if source.dim() == named.dim() else source
    return last.reshape(-1) >= 0, named.reshape(-1), leading.expand(named.shape).reshape(-1)


def _below(line: Line, args: list[Any]) -> Tensor:
    x, peak = args
    return by_entry.minus(x, torch.where(peak == -torch.inf, torch.zeros_like(peak), peak))


COMPUTED: Final[dict[str, Callable[[Line, list[Any]], Tensor | None]]] = {
    "peak": _peak,
    "sum": _summed,
    "product": _product,
    "most": lambda line, args: args[1].amax(tuple(args[2]), keepdim=args[3]) if args[0] == "dims" else None,
    "below": _below,
    "exp": lambda line, args: functions.exp(args[0]),
    "log": lambda line, args: functions.log(args[0]),
    "div": lambda line, args: by_entry.divide(args[0], args[1]) if isinstance(args[1], Tensor) else None,
    "named": _named,
    "hit": _last_hits,
    "add": lambda line, args: by_entry.plus(args[0], args[1]),
    "sub": lambda line, args: by_entry.minus(args[0], args[1]),
    "cast": lambda line, args: to_copy(args[0], dtype_of(line.dtype)),
    "same": lambda line, args: args[0],
    "index_select": lambda line, args: torch.index_select(args[0], args[1], args[2]),
    "words": lambda line, args: torch.tensor(args),
    "stack": lambda line, args: torch.stack([x.reshape(()) for x in args]),
    "fixed": lambda line, args: _fixed(*args),
    "fixed_loss": lambda line, args: accumulate.loss_to_fixed(args[0]),
    "mean_of": lambda line, args: accumulate.mean_of(args[0], args[1], args[3]),
    "next_exponent": lambda line, args: accumulate.next_exponent(args[0], args[1]),
    "select": lambda line, args: args[0].select(args[1], args[2]),
}
"""Lines between nodes as tensors, given their arguments; None where only the rules know how."""


def _fixed(gradient: Tensor, exponent: Tensor, bits: int) -> Tensor:
    return accumulate.to_fixed(gradient, exponent, 2 ** (accumulate.SUM_BITS - bits))

"""The referee's rules applied to whole elements, for comparison with the kernels."""

import json
from typing import Any

import torch
from torch import Tensor

from tallystick.canon.encoding import to_json
from tallystick.exact.kernels import table
from tallystick.exact.rounding import canonical_number
from tallystick.program.dtypes import DTYPE_NAMES
from tallystick.program.graph import DTypeName, Float, Node, Ref, TensorSpec
from tallystick.proof.dispute.referee.numbers import Value, encoded
from tallystick.proof.dispute.rules import maps, reductions
from tallystick.proof.dispute.rules.lines import Line, Lines, Operand, Read, size
from tallystick.proof.dispute.rules.lowering import lower
from tallystick.proof.dispute.values import Held, _value, reader


def recomputed(line: Line, at: int, read: Read, claimed: Value) -> Value:
    """Element `at` from its operands. `claimed` is what it is held to be, for rules that only check."""
    if line.rule in maps.MAPS:
        return maps.element(line, at, read)
    if line.rule == "order":
        before = sum(reductions.term(line, at, k, read, claimed) for k in range(reductions.terms(line, at)))
        return claimed if before == line.args[3] + at else -1
    if line.rule in reductions.SUMS:
        total = sum(reductions.term(line, at, k, read, 0) for k in range(reductions.terms(line, at)))
        return reductions.finished(line, at, total, read)
    if line.rule in reductions.EXTREMES:
        found = (reductions.candidate(line, at, k, read) for k in range(-1, reductions.candidates(line, at)))
        return max((v for v in found if v is not None), key=lambda v: reductions.rank(line, v))
    assert line.rule in reductions.PLACES, line.rule
    ranks = [(reductions.place_rank(line, at, k, read), k) for k in range(200)]
    return max((rank, k) for rank, k in ranks if rank is not None)[1]


def bytes_at(line: Line, tensor: Tensor, at: int) -> bytes:
    entry = tensor.reshape(-1)[at].reshape(1)
    return bytes(entry.view(torch.uint8).tolist())


def differences(line: Line, number: int, held: Held, places: list[int]) -> list[tuple[int, Value, Value]]:
    """The elements, among some, of which rules and kernels say different things."""
    read = reader(held)
    found = []
    for at in places:
        want = read(Operand(number, line.dtype, line.shape), at)
        got = recomputed(line, at, read, want)
        if encoded(line.dtype, got) != bytes_at(line, held[number], at):
            found.append((at, got, want))
    return found


def lowered_call(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Line], Held, int]:
    """The lines of one operator, their tensors, and the number of the first."""
    inputs: list[Tensor] = []

    def argument(arg: Any) -> Any:
        if isinstance(arg, Tensor):
            inputs.append(arg)
            return Ref(len(inputs) - 1)
        if isinstance(arg, torch.dtype):
            return DTypeName(DTYPE_NAMES[arg])
        if isinstance(arg, list | tuple):
            return [argument(atom) for atom in arg]
        return Float(canonical_number(arg).hex()) if isinstance(arg, float) else arg

    args = tuple(canonical_number(arg) if isinstance(arg, float) else arg for arg in args)
    result = table(20)[op](*args, **kwargs)
    spec = TensorSpec("test", DTYPE_NAMES[result.dtype], tuple(result.shape))
    node = Node(op, [argument(arg) for arg in args], {name: argument(arg) for name, arg in kwargs.items()}, spec)
    graph = {"nodes": [json.loads(to_json(node))], "outputs": []}
    operands = [Operand(i, DTYPE_NAMES[x.dtype], tuple(x.shape)) for i, x in enumerate(inputs)]
    lines = Lines(len(inputs))
    values, _ = lower(lines, graph, operands, 20)
    held: Held = dict(enumerate(inputs))
    for number, line in enumerate(lines.lines, start=lines.first):
        held[number] = result if number == values[-1].number else _value(line, held)
    return lines.lines, held, lines.first


def all_places(line: Line, most: int) -> list[int]:
    """The elements of a line, or so many spread over it."""
    count = size(line.shape)
    return sorted({i * count // most for i in range(most)}) if count > most else list(range(count))

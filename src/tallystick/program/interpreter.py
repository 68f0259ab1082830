"""Runs a graph on exact kernels.

Before a graph is run for the first time, `prepare` infers every result's shape and dtype without allocating (torch's
meta device), once by ATen's operator and once by our kernel, and compares both with what the graph declares. So a
program from a stranger means what ATen says it means, cannot give a kernel arguments that it does not take, and cannot
make it allocate more than the graph says; and what it says is bounded.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import torch
from torch import Tensor

from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.kernels import table
from tallystick.exact.native import LIBRARY
from tallystick.program.dtypes import DTYPE_NAMES, DTYPES
from tallystick.program.fusion import Unit, fuse, references
from tallystick.program.graph import INTEGER_BITS, Arg, Atom, DTypeName, Float, Graph, Node, Ref, TensorSpec
from tallystick.program.sharing import share

__all__ = ["DTYPES", "DTYPE_NAMES", "Prepared", "prepare", "run"]

FACTORIES: Final = frozenset(
    {
        "aten.arange.start_step",
        "aten.empty.memory_format",
        "aten.empty_permuted.default",
        "aten.full.default",
        "aten.ones.default",
        "aten.scalar_tensor.default",
        "aten.zeros.default",
    }
)
"""Operators without a tensor operand, which must be told to infer on the meta device."""


@dataclass(frozen=True)
class Call:
    """One node, ready to run."""

    kernel: Callable[..., Any]
    node: Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    places: tuple[tuple[int, int], ...]
    """Arguments that are values: where in `args`, and which value."""
    lists: tuple[tuple[int, tuple[Atom, ...]], ...]
    """Arguments that are lists with values in them."""

    def __call__(self, values: Sequence[Any]) -> Any:
        args = list(self.args)
        for place, index in self.places:
            args[place] = values[index]
        for place, atoms in self.lists:
            args[place] = [values[atom.index] if isinstance(atom, Ref) else _fixed(atom) for atom in atoms]
        return self.kernel(*args, **self.kwargs)


@dataclass(frozen=True)
class Schedule:
    """Units in the order in which they run."""

    units: tuple[Unit, ...]
    releases: tuple[tuple[int, ...], ...]
    """For each unit, the values that nothing later needs."""


@dataclass(frozen=True)
class Prepared:
    """A graph whose shapes have been checked, with what it takes to run it."""

    graph: Graph
    bits: int
    """Size of the integers in matrix products: the profile (`graph.INTEGER_BITS`)."""
    calls: tuple[Call, ...]
    plain: Schedule
    """Node by node."""
    fused: Schedule
    """With chains for element-wise nodes where they can be compiled, else with what is costly computed once; as far as
    the memory limit allows it."""


def prepare(graph: Graph, memory_limit: int, bits: int = INTEGER_BITS["full"]) -> Prepared:
    """Checks shapes, dtypes and peak memory of `graph` without running it.

    Args:
        memory_limit: most bytes that may be alive at once, inputs included.
        bits: size of the integers in matrix products.

    Raises:
        Refused: `bad_program`, `too_large`, `unsupported_dtype` or `bad_constant`.
    """
    _infer(graph, bits)
    first = len(graph.inputs)
    single = [Unit((at,), tuple(references(n)), (first + at,), None) for at, n in enumerate(graph.nodes)]
    plain = _schedule(graph, single)
    peak, place = _peak(graph, plain)
    if peak > memory_limit:
        raise Refused("too_large", f"program: needs more than {memory_limit} bytes of memory {place}")
    kernels = table(bits)
    calls = tuple(_call(kernels[node.op], node) for node in graph.nodes)
    return Prepared(graph, bits, calls, plain, _fused(graph, plain, memory_limit))


def _fused(graph: Graph, plain: Schedule, memory_limit: int) -> Schedule:
    fused = _schedule(graph, share(graph) if LIBRARY is None else fuse(graph))
    return fused if _peak(graph, fused)[0] <= memory_limit else plain


def run(prepared: Prepared, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Runs a graph; `inputs` must fit its input specs.

    Raises:
        NonFiniteError: a kernel met an infinity or a NaN; the message says which operator and where in the model.
        Refused: `index_out_of_range`, if the records hold such an index.
    """
    graph = prepared.graph
    schedule = _chosen(prepared, inputs)
    values: list[Any] = [*inputs, *([None] * len(graph.nodes))]
    with _making_on(inputs):
        del inputs  # what only this run holds is let go of after its last use
        for unit, dead in zip(schedule.units, schedule.releases, strict=True):
            _run_unit(prepared, unit, values)
            for index in dead:
                values[index] = None
    return [values[ref.index] for ref in graph.outputs]


def _making_on(inputs: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """Operators that make a tensor from numbers make it where the inputs are; that is the CPU unless said otherwise."""
    return next((value.device for value in inputs if not value.is_cpu), nullcontext())


def _chosen(prepared: Prepared, inputs: Sequence[Tensor]) -> Schedule:
    for spec, value in zip(prepared.graph.inputs, inputs, strict=True):
        _require(spec, value, "input")
    return prepared.fused if all(value.is_cpu for value in inputs) else prepared.plain


def _run_unit(prepared: Prepared, unit: Unit, values: list[Any]) -> None:
    if not unit.nodes:
        values[unit.writes[0]] = values[unit.reads[0]]
        return
    if unit.chain is None:
        values[unit.writes[0]] = _result(prepared.calls[unit.nodes[0]], values)
        return
    results = unit.chain.run([values[index] for index in unit.reads])
    for index, result in zip(unit.writes, results, strict=True):
        values[index] = result


def _result(call: Call, values: Sequence[Any]) -> Tensor:
    node = call.node
    try:
        result: Tensor = call(values)
    except NonFiniteError as error:
        raise NonFiniteError(f"{node.result.name}: {node.op}: {error}") from None
    except Refused as error:
        raise Refused(error.code, f"{node.result.name}: {node.op}: {error.reason}") from None
    _require(node.result, result, node.op)
    return result


def _require(spec: TensorSpec, value: Tensor, what: str) -> None:
    if tuple(value.shape) != spec.shape or value.dtype != DTYPES[spec.dtype]:
        got = f"{value.dtype} {tuple(value.shape)}"
        raise Refused("bad_program", f"{spec.name}: {what}: declared {spec.dtype} {spec.shape}, got {got}")


def _schedule(graph: Graph, units: Sequence[Unit]) -> Schedule:
    """When each value is used for the last time; outputs are never released."""
    last: dict[int, int] = {}
    for position, unit in enumerate(units):
        last |= dict.fromkeys((*unit.writes, *unit.reads), position)
    for ref in graph.outputs:
        last.pop(ref.index, None)
    dead: list[list[int]] = [[] for _ in units]
    for index, position in sorted(last.items()):
        dead[position].append(index)
    return Schedule(tuple(units), tuple(map(tuple, dead)))


def _peak(graph: Graph, schedule: Schedule) -> tuple[int, str]:
    """Most bytes that are alive at once, and where in the model that is."""
    sizes = [spec.nbytes for spec in [*graph.inputs, *(node.result for node in graph.nodes)]]
    peak = alive = sum(spec.nbytes for spec in graph.inputs)
    place = "for the inputs alone"
    for unit, dead in zip(schedule.units, schedule.releases, strict=True):
        alive += sum(sizes[index] for index in unit.writes)
        if alive > peak:
            peak, place = alive, f"at {graph.nodes[unit.writes[0] - len(graph.inputs)].result.name}"
        alive -= sum(sizes[index] for index in dead)
    return peak, place


def _infer(graph: Graph, bits: int) -> None:
    """Shape inference on the meta device, which allocates nothing."""
    kernels = table(bits)
    with torch.device("meta"):
        values = [_blank(spec) for spec in graph.inputs]
        for node in graph.nodes:
            for operator in (_aten(node.op), kernels[node.op]):
                _infer_node(operator, node, values)
            values.append(_blank(node.result))


def _blank(spec: TensorSpec) -> Tensor:
    return torch.empty(spec.shape, dtype=DTYPES[spec.dtype])


def _infer_node(operator: Callable[..., Any], node: Node, values: Sequence[Tensor]) -> None:
    try:
        result = _apply(operator, node, values)
    except Refused as error:
        raise Refused(error.code, f"program: {node.op} ({node.result.name}): {error.reason}") from None
    except Exception as error:  # whatever torch raises for arguments that do not fit
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Refused("bad_program", f"program: {node.op} ({node.result.name}): {reason}") from None
    if not isinstance(result, Tensor) or not result.is_meta:
        raise Refused("bad_program", f"program: {node.op} ({node.result.name}) does not make one tensor from tensors")
    _require(node.result, result, node.op)


def _aten(op: str) -> Callable[..., Any]:
    """The operator as torch has it; "aten.name.overload/1" is its second output."""
    path, _, output = op.partition("/")
    namespace, name, overload = path.split(".")
    operator: Callable[..., Any] = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    if op in FACTORIES:
        return functools.partial(operator, device="meta")
    return (lambda *args, **kwargs: operator(*args, **kwargs)[int(output)]) if output else operator


def _apply(operator: Callable[..., Any], node: Node, values: Sequence[Any]) -> Any:
    return _call(operator, node)(values)


def _call(kernel: Callable[..., Any], node: Node) -> Call:
    places = tuple((place, arg.index) for place, arg in enumerate(node.args) if isinstance(arg, Ref))
    lists = tuple((place, tuple(arg)) for place, arg in enumerate(node.args) if _holds_values(arg))
    kwargs = {name: _fixed(arg) for name, arg in node.kwargs.items()}
    return Call(kernel, node, tuple(map(_fixed, node.args)), kwargs, places, lists)


def _holds_values(arg: Arg) -> TypeGuard[list[Atom]]:
    return isinstance(arg, list) and any(isinstance(atom, Ref) for atom in arg)


def _fixed(arg: Arg) -> Any:
    """What an argument is in every run; None for a value."""
    match arg:
        case Ref():
            return None
        case Float():
            return arg.value
        case DTypeName(name):
            return DTYPES[name]
        case list():
            return [_fixed(atom) for atom in arg]
        case _:
            return arg

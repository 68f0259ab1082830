"""Runs a graph on exact kernels.

Before a graph is run for the first time, `prepare` infers every result's shape and dtype without allocating (torch's
meta device), once by ATen's operator and once by our kernel, and compares both with what the graph declares. So a
program from a stranger means what ATen says it means, cannot give a kernel arguments that it does not take, and cannot
make it allocate more than the graph says; and what it says is bounded.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.kernels import KERNELS
from tallystick.program.graph import Arg, Atom, DType, DTypeName, Float, Graph, Node, Ref, TensorSpec

DTYPES: Final[dict[DType, torch.dtype]] = {
    "float32": torch.float32,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
FACTORIES: Final = frozenset({"aten.full.default", "aten.scalar_tensor.default"})
"""Operators without a tensor operand, which must be told to infer on the meta device."""
DTYPE_NAMES: Final[dict[torch.dtype, DType]] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Prepared:
    """A graph whose shapes have been checked, with what it takes to run it."""

    graph: Graph
    releases: tuple[tuple[int, ...], ...]
    """For each node, the values that nothing later needs."""


def prepare(graph: Graph, memory_limit: int) -> Prepared:
    """Checks shapes, dtypes and peak memory of `graph` without running it.

    Args:
        memory_limit: most bytes that may be alive at once, inputs included.

    Raises:
        Refused: `bad_program`, `too_large`, `unsupported_dtype` or `bad_constant`.
    """
    releases = _releases(graph)
    _infer(graph)
    alive = sum(spec.nbytes for spec in graph.inputs)
    if alive > memory_limit:
        raise Refused("too_large", f"program: the inputs alone need more than {memory_limit} bytes of memory")
    sizes = [spec.nbytes for spec in [*graph.inputs, *(node.result for node in graph.nodes)]]
    for node, dead in zip(graph.nodes, releases, strict=True):
        alive += node.result.nbytes
        if alive > memory_limit:
            raise Refused("too_large", f"program: needs more than {memory_limit} bytes of memory at {node.result.name}")
        alive -= sum(sizes[index] for index in dead)
    return Prepared(graph, releases)


def run(prepared: Prepared, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Runs a graph; `inputs` must fit its input specs.

    Raises:
        NonFiniteError: a kernel met an infinity or a NaN; the message says which operator and where in the model.
        Refused: `index_out_of_range`, if the records hold such an index.
    """
    graph = prepared.graph
    values: list[Any] = [*inputs]
    for spec, value in zip(graph.inputs, inputs, strict=True):
        _require(spec, value, "input")
    for node, dead in zip(graph.nodes, prepared.releases, strict=True):
        try:
            result = _apply(KERNELS[node.op], node, values)
        except NonFiniteError as error:
            raise NonFiniteError(f"{node.result.name}: {node.op}: {error}") from None
        except Refused as error:
            raise Refused(error.code, f"{node.result.name}: {node.op}: {error.reason}") from None
        _require(node.result, result, node.op)
        values.append(result)
        for index in dead:
            values[index] = None
    return [values[ref.index] for ref in graph.outputs]


def _require(spec: TensorSpec, value: Tensor, what: str) -> None:
    if tuple(value.shape) != spec.shape or value.dtype != DTYPES[spec.dtype]:
        got = f"{value.dtype} {tuple(value.shape)}"
        raise Refused("bad_program", f"{spec.name}: {what}: declared {spec.dtype} {spec.shape}, got {got}")


def _releases(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """After which node each value is used for the last time; outputs are never released."""
    last: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        last[len(graph.inputs) + position] = position
        for index in _references(node):
            last[index] = position
    for ref in graph.outputs:
        last.pop(ref.index, None)
    dead: list[list[int]] = [[] for _ in graph.nodes]
    for index, position in sorted(last.items()):
        dead[position].append(index)
    return tuple(map(tuple, dead))


def _references(node: Node) -> list[int]:
    found: list[int] = []
    for arg in [*node.args, *node.kwargs.values()]:
        found.extend(atom.index for atom in (arg if isinstance(arg, list) else [arg]) if isinstance(atom, Ref))
    return found


def _infer(graph: Graph) -> None:
    """Shape inference on the meta device, which allocates nothing."""
    with torch.device("meta"):
        values = [_blank(spec) for spec in graph.inputs]
        for node in graph.nodes:
            for operator in (_aten(node.op), KERNELS[node.op]):
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
    args = [_value(arg, values) for arg in node.args]
    return operator(*args, **{name: _value(arg, values) for name, arg in node.kwargs.items()})


def _value(arg: Arg, values: Sequence[Any]) -> Any:
    if isinstance(arg, list):
        return [_atom(atom, values) for atom in arg]
    return _atom(arg, values)


def _atom(atom: Atom, values: Sequence[Any]) -> Any:
    match atom:
        case Ref(index):
            return values[index]
        case Float():
            return atom.value
        case DTypeName(name):
            return DTYPES[name]
        case _:
            return atom

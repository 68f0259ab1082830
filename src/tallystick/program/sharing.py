"""Runs what is costly and would be computed twice only once, where there is no compiler to fuse with.

The backward pass of a function such as GELU repeats what the forward pass computed. A chain computes that again while
it is at it; node by node, it is better to keep the result. Kernels are functions of their arguments, so nodes with
equal operators and equal arguments have equal results.
"""

from typing import Any, Final

from tallystick.program.fusion import Unit, references
from tallystick.program.graph import Arg, Graph, Ref

COSTLY: Final = frozenset(
    f"aten.{name}.default" for name in ("erf", "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "sin", "cos")
)


def share(graph: Graph) -> list[Unit]:
    """Every node as a unit; one without nodes stands for a result that is there already, which it hands on."""
    first = len(graph.inputs)
    same = list(range(first))
    """For each value, the first one that equals it."""
    seen: dict[str, int] = {}
    units: list[Unit] = []
    for at, node in enumerate(graph.nodes):
        args, kwargs = [_named(arg, same) for arg in node.args], {n: _named(a, same) for n, a in node.kwargs.items()}
        key = repr((node.op, args, sorted(kwargs.items()), node.result.dtype, node.result.shape))
        earlier = seen.setdefault(key, first + at)
        same.append(earlier)
        repeated = earlier != first + at and node.op in COSTLY
        reads = (earlier,) if repeated else tuple(references(node))
        units.append(Unit(() if repeated else (at,), reads, (first + at,), None))
    return _needed(units, graph, same)


def _named(arg: Arg, same: list[int]) -> Any:
    if isinstance(arg, list):
        return [_named(atom, same) for atom in arg]
    return Ref(same[arg.index]) if isinstance(arg, Ref) else arg


def _needed(units: list[Unit], graph: Graph, same: list[int]) -> list[Unit]:
    """Without what only a repetition needed. The first of equal nodes stays, needed or not: it may have to refuse."""
    wanted = {ref.index for ref in graph.outputs}
    kept: list[Unit] = []
    for unit in reversed(units):
        (made,) = unit.writes
        if made in wanted or same[made] == made:
            wanted.update(unit.reads)
            kept.append(unit)
    return kept[::-1]

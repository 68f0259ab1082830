"""Groups element-wise nodes of a graph, so that each group runs as one chain with one pass over memory.

A group has one shape, and no path leads out of it and back in, so it can run as a unit. Nodes meet in a group when one
reads the other or both read the same tensor; what only the group itself reads is never written to memory. Constants
go into the chain. Everything here follows from the graph alone, and results do not depend on it.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tallystick.exact.native.elementwise import Assembly, Chain, Value
from tallystick.exact.native.lowering import NotCovered, lower
from tallystick.program.dtypes import DTYPES
from tallystick.program.graph import Arg, DTypeName, Float, Graph, Node, Ref, TensorSpec

WINDOW: Final = 1024
"""Nodes further apart than this are not grouped, which bounds the work for a program from a stranger."""
MAX_MEMBERS: Final = 64
MAX_READS: Final = 24
NEARBY: Final = 8
"""How many groups a node tries to join."""
FILLED: Final = {"aten.full.default", "aten.full_like.default", "aten.scalar_tensor.default"}
FILLED_WITH: Final = {"aten.zeros_like.default": 0.0, "aten.ones_like.default": 1.0, "aten.zeros.default": 0.0}


@dataclass(frozen=True)
class Unit:
    """What runs at once: a single node, a chain that stands for several, or nothing but another name (`sharing`)."""

    nodes: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    chain: Chain | None


def fuse(graph: Graph) -> list[Unit]:
    """Units in an order in which they can run; values are numbered as in the graph."""
    return _Fusion(graph).units()


def references(node: Node) -> list[int]:
    """The values that a node reads."""
    found: list[int] = []
    for arg in [*node.args, *node.kwargs.values()]:
        found.extend(atom.index for atom in (arg if isinstance(arg, list) else [arg]) if isinstance(atom, Ref))
    return found


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.first = len(graph.inputs)
        self.specs: list[TensorSpec] = [*graph.inputs, *(node.result for node in graph.nodes)]
        self.constants = {
            self.first + at: number for at, node in enumerate(graph.nodes) if (number := filled_with(node)) is not None
        }
        self.groups = _group(graph, self.specs, self.constants)

    def units(self) -> list[Unit]:
        outputs = {ref.index for ref in self.graph.outputs}
        readers = self._readers()
        units: list[Unit] = []
        for members in self._members():
            if len(members) == 1 and members[0] not in self.groups:
                node = self.graph.nodes[members[0]]
                value = self.first + members[0]
                if value in self.constants and value not in outputs and self._only_chains(readers[value]):
                    continue
                units.append(Unit((members[0],), tuple(references(node)), (value,), None))
                continue
            inside = set(members)
            values = [self.first + at for at in members]
            writes = [v for v in values if v in outputs or any(r not in inside for r in readers[v])]
            if writes:
                units.append(self._chain(members, writes))
        return _ordered(units)

    def _members(self) -> Iterator[list[int]]:
        """Groups and single nodes, by their first node."""
        groups: dict[int, list[int]] = {}
        for at in range(len(self.graph.nodes)):
            groups.setdefault(self.groups.get(at, ~at), []).append(at)
        yield from groups.values()

    def _readers(self) -> list[list[int]]:
        readers: list[list[int]] = [[] for _ in self.specs]
        for at, node in enumerate(self.graph.nodes):
            for value in references(node):
                readers[value].append(at)
        return readers

    def _only_chains(self, readers: list[int]) -> bool:
        return bool(readers) and all(at in self.groups for at in readers)

    def _chain(self, members: list[int], writes: list[int]) -> Unit:
        assembly = Assembly()
        made: dict[int, Value] = {}
        reads: list[int] = []
        for at in members:
            node = self.graph.nodes[at]
            for value in references(node):
                if value in made:
                    continue
                if value in self.constants:
                    made[value] = assembly.number(self.constants[value])
                else:
                    made[value] = assembly.input(DTYPES[self.specs[value].dtype])
                    reads.append(value)
            made[self.first + at] = _lowered(assembly, node, made)
        shape = self.graph.nodes[members[0]].result.shape
        chain = Chain(assembly, [made[value] for value in writes], shape)
        return Unit(tuple(members), tuple(reads), tuple(writes), chain)


def filled_with(node: Node) -> float | None:
    """The number that a float32 tensor is filled with, if the graph says it."""
    if node.result.dtype != "float32":
        return None
    if node.op in FILLED_WITH:
        return FILLED_WITH[node.op]
    number = node.args[-1] if node.op in FILLED and node.args else None
    if isinstance(number, Float):
        return number.value
    return float(number) if isinstance(number, int) and not isinstance(number, bool) else None


def _lowered(assembly: Assembly, node: Node, made: dict[int, Value]) -> Value:
    def argument(arg: Arg) -> Any:
        match arg:
            case Ref(index):
                return made[index]
            case Float():
                return arg.value
            case DTypeName(name):
                return DTYPES[name]
            case list():
                raise NotCovered
            case _:
                return arg

    args, kwargs = [argument(arg) for arg in node.args], {k: argument(v) for k, v in node.kwargs.items()}
    return lower(assembly, node.op, args, kwargs, DTYPES[node.result.dtype])


def _covered(node: Node, specs: list[TensorSpec], constants: dict[int, float]) -> bool:
    assembly = Assembly()
    made = {
        value: assembly.number(0.0) if value in constants else assembly.input(DTYPES[specs[value].dtype])
        for value in references(node)
    }
    try:
        _lowered(assembly, node, made)
    except NotCovered:
        return False
    return True


@dataclass
class _Group:
    shape: tuple[int, ...]
    members: list[int]
    reads: set[int]
    bits: int
    """One bit for each group that was merged into this one."""
    above: int
    """The bits of all groups that this one needs, directly or not."""


def _group(graph: Graph, specs: list[TensorSpec], constants: dict[int, float]) -> dict[int, int]:
    """Node to the number of its group, for the nodes that are in one."""
    found: dict[int, int] = {}
    for start in range(0, len(graph.nodes), WINDOW):
        window = _Window(graph, specs, constants, start)
        for at in range(start, min(start + WINDOW, len(graph.nodes))):
            window.add(at)
        found |= {at: group.members[0] for group in window.distinct() for at in group.members}
    return found


class _Window:
    """The groups among WINDOW nodes that follow each other."""

    def __init__(self, graph: Graph, specs: list[TensorSpec], constants: dict[int, float], start: int) -> None:
        self.graph, self.specs, self.constants = graph, specs, constants
        self.first = len(graph.inputs)
        self.of: dict[int, _Group] = {}
        """The group that a value is made in."""
        self.by_bit: list[_Group] = []
        self.above: dict[int, int] = {}
        """For a value that no group makes: the groups that it needs, up to the nearest."""
        self.readers: dict[int, list[_Group]] = {}

    def distinct(self) -> Iterable[_Group]:
        return {id(group): group for group in self.by_bit}.values()

    def add(self, at: int) -> None:
        node, value = self.graph.nodes[at], self.first + at
        if not _covered(node, self.specs, self.constants):
            self.above[value] = 0
            for v in references(node):
                self.above[value] |= self.of[v].bits if v in self.of else self.above.get(v, 0)
            return
        reads = [v for v in references(node) if v not in self.constants]
        group = _Group(node.result.shape, [at], set(reads), 1 << len(self.by_bit), 0)
        group.above = self._needed(reads)
        self.by_bit.append(group)
        self.of[value] = group
        full = [v for v in reads if self.specs[v].shape == group.shape]
        nearby = [self.of[v] for v in full if v in self.of] + [g for v in full for g in self.readers.get(v, [])]
        for other in nearby[-NEARBY:]:
            group = self._merged(group, self.by_bit[other.bits.bit_length() - 1])
        for v in full:
            kept = [g for g in self.readers.get(v, []) if g.bits & group.bits == 0]
            self.readers[v] = [*kept, group]

    def _needed(self, values: Iterable[int]) -> int:
        """The bits of every group that `values` need, directly or not."""
        needed = 0
        for v in values:
            rest = self.of[v].bits if v in self.of else self.above.get(v, 0)
            while rest & ~needed:
                group = self.by_bit[(rest & ~needed).bit_length() - 1]
                needed |= group.bits | group.above
        return needed

    def _merged(self, group: _Group, other: _Group) -> _Group:
        """Both as one group, if that is one unit; otherwise `group`."""
        if other is group or other.shape != group.shape or len(group.members) + len(other.members) > MAX_MEMBERS:
            return group
        made = {self.first + at for part in (group, other) for at in part.members}
        reads = (group.reads | other.reads) - made
        bits = group.bits | other.bits
        needed = self._needed(reads)
        if len(reads) > MAX_READS or needed & bits:
            return group
        merged = _Group(group.shape, sorted([*group.members, *other.members]), reads, bits, needed)
        for at in merged.members:
            self.of[self.first + at] = merged
        for index, old in enumerate(self.by_bit):
            if old.bits & bits:
                self.by_bit[index] = merged
            elif old.above & bits:
                old.above |= bits | needed
        return merged


def _ordered(units: list[Unit]) -> list[Unit]:
    """An order in which every unit runs after what it reads is there; among those that could run, the first node's."""
    maker = {value: number for number, unit in enumerate(units) for value in unit.writes}
    needs = [{maker[v] for v in unit.reads if v in maker} for unit in units]
    needed_by: list[list[int]] = [[] for _ in units]
    for number, makers in enumerate(needs):
        for other in makers:
            needed_by[other].append(number)
    missing = [len(makers) for makers in needs]
    ready = [(unit.nodes[0], number) for number, unit in enumerate(units) if missing[number] == 0]
    heapq.heapify(ready)
    ordered: list[Unit] = []
    while ready:
        _, number = heapq.heappop(ready)
        ordered.append(units[number])
        for later in needed_by[number]:
            missing[later] -= 1
            if missing[later] == 0:
                heapq.heappush(ready, (units[later].nodes[0], later))
    assert len(ordered) == len(units), "a group leads out and back into itself"
    return ordered

"""What is costly and occurs twice runs once, and results and errors stay the same."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tallystick.errors import NonFiniteError
from tallystick.program.graph import Arg, Float, Graph, Node, Ref, TensorSpec
from tallystick.program.interpreter import Call, Prepared, Schedule, prepare, run
from tallystick.program.sharing import share

GIB = 2**30
X = TensorSpec("x", "float32", (300, 40))
HALF = Float((0.5).hex())


def node(op: str, *args: Arg, shape: tuple[int, ...] = (300, 40)) -> Node:
    return Node(f"aten.{op}", list(args), {}, TensorSpec("layer", "float32", shape))


REPEATED = Graph(
    [X],
    [
        node("mul.Tensor", Ref(0), HALF),
        node("erf.default", Ref(1)),
        node("mul.Tensor", Ref(0), HALF),
        node("erf.default", Ref(3)),
        node("mul.Tensor", Ref(2), Ref(4)),
    ],
    [Ref(5), Ref(4)],
)


def shared(graph: Graph) -> Prepared:
    """As without a compiler, whether there is one here or not."""
    prepared = prepare(graph, GIB)
    units = tuple(share(graph))
    return replace(prepared, fused=Schedule(units, ((),) * len(units)))


def test_a_repetition_is_another_name_and_what_only_it_needed_is_gone() -> None:
    units = share(REPEATED)
    assert [(unit.nodes, unit.reads, unit.writes) for unit in units] == [
        ((0,), (0,), (1,)),
        ((1,), (1,), (2,)),
        ((), (2,), (4,)),
        ((4,), (2, 4), (5,)),
    ]


def test_results_are_those_of_running_every_node() -> None:
    prepared = shared(REPEATED)
    x = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    have, want = run(prepared, [x]), run(replace(prepared, fused=prepared.plain), [x])
    assert all(torch.equal(p, q) for p, q in zip(have, want, strict=True))


def test_a_repetition_is_not_computed() -> None:
    runs: list[int] = []

    def counting(call: Call) -> Call:
        def kernel(*args: object, **kwargs: object) -> Tensor:
            runs.append(1)
            result: Tensor = call.kernel(*args, **kwargs)
            return result

        return replace(call, kernel=kernel)

    prepared = shared(REPEATED)
    run(replace(prepared, calls=tuple(map(counting, prepared.calls))), [torch.ones(300, 40)])
    assert len(runs) == 3


def test_different_arguments_are_not_taken_for_a_repetition() -> None:
    other = REPEATED.nodes.copy()
    other[2] = node("mul.Tensor", Ref(0), Float((0.25).hex()))
    units = share(Graph([X], other, REPEATED.outputs))
    assert [unit.nodes for unit in units] == [(0,), (1,), (2,), (3,), (4,)]


def test_what_nothing_needs_still_refuses() -> None:
    """A machine with a compiler runs that node, too, and both must come to the same end."""
    graph = Graph([X], [node("sum.default", Ref(0), shape=()), node("exp.default", Ref(0))], [Ref(2)])
    with pytest.raises(NonFiniteError):
        run(shared(graph), [torch.full((300, 40), torch.inf)])

"""Groups of element-wise nodes: which nodes meet in one, and that results and errors stay the same."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tallystick.errors import NonFiniteError
from tallystick.program.fusion import MAX_MEMBERS, Unit, fuse
from tallystick.program.graph import Arg, Float, Graph, Node, Ref, TensorSpec
from tallystick.program.interpreter import Prepared, prepare, run

GIB = 2**30
TESTS = Path(__file__).parents[1]
X, Y = TensorSpec("x", "float32", (300, 40)), TensorSpec("y", "float32", (300, 40))


def node(op: str, *args: Arg, shape: tuple[int, ...] = (300, 40), name: str = "layer") -> Node:
    dtype = "bool" if op.startswith("le.") else "float32"
    return Node(f"aten.{op}", list(args), {}, TensorSpec(name, dtype, shape))  # type: ignore[arg-type]


def graph(*nodes: Node, outputs: list[int]) -> Graph:
    """Values 0 and 1 are the inputs x and y."""
    return Graph([X, Y], list(nodes), [Ref(index) for index in outputs])


def groups(units: list[Unit]) -> list[tuple[int, ...]]:
    return [unit.nodes for unit in units if unit.chain is not None]


def values(seed: int = 0) -> list[Tensor]:
    return [torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed)) for spec in (X, Y)]


def both(prepared: Prepared, inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Results with chains and node by node."""
    return run(prepared, inputs), run(replace(prepared, fused=prepared.plain), inputs)


CHAIN = (
    node("mul.Tensor", Ref(0), Float((0.5).hex())),
    node("add.Tensor", Ref(2), Ref(1)),
    node("exp.default", Ref(3)),
)


def test_a_chain_is_one_unit_and_writes_only_what_others_read() -> None:
    (unit,) = fuse(graph(*CHAIN, outputs=[4]))
    assert (unit.nodes, unit.reads, unit.writes) == ((0, 1, 2), (0, 1), (4,))
    (unit,) = fuse(graph(*CHAIN, outputs=[4, 2]))
    assert unit.writes == (2, 4)


def test_a_constant_goes_into_the_chain() -> None:
    nodes = (
        node("le.Scalar", Ref(0), 0),
        node("scalar_tensor.default", Float((0.25).hex()), shape=()),
        node("where.self", Ref(2), Ref(3), Ref(0)),
    )
    prepared = prepare(graph(*nodes, outputs=[4]), GIB)
    (unit,) = fuse(prepared.graph)
    assert (unit.nodes, unit.reads) == ((0, 2), (0,))
    fused, plain = both(prepared, values())
    assert torch.equal(fused[0], plain[0]) and bool((fused[0] == 0.25).any())
    assert len(fuse(graph(*nodes, outputs=[4, 3]))) == 2  # an output has to exist


def test_a_path_out_of_a_group_and_back_keeps_its_end_outside() -> None:
    nodes = (
        node("exp.default", Ref(0)),
        node("sum.dim_IntList", Ref(2), [1], True, shape=(300, 1)),
        node("div.Tensor", Ref(2), Ref(3)),
        node("mul.Tensor", Ref(4), Ref(1)),
    )
    units = fuse(graph(*nodes, outputs=[5]))
    assert [unit.nodes for unit in units] == [(0,), (1,), (2, 3)]
    fused, plain = both(prepare(graph(*nodes, outputs=[5]), GIB), values())
    assert torch.equal(fused[0], plain[0])


def test_a_detour_through_a_constant_shape_counts_as_a_path() -> None:
    """full_like reads only a shape, but what it makes exists after its operand."""
    nodes = (
        node("exp.default", Ref(0)),
        node("full_like.default", Ref(2), 2),
        node("permute.default", Ref(3), [0, 1]),
        node("mul.Tensor", Ref(2), Ref(4)),
    )
    fused, plain = both(prepare(graph(*nodes, outputs=[5]), GIB), values())
    assert torch.equal(fused[0], plain[0])


def test_two_readers_of_one_tensor_meet_and_unrelated_nodes_do_not() -> None:
    siblings = (node("exp.default", Ref(0)), node("neg.default", Ref(0)))
    assert groups(fuse(graph(*siblings, outputs=[2, 3]))) == [(0, 1)]
    strangers = (node("exp.default", Ref(0)), node("neg.default", Ref(1)))
    assert groups(fuse(graph(*strangers, outputs=[2, 3]))) == [(0,), (1,)]


def test_a_group_has_a_largest_size() -> None:
    nodes = [node("mul.Tensor", Ref(0), Ref(1))]
    nodes += [node("add.Tensor", Ref(2 + at), Ref(1)) for at in range(3 * MAX_MEMBERS)]
    prepared = prepare(graph(*nodes, outputs=[1 + len(nodes)]), GIB)
    assert max(map(len, groups(fuse(prepared.graph)))) == MAX_MEMBERS
    fused, plain = both(prepared, values())
    assert torch.equal(fused[0], plain[0])


def test_what_nobody_reads_is_not_computed() -> None:
    assert fuse(graph(node("exp.default", Ref(0)), outputs=[0])) == []


def test_an_error_names_operator_and_place_also_after_a_chain() -> None:
    nodes = (*CHAIN, node("sum.default", Ref(4), shape=(), name="encoder.0"))
    prepared = prepare(graph(*nodes, outputs=[5]), GIB)
    with pytest.raises(NonFiniteError, match=r"^encoder\.0: aten\.sum\.default: the operand of a sum holds"):
        run(prepared, [torch.full((300, 40), 3e38), torch.full((300, 40), 3e38)])


def test_chains_that_would_need_more_memory_than_admitted_are_not_used() -> None:
    """Node by node, each of the large values dies before the next is made; a chain would hold both."""
    nodes = (
        node("exp.default", Ref(0)),
        node("sum.default", Ref(2), shape=()),
        node("neg.default", Ref(0)),
        node("sum.default", Ref(4), shape=()),
    )
    tight = graph(*nodes, outputs=[3, 5])
    limit = 3 * X.nbytes + 8
    prepared = prepare(tight, limit)
    assert prepared.fused == prepared.plain
    assert groups(list(prepare(tight, limit + X.nbytes).fused.units)) in ([(0, 2)], [])  # none without a compiler


STATES = """
import torch
from program_samples import perceptron, records_of, start
from tallystick.program.training import train_step
from tallystick.proof.roots import state_root
torch.set_num_threads(2)
training, state = start(perceptron(hidden=700, features=6), records_of(120), size=16, micro_batches=3)
for step in range(4):
    state, _ = train_step(training, state, step)
    print(state_root(state, step + 1))
"""


def test_states_have_the_same_roots_with_and_without_compiled_kernels() -> None:
    printed = []
    for native in ("0", "1"):
        environment = os.environ | {"TALLYSTICK_NATIVE": native, "PYTHONPATH": str(TESTS)}
        done = subprocess.run(
            [sys.executable, "-c", STATES], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        printed.append(done.stdout.splitlines())
    assert len(printed[0]) == 4 and printed[0] == printed[1]

"""The program codec and `prepare`: one spelling, every odd program refused by name, and nothing large allocated."""

import json
import resource
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from program_samples import encoded, perceptron, traced
from tallystick.errors import NonFiniteError, Refused
from tallystick.program import graph as g
from tallystick.program.graph import Arg, DTypeName, Float, Graph, Node, Ref, TensorSpec, decode_program, encode_program
from tallystick.program.interpreter import prepare, run

GIB = 2**30
LIMIT = 8 * GIB


def refusal(function: Callable[[], object]) -> str:
    with pytest.raises(Refused) as refused:
        function()
    assert "\n" not in refused.value.reason
    return refused.value.code


def changed(change: Callable[[Any], object]) -> bytes:
    """The sample program after `change` on its JSON document, in canonical form again."""
    document = json.loads(encoded())
    change(document)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def refused_after(change: Callable[[Any], object]) -> str:
    return refusal(lambda: decode_program(changed(change)))


def test_a_program_survives_the_round_trip_and_keeps_its_name() -> None:
    program = traced(perceptron())
    assert decode_program(encoded()) == program
    assert encode_program(decode_program(encoded())) == encoded()
    assert changed(lambda document: None) == encoded()  # what `changed` writes is canonical


@pytest.mark.parametrize(
    "spelling",
    [
        encoded() + b"\n",
        b" " + encoded(),
        encoded().replace(b":", b": ", 1),
        encoded().replace(b'"slots":', b'"slots":[],"slots":', 1),
        encoded().replace(b'{"arithmetic":"exact-v1",', b'{"arithmetic":"exact-v1","arithmetic":"exact-v1",', 1),
        encoded().replace(b'"arithmetic"', b'"\\u0061rithmetic"', 1),
        encoded().replace(b'"dtype":"float32","shape":[8,6]', b'"shape":[8,6],"dtype":"float32"', 1),
    ],
)
def test_a_second_spelling_of_a_program_is_refused(spelling: bytes) -> None:
    assert spelling != encoded()
    assert refusal(lambda: decode_program(spelling)) == "not_canonical"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"exact-v1"', b'"exact-v2"'),
        (b'"arithmetic"', b'"code":"import os","arithmetic"'),
        (b'"float32"', b'"float64"'),
        (b'"shape":[8,6]', b'"shape":[8,-6]'),
        (b'"shape":[8,6]', b'"shape":[8,6.0]'),
        (b'"shape":[8,6]', b'"shape":[8,"6"]'),
        (b'"shape":[8,6]', b'"shape":[' + b"1," * 16 + b"1]"),
        (b'"shape":[8,6]', b'"shape":[2147483649]'),
        (b'"kind":"value"', b'"kind":"code"'),
        (b'"op":"aten', b'"op":"' + b"x" * 600 + b"aten"),
        (b'"name":"0.weight"', b'"name":"\\ud800"'),
        (b'"index":0', b'"index":-1'),
        (b'[1,0]', b'[1,99999999999999999999999999]'),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_types_is_malformed(old: bytes, new: bytes) -> None:
    assert old in encoded()
    assert refusal(lambda: decode_program(encoded().replace(old, new, 1))) == "malformed"


def test_size_is_bounded_before_parsing() -> None:
    assert refusal(lambda: decode_program(b"[" * (g.MAX_PROGRAM_BYTES + 1))) == "too_large"
    for data in (b"", b"[" * 1_000_000, b'{"arithmetic":' * 100_000, b"\xff\xfe", b"null", b"\0" * 100):
        assert refusal(partial(decode_program, data)) == "malformed"


@pytest.mark.parametrize(
    "spelling",
    ["0.5", "0x1p-1", "0x1.0p-1", "0X1.0000000000000P-1", " 0x1.0000000000000p-1", "0x1.00000000000000p-1", "1e400",
     "-nan", "NaN", "infinity", "+inf", "0x1.0000000000000p+999999999", "", "x", "0x0.8000000000000p+0",
     "-0x0.0p+0", "0x1.0000000000000p-126", "0x1.0000000000000p-149", "0x1.999999999999ap-4", "0x1.0000000000000p+128"],
)  # fmt: skip
def test_a_constant_that_is_not_a_canonical_float32_in_its_one_spelling_is_refused(spelling: str) -> None:
    def change(document: Any) -> None:
        document["update"]["nodes"][0]["args"][1]["hex"] = spelling

    assert refused_after(change) == "not_canonical"


@pytest.mark.parametrize("spelling", ["inf", "-inf", "nan", "0x0.0p+0", "-0x1.fffffe0000000p+127"])
def test_every_float32_constant_has_a_spelling(spelling: str) -> None:
    def change(document: Any) -> None:
        document["update"]["nodes"][0]["args"][1]["hex"] = spelling

    decode_program(changed(change))


@pytest.mark.parametrize(
    "op", ["aten.lgamma.default", "aten.mm.out", "os.system", "", "aten.mm", "prim.device.default"]
)
def test_an_operator_outside_the_table_is_refused(op: str) -> None:
    assert refused_after(lambda d: d["gradient"]["nodes"][0].update(op=op)) == "unsupported_operator"


CHANGES: dict[str, Callable[[Any], object]] = {
    "a value used before it exists": lambda d: d["gradient"]["nodes"][1]["args"][0].update(index=8),
    "a node that uses itself": lambda d: d["gradient"]["nodes"][0]["args"][0].update(index=7),
    "a value past all bounds": lambda d: d["gradient"]["nodes"][0]["args"][0].update(index=10**30),
    "an output that does not exist": lambda d: d["predict"]["outputs"][0].update(index=99),
    "a forward reference inside a list": lambda d: d["gradient"]["nodes"][0].update(
        args=[{"kind": "value", "index": 0}, [{"kind": "value", "index": 50}]]
    ),
    "a forward reference in a keyword": lambda d: d["gradient"]["nodes"][0].update(
        kwargs={"dims": {"kind": "value", "index": 50}}
    ),
    "a dtype as a value": lambda d: d["update"]["nodes"][0]["args"].__setitem__(1, {"kind": "dtype", "name": "int64"}),
    "an integer for a dtype, which would crash ATen": lambda d: d["gradient"]["nodes"][18].update(kwargs={"dtype": -1}),
    "a keyword that no operator has here": lambda d: d["gradient"]["nodes"][0].update(kwargs={"out": None}),
    "a tensor for a factor": lambda d: d["update"]["nodes"][1].update(kwargs={"alpha": {"kind": "value", "index": 0}}),
    "two parameters of one name": lambda d: d["parameters"][1].update(name="0.weight"),
    "two slots of one name": lambda d: d["slots"][1].update(name="momentum/0.weight"),
    "two batch tensors of one name": lambda d: d["batch"][1].update(name="x"),
    "no parameters": lambda d: d.update(parameters=[]),
    "no target": lambda d: d.update(batch=d["batch"][:1]),
    "batch tensors of different sizes": lambda d: d["batch"][1].update(shape=[6]),
    "an empty micro-batch": lambda d: [part.update(shape=[0, *part["shape"][1:]]) for part in d["batch"]],
    "a batch tensor without records": lambda d: d["batch"][1].update(shape=[]),
    "a gradient too few": lambda d: d["gradient"]["outputs"].pop(),
    "gradients in another order": lambda d: d["gradient"]["outputs"].reverse(),
    "parameters in another order": lambda d: d["update"]["outputs"].reverse(),
    "a vector for a learning rate": lambda d: d["update"]["inputs"][-1].update(shape=[1]),
    "an integer learning rate": lambda d: d["update"]["inputs"][-1].update(dtype="int64"),
    "a parameter that is not float32": lambda d: (
        [
            d[part][key][0].update(dtype="int64")
            for part, key in (("gradient", "inputs"), ("update", "inputs"), ("predict", "inputs"))
        ]
        + [d["parameters"][0].update(dtype="int64"), d["update"]["inputs"][8].update(dtype="int64")]
    ),
    "an input of another shape": lambda d: d["gradient"]["inputs"][0].update(shape=[6, 8]),
    "a tensor past the limit": lambda d: d["gradient"]["nodes"][0]["result"].update(shape=[2**31, 2]),
    "sizes that overflow beside a zero": lambda d: d["gradient"]["nodes"][0]["result"].update(shape=[2**31] * 4 + [0]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_program_that_does_not_hang_together_is_refused(what: str) -> None:
    assert refused_after(CHANGES[what]) == "bad_program"


F = TensorSpec("x", "float32", (3, 4))
INTEGERS = TensorSpec("i", "int64", (3, 1))
FLAGS = TensorSpec("flags", "bool", (3, 4))


def one_node(op: str, args: list[Arg], result: TensorSpec, **kwargs: Arg) -> Graph:
    return Graph([F, INTEGERS, FLAGS], [Node(op, args, kwargs, result)], [Ref(3)])


def spec(*shape: int, dtype: g.DType = "float32") -> TensorSpec:
    return TensorSpec("place", dtype, shape)


X, INDEX, FLAG = Ref(0), Ref(1), Ref(2)
BYTE, LONG = DTypeName("uint8"), DTypeName("int64")
HALF = Float("0x1.0000000000000p-1")
BAD_NODES: dict[str, Graph] = {
    "too few arguments": one_node("aten.mm.default", [X], spec(3, 3)),
    "too many arguments": one_node("aten.exp.default", [X, X], spec(3, 4)),
    "sizes that do not fit": one_node("aten.mm.default", [X, X], spec(3, 4)),
    "another shape than declared": one_node("aten.exp.default", [X], spec(4, 3)),
    "another dtype than declared": one_node("aten.exp.default", [X], spec(3, 4, dtype="int64")),
    "a number for a tensor": one_node("aten.exp.default", [1], spec()),
    "numbers alone, which would be computed while checking": one_node("aten.mul.Tensor", [2, 3], spec(dtype="int64")),
    "a keyword that only ATen knows": one_node("aten.full.default", [[2]], spec(2), fill_value=HALF),
    "an output argument": one_node("aten.exp.default", [X], spec(3, 4), out=X),
    "a memory format": one_node("aten.clone.default", [X], spec(3, 4), memory_format=1),
    "a list for a tensor": one_node("aten.exp.default", [[1, 2]], spec(2)),
    "a tensor for a size": one_node("aten.expand.default", [X, INDEX], spec(3, 4)),
    "negative sizes": one_node("aten.full.default", [[-3, 4], HALF], spec(3, 4)),
    "a size past int64": one_node("aten.full.default", [[2**62, 2**62], HALF], spec(3, 4)),
    "an integer matrix product": one_node("aten.mm.default", [INDEX, INDEX], spec(3, 1, dtype="int64")),
    "an integer past its dtype": one_node("aten.full.default", [[2], 300], spec(2, dtype="uint8"), dtype=BYTE),
    "a fraction for an integer": one_node("aten.full.default", [[2], HALF], spec(2, dtype="int64"), dtype=LONG),
    "a mean of integers, which ATen does not define": one_node("aten.mean.default", [INDEX], spec()),
    "a bool difference": one_node("aten.sub.Tensor", [FLAG, FLAG], spec(3, 4, dtype="bool")),
    "a bool magnitude": one_node("aten.abs.default", [FLAG], spec(3, 4, dtype="bool")),
    "a float summed as an integer": one_node("aten.sum.default", [X], spec(dtype="int64"), dtype=DTypeName("int64")),
    "a reduction over no such dimension": one_node("aten.sum.dim_IntList", [X, [5]], spec(4)),
    "a reduction over one dimension twice": one_node("aten.sum.dim_IntList", [X, [0, 0]], spec(4)),
    "an integer where a list belongs": one_node("aten.sum.dim_IntList", [X, 0], spec(4)),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_NODES)
def test_a_node_that_would_not_run_is_refused_before_it_runs(what: str) -> None:
    assert refusal(lambda: prepare(BAD_NODES[what], LIMIT)) in {"bad_program", "unsupported_dtype", "bad_constant"}


def peak_memory() -> int:
    """The most memory this process has had so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


BOMBS: dict[str, Graph] = {
    "full": one_node("aten.full.default", [[2**31], HALF], spec(2**31)),
    "full of an undeclared size": one_node("aten.full.default", [[2**40], HALF], spec(3)),
    "full_like": Graph([spec(2**31)], [Node("aten.full_like.default", [X, 1], {}, spec(2**31))], [Ref(1)]),
    "expand": one_node("aten.expand.default", [INDEX, [2**20, 3, 2**9]], spec(2**20, 3, 2**9, dtype="int64")),
    "matrix product": Graph(
        [spec(2**16, 1), spec(1, 2**16)], [Node("aten.mm.default", [X, INDEX], {}, spec(2**16, 2**16))], [Ref(2)]
    ),
    "broadcast": Graph(
        [spec(2**16, 1), spec(1, 2**15)], [Node("aten.add.Tensor", [X, INDEX], {}, spec(2**16, 2**15))], [Ref(2)]
    ),
    "inputs alone": Graph([spec(2**31), spec(2**31)], [], [Ref(0)]),
    "zeros that overflow": Graph([spec(*[2**31] * 15, 0)], [], [Ref(0)]),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_program_that_asks_for_much_memory_is_refused_without_allocating_it(what: str) -> None:
    before = peak_memory()

    def take() -> None:
        g.check_graph(BOMBS[what], "gradient")
        prepare(BOMBS[what], GIB)

    assert refusal(take) in {"too_large", "bad_program"}
    assert peak_memory() - before < 64 * 2**20


def chain(length: int, size: int) -> Graph:
    nodes = [Node("aten.exp.default", [Ref(i)], {}, spec(size)) for i in range(length)]
    return Graph([spec(size)], nodes, [Ref(length)])


def test_memory_counts_what_is_alive_at_once_and_no_more() -> None:
    """A chain of any length needs its input and result of one link; the graph's input dies with its last use."""
    prepare(chain(50, 1000), 2 * 4000)
    assert refusal(lambda: prepare(chain(50, 1000), 2 * 4000 - 1)) == "too_large"
    both = chain(2, 1000)
    kept = Graph(both.inputs, both.nodes, [Ref(0), Ref(1), Ref(2)])
    prepare(kept, 3 * 4000)
    assert refusal(lambda: prepare(kept, 3 * 4000 - 1)) == "too_large"


def test_running_names_the_operator_and_the_place_where_training_diverged() -> None:
    prepared = prepare(Graph([spec(2)], [Node("aten.sum.default", [Ref(0)], {}, spec())], [Ref(1)]), LIMIT)
    with pytest.raises(NonFiniteError, match=r"place: aten\.sum\.default: the operand of a sum holds an infinity"):
        run(prepared, [torch.tensor([float("inf"), 1.0])])


def test_running_refuses_records_with_an_index_out_of_range() -> None:
    prepared = prepare(one_node("aten.gather.default", [X, 1, INDEX], spec(3, 1)), LIMIT)
    inputs = [torch.zeros(3, 4), torch.tensor([[0], [4], [1]]), torch.zeros(3, 4, dtype=torch.bool)]
    with pytest.raises(Refused, match=r"place: aten\.gather\.default: an index is not within 0\.\.3") as refused:
        run(prepared, inputs)
    assert refused.value.code == "index_out_of_range"


def test_running_refuses_inputs_of_another_shape_or_dtype() -> None:
    prepared = prepare(chain(1, 3), LIMIT)
    for wrong in (torch.zeros(4), torch.zeros(3, dtype=torch.int32), torch.zeros(1, 3)):
        assert refusal(partial(run, prepared, [wrong])) == "bad_program"


def test_an_input_may_be_an_output() -> None:
    x = torch.tensor([1.0, 2.0])
    assert run(prepare(Graph([spec(2)], [], [Ref(0), Ref(0)]), LIMIT), [x])[1] is x

"""Hostile programs: bytes and structures near a valid one are refused or harmless, and what is admitted runs."""

import json
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from program_samples import encoded
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.kernels import KERNELS
from tallystick.exact.rounding import canonical
from tallystick.program.graph import (
    Arg,
    Atom,
    DType,
    DTypeName,
    Float,
    Graph,
    Node,
    Ref,
    TensorSpec,
    check_graph,
    decode_program,
    encode_program,
)
from tallystick.program.interpreter import DTYPE_NAMES, DTYPES, Prepared, prepare, run

LIMIT = 2**30
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 2), st.binary(max_size=2)), min_size=1, max_size=3)
DIGITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 9)), min_size=1, max_size=3)


def admits(data: bytes) -> bool:
    """Decodes and prepares; anything raised but Refused fails the test."""
    try:
        program = decode_program(data)
        for graph in (program.gradient, program.update, program.predict):
            prepare(graph, LIMIT)
    except Refused as refused:
        assert "\n" not in refused.reason
        return False
    assert encode_program(program) == data
    return True


@settings(max_examples=150, deadline=None)
@given(EDITS)
def test_edited_bytes_are_refused_or_are_a_program_in_canonical_form(edits: list[tuple[int, int, bytes]]) -> None:
    data = encoded()
    for place, cut, insert in edits:
        at = place % (len(data) + 1)
        data = data[:at] + insert + data[at + cut :]
    admits(data)


@settings(max_examples=100, deadline=None)
@given(DIGITS)
def test_changed_numbers_are_refused_or_harmless(changes: list[tuple[int, int]]) -> None:
    """Sizes, dimensions, references and constants, each still well-formed."""
    data = bytearray(encoded())
    places = [i for i, c in enumerate(data) if chr(c).isdigit()]
    for place, digit in changes:
        data[places[place % len(places)]] = ord(str(digit))
    admits(bytes(data))


JUNK: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, "", "float32", "nan", "inf", [], {}, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**64]),
    st.sampled_from([[2**31], [2**31, 0], [0], [-1], [[]]]),
    st.sampled_from([{"kind": "value", "index": 0}, {"kind": "dtype", "name": "bool"}]),
    st.sampled_from(sorted(KERNELS)),
    st.builds(lambda name: {"kind": "float", "hex": name}, st.sampled_from(["nan", "inf", "0x1.0000000000000p+127"])),
)  # fmt: skip


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a JSON document."""
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [path, *(found for key in keys for found in places(document[key], (*path, key)))]


PLACES = places(json.loads(encoded()))[1:]


def act(document: Any, path: tuple[Any, ...], action: str, junk: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    last = path[-1]
    if action == "delete":
        del document[last]
    elif action == "repeat" and isinstance(document, list):
        document.insert(last, document[last])
    else:
        document[last] = junk


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["replace", "replace", "delete", "repeat"]), JUNK),
    min_size=1,
    max_size=2,
)


@settings(max_examples=200, deadline=None)
@given(MUTATIONS)
def test_a_mutated_document_is_refused_or_harmless(mutations: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    document = json.loads(encoded())
    for path, action, junk in mutations:
        try:
            act(document, path, action, junk)
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # the first mutation took the second one's place away
    admits(json.dumps(document, separators=(",", ":")).encode())


A, B, C, LABELS, FLAGS, BYTES, CUBE, CUBE_2, SCALAR, NONE, COUNTS = map(Ref, range(11))
INPUTS = [
    TensorSpec("a", "float32", (3, 4)),
    TensorSpec("b", "float32", (3, 4)),
    TensorSpec("c", "float32", (4, 5)),
    TensorSpec("labels", "int64", (3, 1)),
    TensorSpec("flags", "bool", (3, 4)),
    TensorSpec("bytes", "uint8", (4,)),
    TensorSpec("cube", "float32", (2, 3, 4)),
    TensorSpec("cube_2", "float32", (2, 4, 3)),
    TensorSpec("scalar", "float32", ()),
    TensorSpec("none", "float32", (0, 4)),
    TensorSpec("counts", "int32", (3, 4)),
]
HALF = Float((0.5).hex())
BINARY: list[list[Arg]] = [[A, B], [CUBE, A], [A, SCALAR], [COUNTS, BYTES], [LABELS, A]]
WITH_NUMBER: list[list[Arg]] = [[A, HALF], [A, 2], [COUNTS, 3]]
COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
WELL_FORMED: dict[str, list[list[Arg]]] = {
    "aten.mm.default": [[A, C], [NONE, C]],
    "aten.bmm.default": [[CUBE, CUBE_2]],
    "aten.addmm.default": [[SCALAR, A, C]],
    **{f"aten.{name}.Tensor": BINARY for name in ("add", "sub", "mul", "div", *COMPARED)},
    **{f"aten.{name}.Scalar": WITH_NUMBER for name in ("add", "sub", "mul", "div", *COMPARED)},
    **{f"aten.{name}.default": [[A], [COUNTS], [NONE]] for name in ("neg", "relu", "exp", "log", "abs", "sum")},
    "aten.amax.default": [[A], [COUNTS, [0]]],
    **{f"aten.{name}.default": [[A], [FLAGS]] for name in ("clone", "alias", "detach", "_to_copy")},
    "aten.mean.default": [[A], [SCALAR]],
    **{f"aten.{name}.default": [[A, 1, False], [SCALAR, 0, False]] for name in ("_softmax", "_log_softmax")},
    **{name: [[A, [0]], [CUBE, [0, -1], True], [SCALAR, [0]]] for name in ("aten.sum.dim_IntList", "aten.mean.dim")},
    "aten.where.self": [[FLAGS, A, B], [FLAGS, COUNTS, A]],
    "aten.gather.default": [[A, 1, LABELS], [C, 0, LABELS]],
    "aten.scatter.value": [[A, 1, LABELS, HALF], [COUNTS, 1, LABELS, 1]],
    "aten.permute.default": [[A, [1, 0]]],
    "aten.view.default": [[A, [2, 6]], [CUBE, [-1]]],
    "aten.expand.default": [[BYTES, [3, 4]]],
    "aten.unsqueeze.default": [[A, 1]],
    "aten.squeeze.dims": [[LABELS, [1]]],
    "aten.squeeze.dim": [[LABELS, 1]],
    "aten.full.default": [[[2, 3], HALF], [[], 3]],
    "aten.full_like.default": [[A, 1], [COUNTS, 0]],
    "aten.scalar_tensor.default": [[HALF], [0]],
}
ATOMS: st.SearchStrategy[Atom] = st.one_of(
    st.integers(0, len(INPUTS) - 1).map(Ref),
    st.sampled_from([0, 1, -1, 2, 3, 255, 2**31, -(2**63), 2**63 - 1]),
    st.sampled_from([-1.0, 2.0**-125, 3.4028234663852886e38, float("inf"), float("nan")]).map(lambda x: Float(x.hex())),
    st.sampled_from([True, False, None]),
    st.sampled_from(sorted(DTYPES)).map(DTypeName),
)
ARGS: st.SearchStrategy[Arg] = st.one_of(
    ATOMS, st.lists(st.sampled_from([0, 1, -1, 2, 3]), max_size=3), st.lists(ATOMS, max_size=2)
)
KEYWORDS = st.dictionaries(
    st.sampled_from(["dtype", "dtype", "alpha", "beta", "keepdim", "self", "out"]),
    st.one_of(ARGS, st.sampled_from(sorted(DTYPES)).map(DTypeName)),
    max_size=1,
)


def declared(op: str, args: list[Arg], kwargs: dict[str, Arg]) -> list[TensorSpec]:
    """What a program could declare the result to be: every dtype with the shape that a kernel makes."""
    shapes: set[tuple[int, ...]] = {(3, 4), ()}
    _, name, overload = op.split(".")
    operator = getattr(getattr(torch.ops.aten, name), overload)
    values = [torch.zeros(spec.shape, dtype=DTYPES[spec.dtype], device="meta") for spec in INPUTS]

    def value(arg: Any) -> Any:
        if isinstance(arg, list):
            return [value(atom) for atom in arg]
        if isinstance(arg, Ref):
            return values[arg.index]
        return arg.value if isinstance(arg, Float) else DTYPES[arg.name] if isinstance(arg, DTypeName) else arg

    try:
        result = operator(*map(value, args), **{key: value(arg) for key, arg in kwargs.items()})
        shapes.add(tuple(result.shape))
    except Exception:
        return [TensorSpec("place", "float32", (3, 4))]
    dtype: DType = DTYPE_NAMES.get(result.dtype, "float32")
    return [TensorSpec("place", dtype, shape) for shape in sorted(shapes) if min(shape, default=0) >= 0]


def records(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randint(-2, 4, spec.shape, generator=generator).to(DTYPES[spec.dtype]) for spec in INPUTS]
    return [canonical(v / 3) if v.is_floating_point() else v for v in values]


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_whatever_prepare_admits_runs_and_returns_what_it_declared(data: st.DataObject) -> None:
    op = data.draw(st.sampled_from(sorted(KERNELS)))
    args = list(data.draw(st.sampled_from(WELL_FORMED[op])))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(args)))
        args[at : at + data.draw(st.integers(0, 1))] = [data.draw(ARGS)]
    kwargs = data.draw(st.one_of(st.just({}), KEYWORDS))
    try:
        check_graph(Graph(INPUTS, [Node(op, args, kwargs, INPUTS[0])], []), "gradient")
    except Refused:
        return
    for result in declared(op, args, kwargs):
        graph = Graph(INPUTS, [Node(op, args, kwargs, result)], [Ref(len(INPUTS))])
        prepared = prepared_or_none(graph)
        if prepared is None:
            continue
        try:
            (out,) = run(prepared, records(data.draw(st.integers(0, 99))))
        except NonFiniteError:
            continue
        except Refused as refused:
            assert refused.code == "index_out_of_range"
            continue
        assert (DTYPE_NAMES[out.dtype], tuple(out.shape)) == (result.dtype, result.shape)
        if out.dtype == torch.float32:
            assert torch.equal(canonical(out).view(torch.int32), out.contiguous().view(torch.int32))


def test_every_well_formed_node_is_admitted() -> None:
    assert set(WELL_FORMED) == set(KERNELS)
    for op, calls in WELL_FORMED.items():
        for args in calls:
            graphs = [Graph(INPUTS, [Node(op, args, {}, result)], []) for result in declared(op, args, {})]
            assert any(map(prepared_or_none, graphs)), op


def prepared_or_none(graph: Graph) -> Prepared | None:
    """What happens to a graph between bytes and the first run."""
    try:
        check_graph(graph, "gradient")
        return prepare(graph, LIMIT)
    except Refused:
        return None

"""Hostile programs: bytes and structures near a valid one are refused or harmless, and what is admitted runs."""

import json
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from program_samples import encoded
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.kernels import OPERATORS
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
    st.sampled_from(sorted(OPERATORS)),
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
PLACES_IN, FILTER, PAIR, TWO, TOKENS, THREE = map(Ref, range(11, 17))
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
    TensorSpec("places", "int64", (2, 3, 4)),
    TensorSpec("filter", "float32", (3, 3, 1)),
    TensorSpec("pair", "int64", (2,)),
    TensorSpec("two", "float32", (2,)),
    TensorSpec("tokens", "int64", (2, 3)),
    TensorSpec("three", "int64", (3,)),
]
HALF = Float((0.5).hex())
BINARY: list[list[Arg]] = [[A, B], [CUBE, A], [A, SCALAR], [COUNTS, BYTES], [LABELS, A]]
WITH_NUMBER: list[list[Arg]] = [[A, HALF], [A, 2], [COUNTS, 3]]
WHOLE: list[list[Arg]] = [[COUNTS, BYTES], [LABELS, COUNTS], [FLAGS, FLAGS]]
PLAIN: list[Arg] = [[1], [0], [1], False, [0], 1]
COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
WELL_FORMED: dict[str, list[list[Arg]]] = {
    "aten.mm.default": [[A, C], [NONE, C]],
    "aten.bmm.default": [[CUBE, CUBE_2]],
    "aten.convolution.default": [[CUBE, FILTER, None, *PLAIN], [CUBE, CUBE, TWO, *PLAIN]],
    **{
        f"aten.convolution_backward.default/{output}": [[CUBE, CUBE, FILTER, [3], *PLAIN, [True, True, True]]]
        for output in range(3)
    },
    **{f"aten.{name}.Tensor": BINARY for name in ("add", "sub", "mul", "div", "clamp_min", "clamp_max", *COMPARED)},
    **{f"aten.{name}.Scalar": WITH_NUMBER for name in ("add", "sub", "mul", "div", *COMPARED)},
    **{f"aten.bitwise_{name}.Tensor": WHOLE for name in ("and", "or", "xor")},
    **{f"aten.bitwise_{name}.Scalar": [[COUNTS, 3], [FLAGS, True]] for name in ("and", "or", "xor")},
    "aten.bitwise_not.default": [[COUNTS], [FLAGS]],
    "aten.remainder.Tensor": [[COUNTS, BYTES], [LABELS, COUNTS]],
    "aten.remainder.Scalar": [[COUNTS, 3], [LABELS, -1]],
    "aten.floor_divide.default": [[COUNTS, BYTES], [LABELS, COUNTS]],
    **{f"aten.{name}.default": [[A], [COUNTS], [NONE]] for name in ("neg", "relu", "exp", "log", "abs", "sum")},
    **{f"aten.{name}.default": [[A], [COUNTS], [NONE]] for name in ("expm1", "log1p", "tanh", "sigmoid", "erf")},
    **{f"aten.{name}.default": [[A], [COUNTS], [NONE]] for name in ("sin", "cos", "sqrt", "rsqrt", "reciprocal")},
    **{
        f"aten.{name}.default": [[A], [COUNTS]]
        for name in ("sign", "floor", "ceil", "round", "trunc", "isnan", "isinf")
    },
    **{
        f"aten.{name}.default": [[A], [FLAGS]] for name in ("logical_not", "lift_fresh_copy", "zeros_like", "ones_like")
    },
    **{f"aten.{name}.default": [[A], [FLAGS]] for name in ("ones_like", "empty_like", "any", "all", "isnan")},
    **{f"aten.logical_{name}.default": [[A, FLAGS], [COUNTS, BYTES]] for name in ("and", "or", "xor")},
    **{f"aten.{name}.dim": [[A, 0], [FLAGS, 1, True]] for name in ("any", "all")},
    **{f"aten.{name}.dims": [[A, [0, 1]], [FLAGS]] for name in ("any", "all")},
    **{f"aten.{name}.default": [[A, B], [COUNTS, BYTES]] for name in ("maximum", "minimum")},
    **{f"aten.{name}.default": [[A, HALF], [COUNTS, 1]] for name in ("clamp_min", "clamp_max")},
    "aten.clamp.default": [[A, None, HALF], [COUNTS, 0, 2]],
    "aten.clamp.Tensor": [[A, SCALAR, B], [COUNTS, None, BYTES]],
    "aten.pow.Tensor_Scalar": [[A, 2], [A, HALF], [COUNTS, 3]],
    "aten.amin.default": [[A], [COUNTS, [0]]],
    **{f"aten.{name}.default": [[A], [COUNTS, 1, True]] for name in ("argmax", "argmin")},
    "aten.cumsum.default": [[A, 0], [FLAGS, 1]],
    "aten.amax.default": [[A], [COUNTS, [0]]],
    **{f"aten.{name}.default": [[A], [FLAGS]] for name in ("clone", "alias", "detach", "_to_copy")},
    "aten.mean.default": [[A], [SCALAR]],
    **{f"aten.{name}.default": [[A, 1, False], [SCALAR, 0, False]] for name in ("_softmax", "_log_softmax")},
    **{name: [[A, [0]], [CUBE, [0, -1], True], [SCALAR, [0]]] for name in ("aten.sum.dim_IntList", "aten.mean.dim")},
    "aten.where.self": [[FLAGS, A, B], [FLAGS, COUNTS, A]],
    "aten.gather.default": [[A, 1, LABELS], [C, 0, LABELS]],
    "aten.scatter.value": [[A, 1, LABELS, HALF], [COUNTS, 1, LABELS, 1]],
    "aten.scatter.src": [[A, 1, LABELS, B]],
    "aten.scatter_add.default": [[A, 1, LABELS, B], [CUBE, 2, PLACES_IN, CUBE]],
    "aten.index_select.default": [[A, 0, PAIR], [COUNTS, 1, PAIR]],
    "aten.index_add.default": [[CUBE, 0, PAIR, CUBE]],
    "aten.index.Tensor": [[A, [LABELS]], [CUBE, [PAIR, None, PAIR]]],
    "aten.index_put.default": [[CUBE, [PAIR], CUBE], [A, [PAIR, PAIR], SCALAR, True], [CUBE, [None, PAIR], SCALAR]],
    "aten.embedding.default": [[A, LABELS], [C, PAIR, 1]],
    "aten.embedding_dense_backward.default": [[CUBE, TOKENS, 5, -1, False]],
    "aten.slice.Tensor": [[A, 1, 1, 3], [A, 0, None, None, 2]],
    "aten.select.int": [[A, 0, 1]],
    "aten.slice_scatter.default": [[A, B, 0], [C, C, 1, 0, 5]],
    "aten.select_scatter.default": [[LABELS, THREE, 1, 0]],
    "aten.constant_pad_nd.default": [[A, [1, 2]], [COUNTS, [0, -1], 3]],
    "aten.repeat.default": [[BYTES, [2, 3]]],
    "aten.flip.default": [[A, [0]]],
    "aten.cat.default": [[[A, B]], [[A, COUNTS], 1]],
    "aten.copy.default": [[A, COUNTS], [COUNTS, A]],
    **{f"aten.{name}.default": [[[2, 3]]] for name in ("zeros", "ones")},
    "aten.empty.memory_format": [[[2, 3]]],
    "aten.empty_permuted.default": [[[2, 3], [1, 0]]],
    "aten.arange.start_step": [[0, 5, 2], [0, HALF, HALF]],
    "tallystick.uniform.default": [[PAIR, [2, 3], 1]],
    **{f"aten.max_pool2d_with_indices.default/{output}": [[CUBE, 2, 1], [CUBE, [2, 2], [1, 1]]] for output in range(2)},
    "aten.max_pool2d_with_indices_backward.default": [[CUBE, CUBE, 1, 1, 0, 1, False, PLACES_IN]],
    **{f"aten.adaptive_max_pool2d.default/{output}": [[CUBE, [2, 2]]] for output in range(2)},
    "aten.adaptive_max_pool2d_backward.default": [[CUBE, CUBE, PLACES_IN]],
    "aten.avg_pool2d.default": [[CUBE, [2, 2], [1, 1]], [CUBE, 2]],
    "aten.avg_pool2d_backward.default": [[CUBE, CUBE, [1, 1], [1, 1], [0, 0], False, True, None]],
    "aten._adaptive_avg_pool2d.default": [[CUBE, [2, 3]], [CUBE, [1, 1]]],
    "aten._adaptive_avg_pool2d_backward.default": [[CUBE, CUBE], [CUBE, CUBE_2]],
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
    path, _, output = op.partition("/")
    namespace, name, overload = path.split(".")
    operator = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    values = [torch.zeros(spec.shape, dtype=DTYPES[spec.dtype], device="meta") for spec in INPUTS]

    def value(arg: Any) -> Any:
        if isinstance(arg, list):
            return [value(atom) for atom in arg]
        if isinstance(arg, Ref):
            return values[arg.index]
        return arg.value if isinstance(arg, Float) else DTYPES[arg.name] if isinstance(arg, DTypeName) else arg

    try:
        result = operator(*map(value, args), **{key: value(arg) for key, arg in kwargs.items()})
        result = result[int(output)] if output else result
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
    op = data.draw(st.sampled_from(sorted(OPERATORS)))
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
            assert refused.code in {"index_out_of_range", "division_by_zero"}
            continue
        assert (DTYPE_NAMES[out.dtype], tuple(out.shape)) == (result.dtype, result.shape)
        if out.dtype == torch.float32:
            assert torch.equal(canonical(out).view(torch.int32), out.contiguous().view(torch.int32))


def test_every_well_formed_node_is_admitted() -> None:
    assert set(WELL_FORMED) == OPERATORS
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

"""The compiled kernels around matrix products have the bits of the PyTorch kernels, whatever the shapes and values."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tallystick.errors import NonFiniteError
from tallystick.exact import accumulate, functions, native, reductions
from tallystick.exact.kernels import KERNELS
from tallystick.exact.native import accumulate as compiled
from tallystick.exact.native import lowering, reduce
from tallystick.exact.rounding import canonical, one_nan
from tallystick.exact.sums import exact_sum
from tallystick.program.graph import Arg, DTypeName, Float, Graph, Node, Ref, TensorSpec
from tallystick.program.interpreter import DTYPES, prepare, run

SPECIAL = [0.0, 1.0, -1.0, 2.0**-125, -(2.0**-125), 1e-30, 1e38, -3e38, math.inf, -math.inf, math.nan, 88.7, -87.4, 0.5]
FUNCTIONS = ["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "reciprocal"]
UNARY = [*FUNCTIONS, "neg", "abs", "sign", "relu", "clone"]
BINARY = ["add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "maximum.default", "minimum.default"]
COMPARED = ["eq", "ne", "lt", "le", "gt", "ge"]
LOGICAL = ["logical_and", "logical_or", "logical_xor"]
SHAPES: list[tuple[int, ...]] = [(), (5,), (3, 1), (3, 5), (2, 1, 5), (2, 3, 1), (2, 3, 5), (1, 3, 5)]


@contextmanager
def machine(threads: int, flush: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


@contextmanager
def without_library() -> Iterator[None]:
    """What TALLYSTICK_NATIVE=0 does, for a moment."""
    with patch.object(reduce, "LIBRARY", None), patch.object(compiled, "LIBRARY", None):
        yield


def same(a: Tensor, b: Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = torch.int32 if a.dtype in {torch.float32, torch.int32} else torch.uint8
    return torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))


def outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except NonFiniteError as error:
        return str(error)


def agree(function: Callable[[], Any]) -> bool:
    """Whether compiled and PyTorch kernels give the same bits, or the same refusal."""
    have = outcome(function)
    with without_library():
        want = outcome(function)
    if isinstance(have, tuple):
        return isinstance(want, tuple) and all(map(same, have, want))
    return same(have, want) if isinstance(have, Tensor) and isinstance(want, Tensor) else bool(have == want)


def floats(shape: tuple[int, ...], seed: int, special: bool) -> Tensor:
    """Canonical float32 of many sizes, and with `special` every tenth a special value."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.exp(torch.randn(shape, generator=generator) * 4)
    chosen = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)]
    return canonical(torch.where(torch.rand(shape, generator=generator) < (0.1 if special else 0.0), chosen, x))


def laid_out(x: Tensor, how: str) -> Tensor:
    """`x` with other strides."""
    if how == "transposed" and x.dim() >= 2:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if how == "every second" and x.dim():
        return torch.stack([x, x], dim=-1).flatten(-2)[..., ::2]
    if how == "expanded" and x.dim():
        return x[:1].expand(x.shape)
    return x


LAYOUTS = st.sampled_from(["contiguous", "transposed", "every second", "expanded"])


@st.composite
def nodes(draw: st.DrawFn, specs: list[TensorSpec]) -> Node:
    """A node that reads some of the values of `specs`."""

    def value(dtype: str) -> Ref:
        return Ref(draw(st.sampled_from([i for i, spec in enumerate(specs) if spec.dtype == dtype])))

    number = Float(draw(st.sampled_from([0.5, -1.0, 3.25, 1e-20])).hex())
    kind = draw(st.sampled_from(["unary", "binary", "number", "compared", "logical", "where", "converted", "other"]))
    args: list[Arg]
    kwargs: dict[str, Arg] = {}
    dtype = "float32"
    if kind == "unary":
        op, args = f"{draw(st.sampled_from(UNARY))}.default", [value("float32")]
    elif kind == "binary":
        op, args = draw(st.sampled_from(BINARY)), [value("float32"), value("float32")]
        kwargs = {"alpha": number} if op in {"add.Tensor", "sub.Tensor"} and draw(st.booleans()) else {}
    elif kind == "number":
        op, args = f"{draw(st.sampled_from(['add', 'sub', 'mul', 'div']))}.Scalar", [value("float32"), number]
    elif kind == "compared":
        dtype, operand = "bool", draw(st.sampled_from(["float32", "int64"]))
        other: Arg = value(operand) if draw(st.booleans()) else 1
        op = f"{draw(st.sampled_from(COMPARED))}.{'Tensor' if isinstance(other, Ref) else 'Scalar'}"
        args = [value(operand), other]
    elif kind == "logical":
        dtype, op, args = "bool", f"{draw(st.sampled_from(LOGICAL))}.default", [value("bool"), value("bool")]
    elif kind == "where":
        op, args = "where.self", [value("bool"), value("float32"), value("float32")]
    elif kind == "converted":
        op, args = "_to_copy.default", [value(draw(st.sampled_from(["bool", "int64", "int32", "uint8"])))]
        kwargs = {"dtype": DTypeName("float32")}
    else:
        others: list[tuple[str, list[Arg]]] = [
            ("clamp.default", [value("float32"), Float((-0.5).hex()), number]),
            ("pow.Tensor_Scalar", [value("float32"), draw(st.sampled_from([2, 3, -1]))]),
            ("sum.default", [value("float32")]),
            ("logical_not.default", [value("bool")]),
            ("flip.default", [Ref(2), [1]]),
            ("expand.default", [value("float32"), [2, 3, 5]]),
        ]
        op, args = draw(st.sampled_from(others))
        dtype = "bool" if op == "logical_not.default" else "float32"
    shapes = [torch.empty(specs[a.index].shape, device="meta") for a in args if isinstance(a, Ref)]
    if op in {"sum.default", "expand.default"}:
        shape = () if op == "sum.default" else (2, 3, 5)
    else:
        shape = tuple(torch.broadcast_tensors(*shapes)[0].shape)
    return Node(f"aten.{op}", args, kwargs, TensorSpec("place", dtype, shape))  # type: ignore[arg-type]


FIXED = [
    TensorSpec("flags", "bool", (3, 5)),
    TensorSpec("labels", "int64", (3, 1)),
    TensorSpec("matrix", "float32", (3, 5)),
    TensorSpec("counts", "int32", (5,)),
    TensorSpec("bytes", "uint8", (3, 5)),
]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(st.tuples(st.sampled_from(SHAPES), LAYOUTS), min_size=1, max_size=3), st.integers(0, 2**20))
def test_any_graph_has_the_same_bits_with_chains_and_node_by_node(
    data: st.DataObject, shapes: list[tuple[tuple[int, ...], str]], seed: int
) -> None:
    inputs = [*FIXED, *(TensorSpec(f"x{i}", "float32", shape) for i, (shape, _) in enumerate(shapes))]
    specs = list(inputs)
    made: list[Node] = []
    for _ in range(data.draw(st.integers(1, 12))):
        made.append(data.draw(nodes(specs)))
        specs.append(made[-1].result)
    outputs = data.draw(st.lists(st.integers(len(inputs), len(specs) - 1), min_size=1, max_size=4))
    prepared = prepare(Graph(inputs, made, [Ref(index) for index in outputs]), 2**30)
    generator = torch.Generator().manual_seed(seed)
    values = [
        torch.randint(0, 2 if spec.dtype == "bool" else 3, spec.shape, generator=generator).to(DTYPES[spec.dtype])
        for spec in FIXED
    ]
    values[2] = floats((3, 5), seed, special=True)
    values += [laid_out(floats(shape, seed + i, special=True), how) for i, (shape, how) in enumerate(shapes)]
    with machine(data.draw(st.integers(1, 4)), data.draw(st.booleans())):
        have = outcome(lambda: run(prepared, values))
        with without_library():
            want = outcome(lambda: run(replace(prepared, fused=prepared.plain), values))
    assert (have == want) if isinstance(have, str) or isinstance(want, str) else all(map(same, have, want))


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 4), st.booleans(), st.integers(0, 99), st.sampled_from([(700, 911), (3, 400, 517), (600_000,)]))
def test_large_tensors_and_threads_change_no_bit_of_a_chain(
    threads: int, flush: bool, seed: int, shape: tuple[int, ...]
) -> None:
    x, row = TensorSpec("x", "float32", shape), TensorSpec("row", "float32", shape[-1:])
    column = TensorSpec("column", "float32", (*shape[:-1], 1))
    ops: list[tuple[str, list[Arg]]] = [
        ("sub.Tensor", [Ref(0), Ref(2)]),
        ("mul.Tensor", [Ref(3), Ref(1)]),
        ("tanh.default", [Ref(4)]),
        ("mul.Tensor", [Ref(5), Ref(0)]),
    ]
    made = [Node(f"aten.{op}", args, {}, TensorSpec("place", "float32", shape)) for op, args in ops]
    prepared = prepare(Graph([x, row, column], made, [Ref(6), Ref(4)]), 2**30)
    values = [floats(spec.shape, seed + i, special=True) for i, spec in enumerate((x, row, column))]
    with machine(threads, flush):
        have, want = run(prepared, values), run(replace(prepared, fused=prepared.plain), values)
    assert all(map(same, have, want))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_same_bits_on_values_of_every_exponent(name: str) -> None:
    """2**17 random bit patterns and as many moderate values: a wrong coefficient shows in few of them."""
    generator = torch.Generator().manual_seed(len(name))
    patterns = torch.randint(-(2**31), 2**31, (2**17,), generator=generator).to(torch.int32).view(torch.float32)
    x = one_nan(canonical(torch.cat([patterns, torch.randn(2**17, generator=generator) * 3])))
    spec = TensorSpec("x", "float32", tuple(x.shape))
    prepared = prepare(Graph([spec], [Node(f"aten.{name}.default", [Ref(0)], {}, spec)], [Ref(1)]), 2**30)
    assert same(run(prepared, [x])[0], KERNELS[f"aten.{name}.default"](x))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 7, 40, 129]), max_size=4).filter(lambda shape: math.prod(shape) < 40_000),
    LAYOUTS,
    st.data(),
)
def test_sums_and_softmax_have_the_same_bits(shape: list[int], how: str, data: st.DataObject) -> None:
    special = data.draw(st.integers(0, 4)) == 0
    x = laid_out(floats(tuple(shape), data.draw(st.integers(0, 2**20)), special), how)
    places = range(-len(shape), len(shape))
    chosen = st.lists(st.sampled_from(places), max_size=3, unique_by=lambda d: d % len(shape)) if shape else st.just([])
    dims = data.draw(chosen)
    keepdim = data.draw(st.booleans())
    with machine(data.draw(st.integers(1, 4)), data.draw(st.booleans())):
        assert agree(lambda: exact_sum(x, dims, keepdim))
        if shape:
            dim = data.draw(st.sampled_from(places))
            assert agree(lambda: reductions.softmax(x, dim))
            assert agree(lambda: reductions.log_softmax(x, dim))


def test_long_rows_and_many_terms_have_the_same_bits() -> None:
    """Beyond 2**12 terms a loop starts anew, beyond 2**23 PyTorch's kernel adds in int64."""
    wide = floats((3, 9_001), 1, special=False)
    many = canonical(torch.rand(2**23 + 5, generator=torch.Generator().manual_seed(2)) * 3e38)
    with machine(2, flush=False):
        assert agree(lambda: reductions.softmax(wide, 1)) and agree(lambda: reductions.log_softmax(wide, 1))
        assert agree(lambda: exact_sum(many, ()))
        assert agree(lambda: exact_sum(many[: 2**22].view(-1, 4), (0,)))
        assert agree(lambda: exact_sum(many[: 2**20].view(16, 64, -1), (0, 2)))


def test_a_row_that_a_mask_leaves_empty_has_the_same_bits() -> None:
    x = torch.tensor([[-math.inf, -math.inf], [-math.inf, 1.0], [0.0, 0.0]])
    assert agree(lambda: reductions.softmax(x, 1)) and agree(lambda: reductions.log_softmax(x, 1))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(), (0,), (5,), (40, 33), (3, 1)]),
    LAYOUTS,
    st.integers(-126, 140),
    st.sampled_from([1, 2, 3, 8, 4096]),
    st.data(),
)
def test_fixed_point_gradients_have_the_same_bits(
    shape: tuple[int, ...], how: str, exponent: int, micro_batches: int, data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 2**20))
    x = laid_out(floats(shape, seed, data.draw(st.booleans())), how)
    e = torch.tensor(exponent, dtype=torch.int32)
    total = torch.randint(-(2**31), 2**31, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    with machine(data.draw(st.integers(1, 4)), data.draw(st.booleans())):
        assert agree(lambda: accumulate.fixed_and_peak(x, e, micro_batches))
        assert agree(lambda: accumulate.peak_of(x))
        assert agree(lambda: accumulate.mean_of(laid_out(total, how), e, micro_batches))
        if x.isfinite().all():
            assert agree(lambda: accumulate.to_fixed(x, e, micro_batches))


def coefficients(function: str, name: str) -> tuple[float, ...]:
    """The polynomial that `function` in scalar.h evaluates in the variable `name`, highest first."""
    body = (
        Path(native.__file__).with_name("scalar.h").read_text().partition(f"{function}(double")[2].partition("\n}")[0]
    )
    found = re.findall(rf"\b{name} = (?:{name} \* \w \+ )?([0-9][^;,]*)[;,]", body)
    return tuple(float.fromhex(a) / float(b or 1) for a, _, b in (text.partition(" / ") for text in found))


@pytest.mark.parametrize(
    ("terms", "function", "name"),
    [
        (functions.EXP_TERMS, "exp_wide", "v"),
        (functions.EXPM1_TERMS, "expm1_wide", "v"),
        (functions.LOG_TERMS, "log_finished", "v"),
    ],
)
def test_the_compiled_polynomials_have_the_same_coefficients(
    terms: tuple[float, ...], function: str, name: str
) -> None:
    """A difference in the last bit of a coefficient changes about one result in 2**20."""
    assert coefficients(function, name) == terms


def test_the_compiled_erf_has_the_same_coefficients() -> None:
    text = Path(native.__file__).with_name("scalar.h").read_text().partition("erf_of(")[2].partition("\n}")[0]
    upper, lower = (re.findall(rf"\b{name} = (?:{name} \* z \+ )?(0x[^;,]*)[;,]", text) for name in "ul")
    assert tuple(map(float.fromhex, upper)) == functions.ERF_UPPER
    assert tuple(map(float.fromhex, lower)) == functions.ERF_LOWER


def test_every_rule_is_for_an_operator_of_the_table() -> None:
    assert set(lowering.RULES) <= set(KERNELS)

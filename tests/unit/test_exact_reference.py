"""Every operator of the table has the bits of the NumPy reference: on the examples, and at the edges."""

import ast
import math
import re
from itertools import product as every
from pathlib import Path
from typing import Any

import pytest
import torch

import reference
from exact_against_reference import compare, compare_as_program
from exact_examples import EXAMPLES, F32, GENERATOR, I64
from reference.operators import OPERATORS as REFERENCE
from reference.operators import PRODUCTS as REFERENCE_PRODUCTS
from tallystick.exact.kernels import OPERATORS, PRODUCTS

ROOT = Path(__file__).parents[2]
ROUNDED = [float(torch.tensor(x, dtype=F32)) for x in (0.1, 1 / 3, 3.4e38, 88.722, 88.723, -87.336, -87.337, -103.9)]
EDGES = torch.tensor(
    [
        *(0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 4.0, -4.0, 9.25, 10.0, 2.0**20 - 0.0625, 1 - 2.0**-24),
        *(2.0**-126 * (1 + 2.0**-23), -(2.0**-125), 2.0**-63, 2.0**-64, 3.4028234663852886e38, -(2.0**127)),
        *(2.0**24, 2.0**24 + 2, 2.0**31, -(2.0**31), 2.0**63, -(2.0**63), 2.0**-24, -(2.0**-12), 0.25, -0.25),
        *ROUNDED,
    ]
)
WILD = torch.cat([EDGES, torch.tensor([math.inf, -math.inf, math.nan])])
WHOLE = {
    I64: torch.tensor([0, 1, -1, 2, 7, -7, 2**24 + 1, 2**53 + 1, -(2**63), 2**63 - 1, 2**62 + 2**38]),
    torch.int32: torch.tensor([0, 1, -1, 2, 7, -7, 2**24 + 1, 2**25 + 3, -(2**31), 2**31 - 1], dtype=torch.int32),
    torch.uint8: torch.tensor([0, 1, 2, 7, 127, 128, 255], dtype=torch.uint8),
    torch.bool: torch.tensor([False, True]),
}
UNARY = [
    *("neg", "abs", "sign", "relu", "floor", "ceil", "round", "trunc", "logical_not", "isnan", "isinf"),
    *("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "reciprocal"),
]
BINARY = [
    *(f"{name}.Tensor" for name in ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")),
    *(f"{name}.default" for name in ("maximum", "minimum", "logical_and", "logical_or", "logical_xor")),
    *("clamp_min.Tensor", "clamp_max.Tensor"),
]
INTEGERS = ["bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor", "remainder.Tensor", "floor_divide.default"]


def test_the_reference_has_every_operator_of_the_table_and_no_other() -> None:
    assert set(REFERENCE) == OPERATORS
    assert set(PRODUCTS) == REFERENCE_PRODUCTS


def test_the_document_names_every_operator() -> None:
    """In a heading or in code, without "aten.", with or without the overload."""
    text = (ROOT / "docs" / "exact-v1.md").read_text()
    words = set(re.findall(r"[\w.]+", " ".join(re.findall(r"^## .*|`[^`\n]+`", text, re.MULTILINE))))
    names = {op: op.partition("/")[0].removeprefix("aten.") for op in OPERATORS}
    missing = {op for op, name in names.items() if not {name, name.rpartition(".")[0]} & words}
    assert missing == set()


def test_the_reference_imports_neither_tallystick_nor_torch() -> None:
    allowed = {"collections", "fractions", "itertools", "math", "numpy", "struct", "typing", "hashlib", "json"}
    allowed |= {"dataclasses", "functools", "pathlib", "argparse", "sys"}
    for path in Path(next(iter(reference.__path__))).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


@pytest.mark.parametrize("op", EXAMPLES)
def test_examples_have_the_bits_of_the_reference(op: str) -> None:
    for args, kwargs in EXAMPLES[op]:
        compare(op, *args, **kwargs)


@pytest.mark.parametrize("op", EXAMPLES)
def test_a_program_of_one_node_has_the_bits_of_the_reference(op: str) -> None:
    for args, kwargs in EXAMPLES[op]:
        if not any(isinstance(value, bool) or set(kwargs) - {"dtype", "alpha"} for value in kwargs.values()):
            compare_as_program(op, args, kwargs)


@pytest.mark.parametrize("name", UNARY)
def test_functions_at_the_edges(name: str) -> None:
    compare(f"aten.{name}.default", WILD)
    compare_as_program(f"aten.{name}.default", (WILD,), {})
    for dtype, values in WHOLE.items():
        if not (dtype == torch.bool and name in {"relu"}):
            compare(f"aten.{name}.default", values)


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_angles_at_the_edges(name: str) -> None:
    turns = torch.arange(-40, 41) * (math.pi / 4)
    compare(f"aten.{name}.default", torch.cat([EDGES[EDGES.abs() < 2**20], turns]))
    for refused in (math.inf, math.nan, 2.0**20, -(2.0**20)):
        compare(f"aten.{name}.default", torch.tensor([0.5, refused]))


@pytest.mark.parametrize("name", BINARY)
def test_every_pair_of_edges(name: str) -> None:
    compare(f"aten.{name}", WILD[:, None], WILD)
    compare_as_program(f"aten.{name}", (WILD[:, None], WILD), {})
    for a, b in every(WHOLE.values(), [*WHOLE.values(), WILD]):
        flags = torch.bool in {a.dtype, b.dtype} and name in {"sub.Tensor", "clamp_min.Tensor", "clamp_max.Tensor"}
        if not flags:
            compare(f"aten.{name}", a[:, None], b)


@pytest.mark.parametrize("name", INTEGERS)
def test_every_pair_of_integers(name: str) -> None:
    divides = name in {"remainder.Tensor", "floor_divide.default"}
    for a, b in every(WHOLE.values(), WHOLE.values()):
        divisors = b[b != 0] if divides else b
        for divisor in divisors:
            compare(f"aten.{name}", a, divisor)
            compare(f"aten.{name}", a[:2], divisor.reshape(1))
    compare(f"aten.{name}", WHOLE[torch.uint8], torch.tensor(256))
    compare(f"aten.{name}", WHOLE[torch.int32], torch.tensor(2**32 - 1))


NUMBERS = [0, 1, -1, 3, 255, 256, -300, 2**31, 2**40 + 5, 2**60 + 2**36 + 1, -(2**63), 0.5, -2.75, math.inf, math.nan]


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"])
def test_numbers_beside_tensors(name: str) -> None:
    for number, x in every([*NUMBERS, *ROUNDED], [WILD, *WHOLE.values()]):
        if not (x.dtype == torch.bool and name == "sub"):
            compare(f"aten.{name}.Scalar", x, number)
        if name in {"add", "sub"} and x.dtype != torch.bool:
            compare(f"aten.{name}.Tensor", x, x.flip(0), alpha=number)


@pytest.mark.parametrize("name", ["clamp", "clamp_min", "clamp_max"])
def test_limits(name: str) -> None:
    for number, x in every([-1, 0, 3, 2.5, -0.25, math.inf, math.nan], [WILD, WHOLE[I64], WHOLE[torch.int32]]):
        compare(f"aten.{name}.default", x, number)
    compare(f"aten.{name}.Tensor", WILD[:, None], WILD)


def test_powers() -> None:
    for exponent in [*range(-64, 65), 0.5, -0.5, 2.0, 65, -65, 1.5, math.inf, math.nan]:
        compare("aten.pow.Tensor_Scalar", WILD, exponent)
        for x in WHOLE.values():
            compare("aten.pow.Tensor_Scalar", x, exponent)


def test_conversions() -> None:
    every_dtype = [F32, *WHOLE]
    for x, dtype in every([WILD, EDGES, *WHOLE.values()], every_dtype):
        compare("aten._to_copy.default", x, dtype=dtype)
    for x, y in every([EDGES, *WHOLE.values()], [EDGES, *WHOLE.values()]):
        compare("aten.copy.default", x[:2], y[1:2])
        compare("aten.where.self", torch.tensor([True, False])[:, None], x[:2], y[-1])
        compare("aten.cat.default", [x, y])


def test_constants() -> None:
    for number, dtype in every([*NUMBERS, *ROUNDED, True], [None, F32, *WHOLE]):
        compare("aten.full.default", [2], number, dtype=dtype)
        if dtype is not None or isinstance(number, float):
            compare("aten.scalar_tensor.default", number, dtype=dtype)
        compare("aten.full_like.default", torch.zeros(2), number, dtype=dtype)
        compare("aten.constant_pad_nd.default", torch.zeros(2, dtype=dtype or F32), [1, 0], number)
        compare("aten.scatter.value", torch.zeros(2, dtype=dtype or F32), 0, torch.tensor([1]), number)


@pytest.mark.parametrize("kind", ["inf", "nan"])
def test_what_scales_refuses_what_is_not_finite(kind: str) -> None:
    x = torch.ones(1, 2, 4, 4)
    x[0, 1, 2, 3] = float(kind)
    flat, ones, places = x.reshape(2, 16), torch.ones(2, 16), torch.zeros(2, 16, dtype=I64)
    geometry: tuple[Any, ...] = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    weight = torch.ones(2, 2, 1, 1)
    for op, args in {
        "aten.mm.default": (flat, ones.t()),
        "aten.convolution.default": (x, weight, None, *geometry),
        "aten.convolution_backward.default/0": (x, x, weight, None, *geometry, [True, False, False]),
        "aten.convolution_backward.default/1": (x, torch.ones_like(x), weight, None, *geometry, [False, True, False]),
        "aten.convolution_backward.default/2": (x, x, weight, None, *geometry, [False, False, True]),
        "aten.sum.default": (x,),
        "aten.mean.dim": (x, [1]),
        "aten.cumsum.default": (x, 2),
        "aten._softmax.default": (x, 2, False),
        "aten._log_softmax.default": (x, 2, False),
        "aten.amax.default": (x, [2]),
        "aten.amin.default": (x, [2]),
        "aten.argmax.default": (x, 2),
        "aten.argmin.default": (x, 2),
        "aten.any.default": (x,),
        "aten.scatter_add.default": (ones, 0, places, flat),
        "aten.index_add.default": (ones, 0, torch.tensor([0, 0]), flat),
        "aten.index_put.default": (ones, [torch.tensor([0, 0])], flat, True),
        "aten.embedding_dense_backward.default": (flat, torch.tensor([0, 1]), 3, -1, False),
        "aten.max_pool2d_with_indices.default/0": (x, 2),
        "aten.max_pool2d_with_indices.default/1": (x, 2),
        "aten.adaptive_max_pool2d_backward.default": (x, torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4, dtype=I64)),
        "aten.avg_pool2d.default": (x, 2),
        "aten._adaptive_avg_pool2d.default": (x, [2, 2]),
        "aten._adaptive_avg_pool2d_backward.default": (x, torch.ones(1, 2, 8, 8)),
    }.items():
        compare(op, *args)


def test_lists_of_no_dimensions() -> None:
    for name in ("sum.dim_IntList", "mean.dim", "amax.default", "amin.default", "any.dims", "all.dims"):
        compare(f"aten.{name}", EDGES.reshape(3, 13), [])


def test_a_masked_softmax_and_a_line_of_nothing_else() -> None:
    masked = torch.tensor([[-math.inf, 1.0, -math.inf, 2.0], [-math.inf] * 4])
    for op in ("aten._softmax.default", "aten._log_softmax.default"):
        compare(op, masked, 1, False)
        compare(op, EDGES.clamp(-100, 100).reshape(3, 13), 0, False)


def test_long_sums_and_products() -> None:
    """More terms than a float64 adds up exactly, ties on the way to 53 bits and to 24, and equal terms."""
    x = torch.randn(3, 9000, generator=GENERATOR)
    even = torch.full((2, 2**13 + 1), 1.0)
    even[:, -1] = 2.0**-20
    compare("aten.mm.default", x, x.t())
    compare("aten.mm.default", torch.full((2, 9000), 1 - 2.0**-24), torch.full((9000, 2), -(1 - 2.0**-24)))
    compare("aten.mm.default", even, even.t())
    compare("aten.sum.dim_IntList", x, [1])
    compare("aten.sum.dim_IntList", torch.full((2**23 + 3, 1), 1 - 2.0**-24), [0])
    compare("aten.cumsum.default", x, 1)
    compare("aten.sum.default", torch.tensor([2.0**24, 1.0, 2.0**-6, 2.0**-7, -(2.0**24)]))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1000])
def test_uniform_noise(size: int) -> None:
    compare("tallystick.uniform.default", torch.tensor([7, 2**32 - 1]), [size], 2**33 + 1)

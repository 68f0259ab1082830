"""Every kernel of the table against the ATen operator whose name it has: shape, dtype, and values up to rounding."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import exact_reference as reference
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.kernels import KERNELS
from tallystick.exact.rounding import SMALLEST, canonical

GENERATOR = torch.Generator().manual_seed(3)
A = torch.randn(3, 4, generator=GENERATOR)
B = torch.randn(3, 4, generator=GENERATOR) + 3
ROW = torch.randn(4, generator=GENERATOR)
M, N = torch.randn(4, 5, generator=GENERATOR), torch.randn(5, generator=GENERATOR)
CUBE = torch.randn(2, 3, 4, generator=GENERATOR)
CUBE_2 = torch.randn(2, 4, 3, generator=GENERATOR)
EMPTY = torch.zeros(0, 4)
ONE = torch.tensor(1.5)
K = torch.tensor([[3, -1, 0, 2], [7, 5, -9, 1], [0, 0, 4, 4]])
SMALL = K.to(torch.int32)
BYTES = torch.tensor([[0, 1, 16, 255]], dtype=torch.uint8)
FLAGS = K > 0
LABELS = torch.tensor([[1], [0], [3]])
F32, I64 = torch.float32, torch.int64

Call = tuple[tuple[Any, ...], dict[str, Any]]


def call(*args: Any, **kwargs: Any) -> Call:
    return args, kwargs


BINARY = [call(A, B), call(A, ROW), call(CUBE, A), call(A, ONE), call(K, SMALL), call(A, K), call(SMALL, SMALL)]
WITH_NUMBER = [call(A, 0.3), call(A, -2), call(K, 3), call(SMALL, 2), call(BYTES, 2), call(K, 0.5), call(ONE, 7)]
COMPARISONS = [call(A, B), call(K, K.flip(0)), call(A, ROW), call(K, SMALL), call(A, A)]
REDUCED = [call(A, [0]), call(A, [1], True), call(CUBE, [0, 2]), call(CUBE, [-1]), call(A, []), call(ONE, [0])]
EXAMPLES: dict[str, list[Call]] = {
    "aten.mm.default": [call(A, M), call(EMPTY, M), call(A[:, :0], M[:0]), call(A.t(), A)],
    "aten.bmm.default": [call(CUBE, CUBE_2), call(CUBE, CUBE.transpose(1, 2))],
    "aten.addmm.default": [call(N, A, M), call(N, A, M, beta=0.5, alpha=2), call(torch.ones(3, 5), A, M)],
    "aten.add.Tensor": [*BINARY, call(A, B, alpha=-2), call(K, SMALL, alpha=3), call(A, 0.5, alpha=2)],
    "aten.add.Scalar": [*WITH_NUMBER, call(A, 3, 2)],
    "aten.sub.Tensor": [*BINARY, call(A, B, alpha=0.25)],
    "aten.sub.Scalar": [*WITH_NUMBER, call(A, 3, 2)],
    "aten.mul.Tensor": [*BINARY, call(A, 0.1), call(FLAGS, A), call(FLAGS, FLAGS)],
    "aten.mul.Scalar": WITH_NUMBER,
    "aten.div.Tensor": [*BINARY[:4], call(K, 3), call(BYTES, 16)],
    "aten.div.Scalar": WITH_NUMBER,
    "aten.neg.default": [call(A), call(K), call(EMPTY)],
    "aten.relu.default": [call(A), call(K)],
    "aten.exp.default": [call(A), call(K), call(EMPTY)],
    "aten.log.default": [call(A.abs()), call(K.abs()), call(BYTES)],
    "aten._log_softmax.default": [call(A, 1, False), call(CUBE, 0, False), call(A, -1, False), call(ONE, 0, False)],
    "aten._softmax.default": [call(A, 1, False), call(CUBE, 1, False), call(ONE, -1, False)],
    "aten.sum.dim_IntList": [*REDUCED, call(K, [1]), call(FLAGS, [0], True), call(K, [0], dtype=F32), call(A, None)],
    "aten.sum.default": [call(A), call(K), call(FLAGS), call(BYTES), call(EMPTY), call(ONE), call(SMALL, dtype=I64)],
    "aten.mean.dim": [*REDUCED, call(K, [1], dtype=F32), call(torch.zeros(0, 3), [1])],
    "aten.mean.default": [call(A), call(CUBE), call(ONE)],
    **{f"aten.{name}.Tensor": COMPARISONS for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"aten.{name}.Scalar": WITH_NUMBER for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "aten.abs.default": [call(A), call(K)],
    "aten.amax.default": [*REDUCED, call(A), call(K, [1])],
    "aten.where.self": [call(FLAGS, A, B), call(FLAGS, A, ONE), call(FLAGS, K, torch.tensor(0))],
    "aten.gather.default": [call(A, 1, LABELS), call(K, 1, LABELS), call(A, 0, LABELS[:2].clamp(max=2))],
    "aten.scatter.value": [call(A, 1, LABELS, -1.0), call(K, 1, LABELS, 7)],
    "aten.permute.default": [call(A, [1, 0]), call(CUBE, [2, 0, 1])],
    "aten.view.default": [call(A, [4, 3]), call(CUBE, [-1]), call(ONE, [1, 1])],
    "aten.expand.default": [call(ROW, [3, 4]), call(ONE, [2, 2]), call(A, [2, -1, -1])],
    "aten.unsqueeze.default": [call(A, 1), call(ONE, 0), call(A, -1)],
    "aten.squeeze.dims": [call(LABELS, [1]), call(LABELS[:1], [0, 1])],
    "aten.squeeze.dim": [call(LABELS, 1), call(A, 0)],
    "aten.clone.default": [call(A), call(A.t())],
    "aten.alias.default": [call(A)],
    "aten.detach.default": [call(A)],
    "aten._to_copy.default": [call(A), call(K, dtype=F32), call(FLAGS, dtype=I64), call(K, dtype=torch.uint8)],
    "aten.full.default": [call([2, 3], 0.1), call([], 4), call([2], True), call([2], 3, dtype=F32)],
    "aten.full_like.default": [call(A, 0), call(A, 0.25), call(K, 3), call(A, 1, dtype=torch.bool)],
    "aten.scalar_tensor.default": [call(0.1), call(3), call(3, dtype=I64), call(1, dtype=torch.bool)],
}
PRODUCTS = {"aten.mm.default", "aten.bmm.default", "aten.addmm.default"}
PRODUCTS_NEAR = 4e-5
"""Each operand is off by at most 2**-20 of the largest in its row or column; here those are below 5, with 4 terms."""
CASES = [(op, args, kwargs) for op, calls in EXAMPLES.items() for args, kwargs in calls]


def aten(op: str) -> Callable[..., Tensor]:
    _, name, overload = op.split(".")
    operator: Callable[..., Tensor] = getattr(getattr(torch.ops.aten, name), overload)
    return operator


def test_every_operator_of_the_table_has_examples() -> None:
    assert set(EXAMPLES) == set(KERNELS)


@pytest.mark.parametrize(("op", "args", "kwargs"), CASES, ids=[f"{i}-{op}" for i, (op, *_) in enumerate(CASES)])
def test_a_kernel_returns_what_the_operator_returns(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    expected, got = aten(op)(*args, **kwargs), KERNELS[op](*args, **kwargs)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    if got.dtype == torch.float32:
        near = PRODUCTS_NEAR if op in PRODUCTS else 2e-6
        assert torch.allclose(got, expected, rtol=2e-6, atol=near, equal_nan=True)
        assert torch.equal(canonical(got).view(torch.int32), got.contiguous().view(torch.int32))
    else:
        assert torch.equal(got, expected)


def test_no_kernel_changes_its_operands() -> None:
    for op, args, kwargs in CASES:
        before = [arg.clone() for arg in args if isinstance(arg, Tensor)]
        KERNELS[op](*args, **kwargs)
        after = [arg for arg in args if isinstance(arg, Tensor)]
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True)), op


BLOWN_UP = torch.tensor([[math.inf, 1.0], [2.0, math.nan]])


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("aten.mm.default", (BLOWN_UP, torch.ones(2, 2))),
        ("aten.mm.default", (torch.ones(2, 2), BLOWN_UP)),
        ("aten.bmm.default", (BLOWN_UP[None], torch.ones(1, 2, 2))),
        ("aten.addmm.default", (torch.ones(2), BLOWN_UP, torch.ones(2, 2))),
        ("aten.sum.default", (BLOWN_UP,)),
        ("aten.sum.dim_IntList", (BLOWN_UP, [0])),
        ("aten.mean.default", (-BLOWN_UP,)),
        ("aten._softmax.default", (BLOWN_UP, 1, False)),
        ("aten._log_softmax.default", (BLOWN_UP, 1, False)),
    ],
)
def test_sums_and_products_of_what_is_not_finite_are_refused(op: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(NonFiniteError, match="an infinity or a NaN"):
        KERNELS[op](*args)


def test_a_masked_softmax_gives_zero_where_the_mask_is() -> None:
    scores = torch.tensor([[1.0, -math.inf, 1.0]])
    assert KERNELS["aten._softmax.default"](scores, 1, False).tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize("count", [1, 3, 4, 8, 17, 64])
def test_every_way_to_make_a_nan_gives_the_same_bits(count: int) -> None:
    """Hardware gives inf - inf one sign and 0 * NaN another, and vector code yet another."""
    infinite, zero = torch.full((count,), math.inf), torch.zeros(count)
    from_log = KERNELS["aten.log.default"](torch.full((count,), -1.0))
    made = [
        from_log,
        KERNELS["aten.sub.Tensor"](infinite, infinite),
        KERNELS["aten.add.Tensor"](-infinite, infinite),
        KERNELS["aten.mul.Tensor"](zero, infinite),
        KERNELS["aten.div.Tensor"](zero, zero),
        KERNELS["aten.div.Scalar"](zero, 0),
        KERNELS["aten.div.Tensor"](torch.zeros(count, dtype=I64), torch.zeros(count, dtype=I64)),
    ]
    made += [KERNELS["aten.add.Tensor"](x, y) for x in made for y in made]
    made += [KERNELS[f"aten.{name}.default"](from_log) for name in ("neg", "exp", "log", "relu", "abs")]
    made.append(KERNELS["aten.amax.default"](from_log))
    made.append(KERNELS["aten.amax.default"](torch.stack([from_log, infinite]), [0]))
    for result in made:
        assert set(result.view(-1).view(torch.int32).tolist()) == {0x7FC00000}


def refusal(op: str, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(Refused) as refused:
        KERNELS[op](*args, **kwargs)
    return refused.value.code


@pytest.mark.parametrize("index", [-1, 4, 2**40, -(2**62)])
def test_an_index_outside_the_tensor_is_refused(index: int) -> None:
    labels = torch.tensor([[1], [index], [3]])
    assert refusal("aten.gather.default", A, 1, labels) == "index_out_of_range"
    assert refusal("aten.scatter.value", A, 1, labels, 1.0) == "index_out_of_range"


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(0.5, I64), (math.inf, I64), (math.nan, torch.int32), (2**31, torch.int32), (-1, torch.uint8), (2, torch.bool)],
)
def test_a_constant_that_its_dtype_cannot_hold_is_refused(value: float, dtype: torch.dtype) -> None:
    assert refusal("aten.full.default", [2], value, dtype=dtype) == "bad_constant"
    assert refusal("aten.scalar_tensor.default", value, dtype=dtype) == "bad_constant"
    assert refusal("aten.full_like.default", A, value, dtype=dtype) == "bad_constant"
    assert refusal("aten.full_like.default", torch.zeros(2, dtype=dtype), value) == "bad_constant"
    assert refusal("aten.scatter.value", torch.zeros(2, dtype=dtype), 0, torch.tensor([0]), value) == "bad_constant"


def test_what_exact_v1_does_not_define_is_refused() -> None:
    assert refusal("aten.sum.default", A, dtype=torch.float64) == "unsupported_dtype"
    assert refusal("aten.mean.default", A, dtype=torch.float16) == "unsupported_dtype"
    assert refusal("aten._to_copy.default", A, dtype=I64) == "unsupported_dtype"
    assert refusal("aten.mm.default", K, K.t()) == "unsupported_dtype"
    assert refusal("aten.mm.default", A, K.t()) == "unsupported_dtype"


def test_small_products_and_quotients_become_plus_zero() -> None:
    tiny = torch.full((9,), -SMALLEST * 1.5)
    for result in (
        KERNELS["aten.mul.Scalar"](tiny, 0.5),
        KERNELS["aten.div.Scalar"](tiny, 2),
        KERNELS["aten.sub.Tensor"](tiny, tiny * 1.25),
        KERNELS["aten.mul.Scalar"](torch.ones(9), -0.0),
        KERNELS["aten.neg.default"](torch.zeros(9)),
        KERNELS["aten.mm.default"](tiny[:, None], torch.full((1, 1), 0.5)).view(-1),
    ):
        assert result.view(torch.int32).tolist() == [reference.bits(0.0)] * 9

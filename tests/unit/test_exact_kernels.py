"""Every kernel of the table against the ATen operator whose name it has: shape, dtype, and values up to rounding."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from exact_examples import EXAMPLES, I64, A, K
from reference import fractional as reference
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.kernels import OPERATORS, PRODUCTS, table
from tallystick.exact.rounding import SMALLEST, canonical
from tallystick.program.tensors import tensor_bytes

KERNELS = table(20)
PRODUCTS_NEAR = {20: 4e-5, 13: 5e-3}
"""Each operand is off by at most 2**-bits of the largest in its row or column; here those are small, with few terms."""
NOT_IN_ATEN = {"tallystick.uniform.default"}
CASES = [(op, args, kwargs) for op, calls in EXAMPLES.items() for args, kwargs in calls]
each_case = pytest.mark.parametrize(
    ("op", "args", "kwargs"), CASES, ids=[f"{i}-{op}" for i, (op, *_) in enumerate(CASES)]
)


def aten(op: str) -> Callable[..., Tensor]:
    """The operator of that name; "name/1" is its second output. What it leaves uninitialized is zero."""
    path, _, output = op.partition("/")
    _, name, overload = path.split(".")
    operator: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
    if name.startswith("empty"):
        return lambda *args, **kwargs: torch.zeros_like(operator(*args, **kwargs))
    return (lambda *args, **kwargs: operator(*args, **kwargs)[int(output)]) if output else operator


def on_meta(value: Any) -> Any:
    if isinstance(value, list):
        return [on_meta(item) for item in value]
    return value.to("meta") if isinstance(value, Tensor) else value


def test_every_operator_of_the_table_has_examples() -> None:
    assert set(EXAMPLES) == OPERATORS - NOT_IN_ATEN


@each_case
def test_a_kernel_returns_what_the_operator_returns(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    expected = aten(op)(*args, **kwargs)
    for bits in (20, 13) if op in PRODUCTS else (20,):
        got = table(bits)[op](*args, **kwargs)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        if got.dtype == torch.float32:
            near = PRODUCTS_NEAR[bits] if op in PRODUCTS else 2e-6
            assert torch.allclose(got, expected, rtol=2e-6, atol=near, equal_nan=True)
            assert torch.equal(canonical(got).view(torch.int32), got.contiguous().view(torch.int32))
        else:
            assert torch.equal(got, expected)


@each_case
def test_a_kernel_knows_the_shape_without_values(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    expected = aten(op)(*args, **kwargs)
    with torch.device("meta"):
        got = KERNELS[op](*map(on_meta, args), **kwargs)
    assert (got.shape, got.dtype, got.is_meta) == (expected.shape, expected.dtype, True)


def test_only_products_depend_on_the_profile() -> None:
    full, fast = table(20), table(13)
    assert set(full) == set(fast) == OPERATORS
    assert {op for op in OPERATORS if full[op] is not fast[op]} == set(PRODUCTS)
    with pytest.raises(ValueError, match="19 bits"):
        table(19)


def test_no_kernel_changes_its_operands() -> None:
    for op, args, kwargs in CASES:
        before = [arg.clone() for arg in args if isinstance(arg, Tensor)]
        KERNELS[op](*args, **kwargs)
        after = [arg for arg in args if isinstance(arg, Tensor)]
        assert [bytes(tensor_bytes(x)) for x in before] == [bytes(tensor_bytes(x)) for x in after], op


def test_flushing_subnormal_numbers_changes_no_bit() -> None:
    for op, args, kwargs in CASES:
        kept = KERNELS[op](*args, **kwargs)
        torch.set_flush_denormal(True)
        try:
            flushed = KERNELS[op](*args, **kwargs)
        finally:
            torch.set_flush_denormal(False)
        assert tensor_bytes(kept) == tensor_bytes(flushed), op


BLOWN_UP = torch.tensor([[math.inf, 1.0], [2.0, math.nan]])


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("aten.mm.default", (BLOWN_UP, torch.ones(2, 2))),
        ("aten.mm.default", (torch.ones(2, 2), BLOWN_UP)),
        ("aten.bmm.default", (BLOWN_UP[None], torch.ones(1, 2, 2))),
        ("aten.sum.default", (BLOWN_UP,)),
        ("aten.sum.dim_IntList", (BLOWN_UP, [0])),
        ("aten.mean.default", (-BLOWN_UP,)),
        ("aten._softmax.default", (BLOWN_UP, 1, False)),
        ("aten._log_softmax.default", (BLOWN_UP, 1, False)),
        ("aten.cumsum.default", (BLOWN_UP, 0)),
        ("aten.scatter_add.default", (torch.ones(2, 2), 0, torch.zeros(1, 2, dtype=I64), BLOWN_UP)),
        ("aten.index_put.default", (torch.ones(2, 2), [torch.tensor([0, 0])], BLOWN_UP, True)),
        ("aten.embedding_dense_backward.default", (BLOWN_UP, torch.tensor([0, 0]), 2, -1, False)),
        ("aten.avg_pool2d.default", (BLOWN_UP[None], 2)),
        ("aten._adaptive_avg_pool2d.default", (-BLOWN_UP[None], [1, 1])),
        ("aten._adaptive_avg_pool2d_backward.default", (BLOWN_UP[None], torch.ones(1, 4, 4))),
        (
            "aten.adaptive_max_pool2d_backward.default",
            (BLOWN_UP[None], torch.ones(1, 2, 2), torch.zeros(1, 2, 2).long()),
        ),
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
    assert refusal("aten._to_copy.default", A, dtype=torch.float64) == "unsupported_dtype"
    assert refusal("aten.cumsum.default", A, 0, dtype=torch.float64) == "unsupported_dtype"
    assert refusal("aten.bitwise_and.Tensor", A, K) == "unsupported_dtype"
    assert refusal("aten.floor_divide.default", A, K) == "unsupported_dtype"
    assert refusal("aten.copy.default", A.double(), A) == "unsupported_dtype"
    assert refusal("aten.avg_pool2d.default", K[None], 2) == "unsupported_dtype"
    assert refusal("aten.index.Tensor", A, [K > 0]) == "unsupported_dtype"
    assert refusal("aten.scatter_add.default", A, 0, K.clamp(0, 2), K) == "unsupported_dtype"
    assert refusal("aten.arange.start_step", 0.5, 2, 1, dtype=I64) == "unsupported_dtype"
    assert refusal("aten.pow.Tensor_Scalar", A, 1.5) == "unsupported_exponent"
    assert refusal("aten.pow.Tensor_Scalar", A, math.inf) == "unsupported_exponent"
    assert refusal("aten.pow.Tensor_Scalar", K, -1) == "unsupported_exponent"
    assert refusal("aten.embedding.default", A, K.clamp(0, 2), -1, True) == "unsupported_option"
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

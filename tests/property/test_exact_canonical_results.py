"""No kernel returns a subnormal number, a negative zero or a second NaN, whatever canonical tensors it is given."""

import math
import struct
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tallystick.errors import NonFiniteError
from tallystick.exact.kernels import table
from tallystick.exact.rounding import canonical, canonical_number, one_nan
from tallystick.program.tensors import tensor_bytes

EXTREMES = [0.0, -0.0, 2.0**-126, -(2.0**-126), 2.0**-149, -(2.0**-149), 2.0**-125, 3.4028234663852886e38]
NUMBERS = st.one_of(st.floats(width=32), st.sampled_from([*EXTREMES, float("inf"), float("-inf"), float("nan")]))
TENSORS = st.lists(NUMBERS, min_size=12, max_size=12).map(
    lambda values: one_nan(canonical(torch.tensor(values))).reshape(3, 4)
)
FINITE = TENSORS.map(lambda x: torch.where(torch.isfinite(x), x, torch.ones_like(x)))
CONSTANTS = NUMBERS.map(canonical_number)
FLAGS = torch.tensor([[True, False, True, False]])
LABELS = torch.tensor([[1], [0], [3]])
PAIR = torch.tensor([1, 1])

Call = Callable[[Tensor, Tensor, float], tuple[Any, ...]]
ALONE: list[Call] = [lambda x, y, c: (x,)]
BINARY: list[Call] = [lambda x, y, c: (x, y), lambda x, y, c: (x, y[0]), lambda x, y, c: (x, c)]


def with_last(number: float) -> Call:
    return lambda x, y, c: (x, number)


MADE_FROM: dict[str, list[Call]] = {
    "aten.mm.default": [lambda x, y, c: (x, y.t())],
    "aten.bmm.default": [lambda x, y, c: (x[None], y.t()[None])],
    "aten.add.Tensor": [*BINARY, lambda x, y, c: (x, y, c)],
    "aten.sub.Tensor": [*BINARY, lambda x, y, c: (x, y, c)],
    **{f"aten.{name}.Tensor": BINARY for name in ("mul", "div")},
    **{f"aten.{name}.Scalar": [BINARY[2]] for name in ("add", "sub", "mul", "div")},
    **{f"aten.{name}.default": ALONE for name in ("neg", "relu", "exp", "log", "abs", "amax", "amin", "sign")},
    **{f"aten.{name}.default": ALONE for name in ("expm1", "log1p", "tanh", "sigmoid", "erf", "sin", "cos")},
    **{f"aten.{name}.default": ALONE for name in ("sqrt", "rsqrt", "reciprocal", "floor", "ceil", "round", "trunc")},
    **{f"aten.{name}.default": ALONE for name in ("sum", "mean", "clone", "zeros_like", "argmax", "isnan")},
    **{f"aten.{name}.default": BINARY for name in ("clamp_min", "clamp_max")},
    **{f"aten.{name}.default": BINARY[:2] for name in ("maximum", "minimum", "logical_and")},
    "aten.clamp.default": [lambda x, y, c: (x, c, 1.0), lambda x, y, c: (x, None, c)],
    "aten.pow.Tensor_Scalar": [with_last(n) for n in (0, 1, 2, 3, 4, 7, 64, -1, -2, -3, -64, 0.5, -0.5)],
    "aten._to_copy.default": [lambda x, y, c: (x, torch.bool), lambda x, y, c: (x, torch.int64)],
    "aten.arange.start_step": [lambda x, y, c: (-1.0, 1.0, 0.25)],
    **{f"aten.{name}.default": [lambda x, y, c: (x, 1, False)] for name in ("_softmax", "_log_softmax")},
    "aten.sum.dim_IntList": [lambda x, y, c: (x, [0])],
    "aten.mean.dim": [lambda x, y, c: (x, [1], True)],
    "aten.where.self": [lambda x, y, c: (FLAGS, x, y)],
    "aten.gather.default": [lambda x, y, c: (x, 1, LABELS)],
    "aten.scatter.value": [lambda x, y, c: (x, 1, LABELS, c)],
    "aten.scatter.src": [lambda x, y, c: (x, 1, LABELS, y)],
    "aten.scatter_add.default": [lambda x, y, c: (x, 1, LABELS, y)],
    "aten.index_add.default": [lambda x, y, c: (x, 0, PAIR, y[:2]), lambda x, y, c: (x, 0, PAIR, y[:2], c)],
    "aten.index_put.default": [lambda x, y, c: (x, [PAIR], y[:2]), lambda x, y, c: (x, [PAIR], y[:2], True)],
    "aten.embedding_dense_backward.default": [lambda x, y, c: (x, LABELS[:, 0], 4, 1, False)],
    "aten.constant_pad_nd.default": [lambda x, y, c: (x, [1, 0], c)],
    "aten.cumsum.default": [lambda x, y, c: (x, 0)],
    "aten.convolution.default": [lambda x, y, c: (x[None], y[:, :3, None], y[:, 3], [1], [1], [1], False, [0], 1)],
    "aten.max_pool2d_with_indices.default/0": [lambda x, y, c: (x[None], 2, 1)],
    "aten.max_pool2d_with_indices.default/1": [lambda x, y, c: (x[None], 2, 1)],
    "aten.adaptive_max_pool2d_backward.default": [lambda x, y, c: (x[None], y[None], LABELS.expand(1, 3, 4))],
    "aten.avg_pool2d.default": [lambda x, y, c: (x[None], 2, 1, 1)],
    "aten.avg_pool2d_backward.default": [lambda x, y, c: (x[None, :2, :3], y[None], 2, 1, 0, False, True, None)],
    "aten._adaptive_avg_pool2d.default": [lambda x, y, c: (x[None], [2, 3])],
    "aten._adaptive_avg_pool2d_backward.default": [lambda x, y, c: (x[None], torch.ones(1, 2, 6))],
    "aten.full.default": [lambda x, y, c: ([3], c)],
    "aten.full_like.default": [lambda x, y, c: (x, c)],
    "aten.scalar_tensor.default": [lambda x, y, c: (c,)],
}


NOT_FLOAT = {"aten.argmax.default", "aten.isnan.default", "aten.logical_and.default", "aten._to_copy.default"} | {
    "aten.max_pool2d_with_indices.default/1"
}
INFINITIES_AND_NAN = {0x7F800000, 0xFF800000, 0x7FC00000}


def is_plain(data: bytes) -> bool:
    """Checked on the bits of float32 values alone: +0, a normal number, an infinity, or the one NaN."""
    patterns = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    return all(p == 0 or 0 < (p >> 23 & 0xFF) < 0xFF or p in INFINITIES_AND_NAN for p in patterns)


def everything(x: Tensor, y: Tensor, c: float, flush: bool) -> list[tuple[str, bytes | None]]:
    """What each kernel makes of the same operands; None where they are not finite enough."""
    results: list[tuple[str, bytes | None]] = []
    torch.set_flush_denormal(flush)
    try:
        for op, calls in MADE_FROM.items():
            for arguments in calls:
                try:
                    results.append((op, bytes(tensor_bytes(table(20)[op](*arguments(x, y, c))))))
                except NonFiniteError:
                    results.append((op, None))
    finally:
        torch.set_flush_denormal(False)
    return results


@settings(max_examples=200, deadline=None)
@example(torch.zeros(3, 4), torch.zeros(3, 4), canonical_number(-math.nan))
@given(*[st.one_of(FINITE, TENSORS)] * 2, CONSTANTS)
def test_results_are_canonical_and_the_same_where_subnormal_numbers_are_flushed(x: Tensor, y: Tensor, c: float) -> None:
    kept, flushed = (everything(x, y, c, flush) for flush in (False, True))
    for (op, a), (_, b) in zip(kept, flushed, strict=True):
        assert a == b, op
        assert a is None or op in NOT_FLOAT or is_plain(a), op


def test_the_check_itself_sees_what_is_not_plain() -> None:
    for odd in (0x80000000, 1, 0x80400000, 0x7FC00001, 0xFFC00000):
        assert not is_plain(bytes(4) + odd.to_bytes(4, "little"))
    assert is_plain(struct.pack("<3f", 0.0, -(2.0**-125), 3e38))

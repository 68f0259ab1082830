"""Calls of every operator of the table, small enough to read, with the corners of each."""

import math
from typing import Any

import torch

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
TOKENS = torch.tensor([[1, 2, 1], [0, 2, 1]])
IMAGES = torch.randn(2, 3, 7, 9, generator=GENERATOR)
LOW = torch.tensor(-0.5)
F32, I64 = torch.float32, torch.int64

Call = tuple[tuple[Any, ...], dict[str, Any]]


def call(*args: Any, **kwargs: Any) -> Call:
    return args, kwargs


BINARY = [call(A, B), call(A, ROW), call(CUBE, A), call(A, ONE), call(K, SMALL), call(A, K), call(SMALL, SMALL)]
WITH_NUMBER = [call(A, 0.3), call(A, -2), call(K, 3), call(SMALL, 2), call(BYTES, 2), call(K, 0.5), call(ONE, 7)]
COMPARISONS = [call(A, B), call(K, K.flip(0)), call(A, ROW), call(K, SMALL), call(A, A)]
REDUCED = [call(A, [0]), call(A, [1], True), call(CUBE, [0, 2]), call(CUBE, [-1]), call(A, []), call(ONE, [0])]
WHOLE = [call(K, SMALL), call(FLAGS, FLAGS.flip(0)), call(SMALL, BYTES), call(FLAGS, K)]
DIVISORS = torch.tensor([2, -1, -7, 3])
DIVIDED = [call(K, DIVISORS), call(SMALL, DIVISORS), call(BYTES, BYTES | 1), call(K, torch.tensor(-3))]
FUNCTION = [call(A), call(K), call(EMPTY), call(ONE), call(A.t())]
POSITIVE = [call(B.abs()), call(BYTES), call(K.abs()), call(EMPTY)]
LOGIC = [call(FLAGS, FLAGS.flip(0)), call(A, K), call(BYTES, FLAGS)]
TRUTH = [call(FLAGS), call(K), call(A), call(EMPTY)]
ALONG = [call(FLAGS, 0), call(K, 1, True), call(A, -1)]
ALONG_SEVERAL = [call(FLAGS, [0]), call(K, [0, 1], True), call(A)]
POOLS: list[tuple[Any, ...]] = [(2,), ([3, 3], [2, 2], [1, 1]), ([2, 3], [1, 2]), ([3], [2], [1]), (7, 1)]
LARGEST = [call(IMAGES, *pool) for pool in POOLS] + [
    call(IMAGES, 3, 2, 1, 2),
    call(IMAGES, 2, 2, 0, 1, True),
    call(IMAGES[0], 3, 2, 1, 1, True),
    call(torch.full((1, 1, 4, 4), -math.inf), 3, 2, 1),
    call(torch.zeros(1, 1, 4, 4), 3, 1, 1),
]
AVERAGES = [call(IMAGES, *pool) for pool in POOLS] + [
    call(IMAGES, 3, 2, 1, True),
    call(IMAGES, 3, 2, 1, True, False),
    call(IMAGES, [2, 3], 2, [1, 1], False, False),
    call(IMAGES[0], 2, 2, 0, True),
    call(IMAGES, 2, 2, 0, False, True, 7),
]
ADAPTIVE = [call(IMAGES, [1, 1]), call(IMAGES, [3, 4]), call(IMAGES, [7, 9]), call(IMAGES[0], [2, 5])]
UPWARD = [call(IMAGES, [9, 13])]


def _largest_gradients(calls: list[Call]) -> list[Call]:
    found = []
    for (x, *rest), _ in calls:
        options = [*rest, *[[], 0, 1, False][len(rest) - 1 :]]
        options[1] = options[1] or options[0]
        values, places = torch.ops.aten.max_pool2d_with_indices(x, *options)
        found.append(call(torch.cos(17 * values.clamp(-100, 100)), x, *options, places))
    return found


def _average_gradients(calls: list[Call]) -> list[Call]:
    found = []
    for (x, *rest), _ in calls:
        options = [*rest, *[[], 0, False, True, None][len(rest) - 1 :]]
        options[1] = options[1] or options[0]
        found.append(call(torch.cos(17 * torch.ops.aten.avg_pool2d(x, *options)), x, *options))
    return found


def _adaptive_gradients(calls: list[Call]) -> list[Call]:
    found = []
    for args, _ in calls:
        values, places = torch.ops.aten.adaptive_max_pool2d(*args)
        found.append(call(torch.cos(17 * values), args[0], places))
    return found


FILTERS = torch.randn(4, 3, 3, 2, generator=GENERATOR) / 4
GROUPED = torch.randn(6, 1, 3, 3, generator=GENERATOR) / 3
CONVOLUTIONS = [
    call(IMAGES, FILTERS, N[:4], [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
    call(IMAGES, FILTERS, None, [2, 1], [1, 2], [1, 2], False, [0, 0], 1),
    call(IMAGES, GROUPED, M.reshape(-1)[:6], [2, 2], [1, 1], [1, 1], False, [0, 0], 3),
    call(IMAGES[:, :, 0], FILTERS[:, :, 0], N[:4], [2], [1], [1], False, [0], 1),
]


def _convolution_gradients(bias: bool) -> list[Call]:
    found = []
    for args, _ in CONVOLUTIONS:
        x, weight, _, *options = args
        gradient = torch.cos(17 * torch.ops.aten.convolution(*args))
        found.append(call(gradient, x, weight, [len(weight)], *options, [True, True, bias]))
    return found


FEATURES = torch.randn(2, 3, 2, generator=GENERATOR)
EXAMPLES: dict[str, list[Call]] = {
    "aten.mm.default": [call(A, M), call(EMPTY, M), call(A[:, :0], M[:0]), call(A.t(), A)],
    "aten.bmm.default": [call(CUBE, CUBE_2), call(CUBE, CUBE.transpose(1, 2))],
    "aten.add.Tensor": [*BINARY, call(A, B, alpha=-2), call(K, SMALL, alpha=3), call(A, 0.5, alpha=2)],
    "aten.add.Scalar": [*WITH_NUMBER, call(A, 3, 2)],
    "aten.sub.Tensor": [*BINARY, call(A, B, alpha=0.25)],
    "aten.sub.Scalar": [*WITH_NUMBER, call(A, 3, 2)],
    "aten.mul.Tensor": [*BINARY, call(A, 0.1), call(FLAGS, A), call(FLAGS, FLAGS)],
    "aten.mul.Scalar": [*WITH_NUMBER, call(FLAGS, 2), call(FLAGS, True)],
    "aten.div.Tensor": [*BINARY[:4], call(K, 3), call(BYTES, 16)],
    "aten.div.Scalar": WITH_NUMBER,
    **{f"aten.{name}.Tensor": COMPARISONS for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"aten.{name}.Scalar": WITH_NUMBER for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"aten.bitwise_{name}.Tensor": WHOLE for name in ("and", "or", "xor")},
    **{f"aten.bitwise_{name}.Scalar": [call(K, 5), call(SMALL, 3), call(FLAGS, True)] for name in ("and", "or", "xor")},
    "aten.bitwise_not.default": [call(K), call(FLAGS), call(BYTES)],
    "aten.remainder.Tensor": DIVIDED,
    "aten.remainder.Scalar": [call(K, 4), call(SMALL, -3), call(BYTES, 7), call(K, -1)],
    "aten.floor_divide.default": DIVIDED,
    "aten.neg.default": FUNCTION,
    "aten.abs.default": FUNCTION,
    "aten.sign.default": [*FUNCTION, call(FLAGS), call(BYTES)],
    "aten.relu.default": [call(A), call(K)],
    "aten.clamp.default": [
        call(A, -0.5, 0.5),
        call(A, 0),
        call(A, None, 0.25),
        call(K, -2, 3),
        call(K, 0.5),
        call(A, 1, -1),
    ],
    "aten.clamp.Tensor": [call(A, LOW, ONE), call(A, B - 3), call(K, None, SMALL)],
    "aten.clamp_min.default": WITH_NUMBER,
    "aten.clamp_max.default": WITH_NUMBER,
    "aten.clamp_min.Tensor": BINARY,
    "aten.clamp_max.Tensor": BINARY,
    "aten.maximum.default": [*BINARY, call(FLAGS, FLAGS.flip(0))],
    "aten.minimum.default": [*BINARY, call(FLAGS, FLAGS.flip(0))],
    **{
        f"aten.{name}.default": [call(3 * A), call(K), call(A.sign() / 2)]
        for name in ("floor", "ceil", "round", "trunc")
    },
    **{f"aten.logical_{name}.default": LOGIC for name in ("and", "or", "xor")},
    "aten.logical_not.default": TRUTH,
    "aten.isnan.default": [call(A), call(K), call(torch.tensor([math.nan, math.inf, 1.0]))],
    "aten.isinf.default": [call(A), call(K), call(torch.tensor([math.nan, -math.inf, 1.0]))],
    **{f"aten.{name}.default": FUNCTION for name in ("exp", "expm1", "tanh", "sigmoid", "erf", "sin", "cos")},
    **{f"aten.{name}.default": POSITIVE for name in ("log", "log1p", "sqrt", "rsqrt", "reciprocal")},
    "aten.pow.Tensor_Scalar": [
        *(call(A, exponent) for exponent in (0, 1, 2, 3, 4, 7, -1, -2, -3, 2.0, -1.0)),
        *(call(B.abs(), exponent) for exponent in (0.5, -0.5)),
        *(call(K, exponent) for exponent in (0, 2, 5, 2.0)),
        call(BYTES, 3),
        call(ONE, 2),
    ],
    "aten.where.self": [call(FLAGS, A, B), call(FLAGS, A, ONE), call(FLAGS, K, torch.tensor(0))],
    "aten._log_softmax.default": [call(A, 1, False), call(CUBE, 0, False), call(A, -1, False), call(ONE, 0, False)],
    "aten._softmax.default": [
        *(call(A, 1, False), call(CUBE, 1, False), call(ONE, -1, False), call(EMPTY, 0, False)),
        call(torch.where(FLAGS, A, -math.inf), 0, False),
        call(torch.where(FLAGS, A, -3.4028234663852886e38), 1, False),
    ],
    "aten.sum.dim_IntList": [*REDUCED, call(K, [1]), call(FLAGS, [0], True), call(K, [0], dtype=F32), call(A, None)],
    "aten.sum.default": [call(A), call(K), call(FLAGS), call(BYTES), call(EMPTY), call(ONE), call(SMALL, dtype=I64)],
    "aten.mean.dim": [*REDUCED, call(K, [1], dtype=F32), call(torch.zeros(0, 3), [1])],
    "aten.mean.default": [call(A), call(CUBE), call(ONE)],
    "aten.amax.default": [*REDUCED, call(A), call(K, [1])],
    "aten.amin.default": [*REDUCED, call(A), call(K, [1])],
    "aten.argmax.default": [call(A), call(K, 1), call(CUBE, -1, True), call(FLAGS.int(), 0), call(ONE)],
    "aten.argmin.default": [call(A), call(K, 1), call(CUBE, -1, True), call(ONE, 0)],
    "aten.cumsum.default": [call(A, 1), call(CUBE, 0), call(K, 0), call(FLAGS, 1), call(K, 1, dtype=F32), call(ONE, 0)],
    **{f"aten.{name}.default": TRUTH for name in ("any", "all")},
    **{f"aten.{name}.dim": ALONG for name in ("any", "all")},
    **{f"aten.{name}.dims": ALONG_SEVERAL for name in ("any", "all")},
    "aten.gather.default": [call(A, 1, LABELS), call(K, 1, LABELS), call(A, 0, LABELS[:2].clamp(max=2))],
    "aten.scatter.value": [call(A, 1, LABELS, -1.0), call(K, 1, LABELS, 7)],
    "aten.scatter.src": [call(A, 1, LABELS, B), call(K, 1, LABELS, K.flip(1)), call(A, 0, LABELS[:2], B)],
    "aten.scatter_add.default": [call(A, 1, LABELS, B), call(A, 0, TOKENS, B), call(K, 0, TOKENS, K)],
    "aten.index_select.default": [call(A, 0, TOKENS[0]), call(K, 1, TOKENS[1]), call(CUBE, -1, TOKENS[0])],
    "aten.index_add.default": [
        call(A, 0, TOKENS[0], B),
        call(CUBE, 2, TOKENS[1], CUBE[:, :, :3]),
        call(K, 0, TOKENS[0], K),
    ],
    "aten.index.Tensor": [
        *(call(A, [TOKENS]), call(A, [None, TOKENS]), call(CUBE, [TOKENS[0] % 2, None, TOKENS[1]])),
        *(call(A, [TOKENS, LABELS[:2]]), call(K, [torch.tensor([-1, 0])])),
    ],
    "aten.index_put.default": [
        *(call(A, [TOKENS[0, :2]], B[:2]), call(A, [LABELS[:, 0] % 3, TOKENS[0]], ROW[:3])),
        *(call(A, [TOKENS], CUBE, True), call(CUBE, [None, None, TOKENS[0]], ONE, True)),
        *(call(A, [torch.tensor([-1, 2])], CUBE[0, :2], True), call(K, [TOKENS], K[TOKENS], True)),
        call(CUBE, [TOKENS[0] % 2, None, TOKENS[1]], A[:, :3], True),
    ],
    "aten.embedding.default": [call(A, TOKENS), call(A, TOKENS, 1), call(A, torch.tensor(2)), call(A, TOKENS.int())],
    "aten.embedding_dense_backward.default": [
        *(call(FEATURES, TOKENS, rows, padding, False) for rows, padding in ((3, -1), (5, 1), (4, 0))),
        call(FEATURES[:0], TOKENS[:0], 3, -1, False),
    ],
    "aten.slice.Tensor": [
        call(A, 1, 1, 3),
        call(A),
        call(A, 0, None, None, 2),
        call(K, 1, -3, 2**63 - 1),
        call(A, 0, 2, 1),
    ],
    "aten.select.int": [call(A, 0, 1), call(CUBE, -1, -2)],
    "aten.slice_scatter.default": [call(A, B[:, :2], 1, 0, 4, 2), call(K, K[1:], 0, 1)],
    "aten.select_scatter.default": [call(A, ROW, 0, 1), call(CUBE, A[:2, :3], 2, -1)],
    "aten.constant_pad_nd.default": [
        call(A, [1, 2]),
        call(A, [0, 0, 1, 1], -2.5),
        call(K, [-1, 1], 7),
        call(A, [1, 1], -math.inf),
    ],
    "aten.permute.default": [call(A, [1, 0]), call(CUBE, [2, 0, 1])],
    "aten.view.default": [call(A, [4, 3]), call(CUBE, [-1]), call(ONE, [1, 1])],
    "aten.expand.default": [call(ROW, [3, 4]), call(ONE, [2, 2]), call(A, [2, -1, -1])],
    "aten.repeat.default": [call(ROW, [2, 3]), call(A, [1, 2]), call(ONE, [2])],
    "aten.flip.default": [call(A, [0]), call(CUBE, [0, -1])],
    "aten.cat.default": [call([A, B]), call([A, B, A], 1), call([K, SMALL], -1), call([A, K]), call([EMPTY, A])],
    "aten.unsqueeze.default": [call(A, 1), call(ONE, 0), call(A, -1)],
    "aten.squeeze.dims": [call(LABELS, [1]), call(LABELS[:1], [0, 1])],
    "aten.squeeze.dim": [call(LABELS, 1), call(A, 0)],
    "aten.clone.default": [call(A), call(A.t())],
    "aten.lift_fresh_copy.default": [call(A), call(K)],
    "aten.copy.default": [call(A, B), call(A, ROW), call(A, K), call(K, FLAGS), call(SMALL, A * 5)],
    "aten.alias.default": [call(A)],
    "aten.detach.default": [call(A)],
    "aten._to_copy.default": [
        *(call(A), call(K, dtype=F32), call(FLAGS, dtype=I64), call(K, dtype=torch.uint8), call(9 * A, dtype=I64)),
        *(call(A.round(), dtype=torch.bool), call(-9 * A, dtype=torch.int32), call(K, dtype=torch.bool)),
    ],
    "aten.full.default": [call([2, 3], 0.1), call([], 4), call([2], True), call([2], 3, dtype=F32)],
    "aten.full_like.default": [call(A, 0), call(A, 0.25), call(K, 3), call(A, 1, dtype=torch.bool)],
    "aten.scalar_tensor.default": [call(0.1), call(3), call(3, dtype=I64), call(1, dtype=torch.bool)],
    **{f"aten.{name}.default": [call([2, 3]), call([]), call([2], dtype=I64)] for name in ("zeros", "ones")},
    **{
        f"aten.{name}_like.default": [call(A), call(K), call(A.t(), dtype=torch.bool)]
        for name in ("zeros", "ones", "empty")
    },
    "aten.empty.memory_format": [call([2, 3]), call([2], dtype=I64)],
    "aten.empty_permuted.default": [call([2, 3], [1, 0]), call([2], [0], dtype=I64)],
    "aten.arange.start_step": [
        call(0, 10, 3),
        call(5, 0, -2),
        call(0.0, 1.0, 0.1),
        call(0, 5),
        call(1, 4, 1, dtype=F32),
    ],
    "aten.convolution.default": CONVOLUTIONS,
    **{f"aten.convolution_backward.default/{output}": _convolution_gradients(output == 2) for output in range(3)},
    "aten.max_pool2d_with_indices.default/0": LARGEST,
    "aten.max_pool2d_with_indices.default/1": LARGEST,
    "aten.max_pool2d_with_indices_backward.default": _largest_gradients(LARGEST),
    "aten.adaptive_max_pool2d.default/0": ADAPTIVE + UPWARD,
    "aten.adaptive_max_pool2d.default/1": ADAPTIVE + UPWARD,
    "aten.adaptive_max_pool2d_backward.default": _adaptive_gradients(ADAPTIVE + UPWARD),
    "aten.avg_pool2d.default": AVERAGES,
    "aten.avg_pool2d_backward.default": _average_gradients(AVERAGES),
    "aten._adaptive_avg_pool2d.default": ADAPTIVE + UPWARD,
    "aten._adaptive_avg_pool2d_backward.default": [
        call(torch.cos(17 * torch.ops.aten._adaptive_avg_pool2d(*args)), args[0]) for args, _ in ADAPTIVE + UPWARD
    ],
}

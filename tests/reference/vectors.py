"""The published test vectors: calls of operators, and what the reference makes of them.

`python -m tests.reference.vectors --write` writes them, without the option only compares them with the file.
The form is described in docs/exact-v1.md.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from math import inf, nan, prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from . import accumulate
from .chains import chains, in_turn
from .operands import Json, decoded, draw, equal, floats, integers, number, whole
from .operators import OPERATORS, PRODUCTS
from .philox import permutation
from .values import I64

FILE: Final = Path(__file__).parents[2] / "src" / "tallystick" / "exact" / "vectors.json"
PROFILES: Final = {"full": 20, "fast": 13}
OTHERS: Final[dict[str, Callable[..., Any]]] = {
    "to_fixed": accumulate.to_fixed,
    "peak_of": lambda gradient: np.array(accumulate.peak_of(gradient), np.int32),
    "mean_of": accumulate.mean_of,
    "next_exponent": lambda e, peak: np.array(accumulate.next_exponent(e, peak), np.int32),
    "loss_to_fixed": lambda loss: np.array(accumulate.loss_to_fixed(loss), I64),
    "permutation": lambda key, stream, n: np.array(permutation(key, stream, n), I64),
    "chain": in_turn,
}


NEAR: Final = draw(22, 4096, spread=12)
EDGES: Final = [
    *(0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 9.25, 10.0, -10.0, 1 - 2.0**-24, 0.25, -0.25, 2.0**-64),
    *(
        2.0**-126 * (1 + 2.0**-23),
        -(2.0**-125),
        1e-20,
        2.0**24,
        2.0**24 + 2,
        3.4e38,
        -3.4e38,
        88.7,
        88.73,
        -87.3,
        -87.4,
    ),
]
WILD: Final = [*EDGES, 3.4028234663852886e38, 2.0**31, 2.0**63, -(2.0**63), inf, -inf, nan]
COLUMN, ROW = floats(WILD, len(WILD), 1), floats(WILD)
LONGS: Final = [0, 1, -1, 2, 7, -7, 2**24 + 1, 2**25 + 3, 2**53 + 1, -(2**63), 2**63 - 1, 2**62 + 2**38]
DIVISORS: Final = [1, -1, 2, 7, -7, 2**25 + 3, -(2**63)]
FLAGS: Final = integers((v % 2 for v in range(34)), dtype="bool")


def products() -> list[tuple[str, str, list[Json]]]:
    a, b, ones = draw(1, 33, 71), draw(2, 71, 29), equal(1.9999, 3, 9000)
    wide, high = draw(12, 8, 16, spread=120), draw(13, 16, 8, spread=120)
    minus = equal(-1.9999, 9000, 3)
    x, w, g = draw(3, 2, 4, 9, 9, spread=8), draw(4, 6, 2, 3, 3, spread=8), draw(5, 2, 6, 5, 5, spread=8)
    geometry = [[2, 2], [1, 1], [1, 1], False, [0, 0], 2]
    line = [[1], [2], [2], False, [0], 1]
    backward, mask = [g, x, w, None, *geometry], [[True, False, False], [False, True, False]]
    name, back = "aten.convolution.default", "aten.convolution_backward.default"
    return [
        ("product", "aten.mm.default", [a, b]),
        ("product with 9000 equal terms", "aten.mm.default", [ones, minus]),
        ("product with 5000 terms", "aten.mm.default", [draw(6, 5, 5000), draw(7, 5000, 7)]),
        ("product of extreme digits", "aten.mm.default", [_digits(2, 400), _digits(400, 2)]),
        (
            "product of small and large rows",
            "aten.mm.default",
            [wide, high],
        ),
        ("product that is too small", "aten.mm.default", [equal(2.0**-100, 2, 3), equal(-(2.0**-28), 3, 2)]),
        ("product of nothing", "aten.mm.default", [floats([], 2, 0), floats([], 0, 3)]),
        ("product of stacks", "aten.bmm.default", [draw(8, 3, 5, 40), draw(9, 3, 40, 6)]),
        ("convolution", name, [x, w, draw(11, 6), *geometry]),
        ("convolution in one dimension", name, [draw(14, 2, 3, 20), draw(15, 5, 3, 4), None, *line]),
        ("convolution, gradient of input", f"{back}/0", [*backward, mask[0]]),
        ("convolution, gradient of weight", f"{back}/1", [*backward, mask[1]]),
    ]


def _digits(*shape: int) -> Json:
    """What the base-128 digits of an operand are largest for: all -64, all 63, and 2**20 itself by rounding."""
    high = [64 / 128, -64 / 128 - 64 / 128**2, 63 / 128 + 63 / 128**2 + 62 / 128**3, 1 - 2.0**-24, -(1 - 2.0**-24)]
    return floats((high[i % 5] for i in range(prod(shape))), *shape)


def elementwise() -> list[tuple[str, str, list[Json]]]:
    x, y = draw(20, 4096, spread=40), draw(21, 4096, spread=40)
    far, farther = draw(25, 4096, spread=250), draw(26, 4096, spread=250)
    unary = ["neg", "abs", "sign", "relu", "floor", "ceil", "round", "trunc", "logical_not", "isnan", "isinf"]
    unary += ["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "reciprocal"]
    binary = ["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "clamp_min", "clamp_max"]
    plain = ["maximum", "minimum", "logical_and", "logical_or", "logical_xor"]
    longs, column = integers(LONGS), integers(LONGS, len(LONGS), 1)
    bits = ["bitwise_and", "bitwise_or", "bitwise_xor"]
    angles = floats(v for v in EDGES if abs(v) < 2**20)
    cases: list[tuple[str, str, list[Json]]] = []
    for name in unary:
        cases += [(name, f"aten.{name}.default", [NEAR]), (f"{name} at the edges", f"aten.{name}.default", [ROW])]
    for name in ("sin", "cos"):
        cases += [(name, f"aten.{name}.default", [NEAR]), (f"{name} at the edges", f"aten.{name}.default", [angles])]
    for name in binary:
        cases += [(name, f"aten.{name}.Tensor", [x, y]), (f"{name} at the edges", f"aten.{name}.Tensor", [COLUMN, ROW])]
        scalar = f"aten.{name}.{'default' if name.startswith('clamp') else 'Scalar'}"
        cases += [(f"{name} with a number", scalar, [x, number(0.1)]), (f"{name} of integers", scalar, [longs, 3])]
    for name in plain:
        cases += [
            (name, f"aten.{name}.default", [x, y]),
            (f"{name} at the edges", f"aten.{name}.default", [COLUMN, ROW]),
        ]
    for name in bits:
        cases += [
            (name, f"aten.{name}.Tensor", [column, longs]),
            (f"{name} with a number", f"aten.{name}.Scalar", [longs, 12]),
        ]
    for exponent in (0, 1, 2, 3, 5, 64, -1, -2, -7, 0.5, -0.5):
        power = number(exponent) if isinstance(exponent, float) else exponent
        cases.append((f"power {exponent}", "aten.pow.Tensor_Scalar", [floats(WILD), power]))
    return [
        *cases,
        ("mul of far apart numbers", "aten.mul.Tensor", [far, farther]),
        ("div of far apart numbers", "aten.div.Tensor", [far, farther]),
        ("power of integers", "aten.pow.Tensor_Scalar", [longs, 3]),
        ("bitwise_not", "aten.bitwise_not.default", [longs]),
        ("remainder", "aten.remainder.Tensor", [column, integers(DIVISORS)]),
        ("remainder by a number", "aten.remainder.Scalar", [longs, -7]),
        ("floor_divide", "aten.floor_divide.default", [column, integers(DIVISORS)]),
        ("clamp", "aten.clamp.default", [x, number(-0.5), number(2.0)]),
        ("clamp between tensors", "aten.clamp.Tensor", [COLUMN, ROW, floats([1.0])]),
        ("where", "aten.where.self", [FLAGS, floats(WILD), integers([3], 1)]),
        ("range", "aten.arange.start_step", [number(0.1), number(9.0), number(0.3)]),
        ("uniform noise", "tallystick.uniform.default", [integers([7, 9]), [50, 3], 2]),
    ]


def conversions() -> list[tuple[str, Json, str]]:
    return [
        ("float32 of integers", integers(LONGS), "float32"),
        ("int32 of float32", floats(WILD[:-1]), "int32"),
        ("int64 of float32", floats(WILD[:-1]), "int64"),
        ("uint8 of int64", integers(LONGS), "uint8"),
    ]


def reductions() -> list[tuple[str, str, list[Json]]]:
    rows = draw(23, 64, 50, spread=8)
    wild = floats(WILD, 2, len(WILD) // 2)
    masked = floats([-inf, 1.0, -inf, 2.0, 1.5, 0.0, -120.0, 3.0], 2, 4)
    truth = whole(30, 3, 6, 7)
    cases = [
        ("sum", "aten.sum.dim_IntList", [rows, [0]]),
        ("sum of 100000 terms", "aten.sum.default", [draw(27, 100_000, spread=60)]),
        ("sum that cancels", "aten.sum.default", [floats([2.0**24, 1.0, 2.0**-6, 2.0**-7, -(2.0**24)])]),
        ("sum of integers", "aten.sum.dim_IntList", [integers(LONGS, 3, 4), [1], True]),
        ("mean", "aten.mean.dim", [rows, [1], True]),
        ("mean of all", "aten.mean.default", [rows]),
        ("cumsum", "aten.cumsum.default", [rows, 1]),
        ("softmax", "aten._softmax.default", [rows, 1, False]),
        ("log_softmax", "aten._log_softmax.default", [rows, 1, False]),
        ("softmax with a mask", "aten._softmax.default", [masked, 1, False]),
        ("log_softmax with a mask", "aten._log_softmax.default", [masked, 1, False]),
    ]
    for name in ("amax", "amin"):
        cases += [
            (name, f"aten.{name}.default", [rows, [1]]),
            (f"{name} with NaN", f"aten.{name}.default", [wild, [1]]),
        ]
    for name in ("argmax", "argmin"):
        cases += [(name, f"aten.{name}.default", [rows, 1]), (f"{name} with NaN", f"aten.{name}.default", [wild, 1])]
    for name in ("any", "all"):
        cases += [
            (name, f"aten.{name}.default", [truth]),
            (f"{name} along one", f"aten.{name}.dim", [truth, 1]),
            (f"{name} along several", f"aten.{name}.dims", [truth, [0, 1]]),
        ]
    return cases


def pooling() -> list[tuple[str, str, list[Json]]]:
    image, gradient, places = draw(24, 2, 3, 8, 8), draw(31, 2, 3, 4, 4), whole(32, 64, 2, 3, 4, 4)
    uneven = draw(33, 2, 3, 3, 5)
    window: list[Json] = [[3, 3], [2, 2], [1, 1]]
    largest, adaptive = "aten.max_pool2d_with_indices", "aten.adaptive_max_pool2d"
    return [
        ("maximum pool", f"{largest}.default/0", [image, *window]),
        ("maximum pool of equal entries", f"{largest}.default/1", [equal(0.0, 1, 1, 4, 4), 3, 1, 1]),
        ("maximum pool, places", f"{largest}.default/1", [image, *window, [2, 1], True]),
        ("maximum pool, gradient", f"{largest}_backward.default", [gradient, image, *window, [1, 1], False, places]),
        ("adaptive maximum pool", f"{adaptive}.default/0", [image, [3, 5]]),
        ("adaptive maximum pool, places", f"{adaptive}.default/1", [image, [3, 5]]),
        ("adaptive maximum pool, gradient", f"{adaptive}_backward.default", [gradient, image, places]),
        ("average pool", "aten.avg_pool2d.default", [image, *window]),
        ("average pool that rounds up", "aten.avg_pool2d.default", [image, [3, 3], [2, 2], [1, 1], True, False]),
        ("average pool, gradient", "aten.avg_pool2d_backward.default", [gradient, image, *window, False, True, None]),
        ("adaptive average pool", "aten._adaptive_avg_pool2d.default", [image, [3, 5]]),
        (
            "adaptive average pool, gradient",
            "aten._adaptive_avg_pool2d_backward.default",
            [uneven, image],
        ),
        ("convolution, gradient of bias", "aten.convolution_backward.default/2", [gradient, image, image, [3]]),
    ]


def places() -> list[tuple[str, str, list[Json]]]:
    table, added = draw(34, 6, 5, spread=40), draw(35, 40, 5, spread=40)
    rows, grid = whole(36, 6, 40), whole(37, 6, 40, 5)
    gradient, tokens = draw(28, 40, 6), whole(29, 5, 40)
    return [
        (
            "embedding gradient",
            "aten.embedding_dense_backward.default",
            [gradient, tokens, 5, -1, False],
        ),
        ("scatter_add", "aten.scatter_add.default", [table, 0, grid, added]),
        ("index_add", "aten.index_add.default", [table, 0, rows, added]),
        ("index_put that adds", "aten.index_put.default", [table, [rows], added, True]),
        ("scatter to one place", "aten.scatter.src", [table, 0, whole(38, 6, 6, 5), draw(39, 6, 5)]),
    ]


def accumulators() -> list[tuple[str, str, list[Json]]]:
    total = whole(41, 2**31, 1000, start=-(2**30), dtype="int32")
    return [
        ("gradient in fixed point", "to_fixed", [draw(40, 1000), 9, 8]),
        ("gradient that is limited", "to_fixed", [draw(40, 1000), 3, 4096]),
        ("gradient's peak", "peak_of", [draw(40, 1000)]),
        ("peak of nothing", "peak_of", [floats([])]),
        ("mean gradient", "mean_of", [total, 9, 7]),
        ("mean of small gradients", "mean_of", [total, -122, 3]),
        ("next exponent", "next_exponent", [5, 0]),
        ("loss in fixed point", "loss_to_fixed", [equal(2.302585)]),
        ("loss that is limited", "loss_to_fixed", [equal(-3e38)]),
        ("permutation", "permutation", [5, 6, 1000]),
    ]


def cases() -> list[Json]:
    """All cases with their results."""
    made: list[Json] = []
    for profile, bits in PROFILES.items():
        for name, operator, arguments in products():
            made.append({"name": f"{profile} {name}", "operator": operator, "bits": bits, "arguments": arguments})
    for name, operator, arguments in [*elementwise(), *reductions(), *pooling(), *places(), *accumulators(), *chains()]:
        made.append({"name": name, "operator": operator, "arguments": arguments})
    for name, x, dtype in conversions():
        keywords = {"dtype": {"dtype": dtype}}
        made.append({"name": name, "operator": "aten._to_copy.default", "arguments": [x], "keywords": keywords})
    return [{**case, "result": result_of(case)} for case in made]


def result_of(case: Json) -> Json:
    operator = case["operator"]
    profile = {"bits": case["bits"]} if operator in PRODUCTS else {}
    keywords = {name: decoded(value) for name, value in case.get("keywords", {}).items()}
    value = (OPERATORS | OTHERS)[operator](*map(decoded, case["arguments"]), **keywords, **profile)
    data = np.ascontiguousarray(value).tobytes()
    shown = {"bytes": data.hex()} if len(data) <= 256 else {}
    described = {"dtype": value.dtype.name, "shape": list(value.shape), "sha256": hashlib.sha256(data).hexdigest()}
    return described | shown


def published() -> str:
    """The file: one case on each line."""
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases())
    return f'{{"arithmetic":"exact-v1","cases":[\n{lines}\n]}}\n'


def main() -> None:
    text = published()
    if "--write" in sys.argv[1:]:
        FILE.write_text(text)
    elif FILE.read_text() != text:
        sys.exit(f"{FILE} is not what the reference says")


if __name__ == "__main__":
    main()

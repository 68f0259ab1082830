"""Published cases of several operators, which compiled kernels run as one chain.

Of all operations of the compiled machine, on two blocks of 1024 entries and a vector and a remainder more, on entries
that do not lie side by side, and on enough of them for several threads. Factors, sums and exclusive ors let a wrong bit
through to the end.
"""

from collections.abc import Sequence
from typing import Final

from .operands import Json, draw, number, whole
from .operators import OPERATORS
from .values import Array

Step = tuple[Json, ...]
"""The name of what it makes, the operator without "aten.", and numbers and names of what it takes."""
LENGTH: Final = 2 * 1024 + 16 + 5
X, Y = draw(42, LENGTH, spread=4), draw(43, LENGTH, spread=4)
NEAR, OTHER = whole(44, 7, LENGTH, start=-3), whole(45, 7, LENGTH, start=-3)

FUNCTIONS: Final[list[Step]] = [
    ("exp", "exp.default", "x"),
    ("expm1", "expm1.default", "y"),
    ("grown", "mul.Tensor", "exp", "expm1"),
    ("tanh", "tanh.default", "x"),
    ("sigmoid", "sigmoid.default", "y"),
    ("bent", "mul.Tensor", "tanh", "sigmoid"),
    ("erf", "erf.default", "x"),
    ("bell", "mul.Tensor", "bent", "erf"),
    ("size", "abs.default", "y"),
    ("log", "log.default", "size"),
    ("log1p", "log1p.default", "size"),
    ("slow", "mul.Tensor", "log", "log1p"),
    ("root", "sqrt.default", "size"),
    ("slower", "div.Tensor", "slow", "root"),
    ("both", "mul.Tensor", "grown", "bell"),
    ("all", "mul.Tensor", "both", "slower"),
]
NORMALIZATION: Final[list[Step]] = [
    ("distance", "sub.Tensor", "column", "row"),
    ("square", "pow.Tensor_Scalar", "distance", 2),
    ("above", "add.Scalar", "square", number(1e-5)),
    ("scale", "rsqrt.default", "above"),
    ("normal", "mul.Tensor", "distance", "scale"),
    ("weighed", "mul.Tensor", "normal", "row"),
    ("moved", "add.Tensor", "weighed", "bias"),
    ("positive", "relu.default", "moved"),
    ("limited", "clamp.default", "positive", number(0.125), number(3.0)),
]
OPTIMIZER: Final[list[Step]] = [
    ("lower", "minimum.default", "m", "p"),
    ("kept", "mul.Scalar", "lower", number(0.9)),
    ("mean", "add.Tensor", "kept", "g"),
    ("square", "mul.Tensor", "g", "g"),
    ("spread", "maximum.default", "square", "v"),
    ("root", "sqrt.default", "spread"),
    ("above", "add.Scalar", "root", number(1e-8)),
    ("ratio", "div.Tensor", "mean", "above"),
    ("step", "mul.Scalar", "ratio", number(0.125)),
    ("next", "sub.Tensor", "p", "step"),
]
FLAGS: Final[list[Step]] = [
    ("scaled", "mul.Scalar", "y", number(1.5)),
    ("larger", "maximum.default", "x", "scaled"),
    ("gt", "gt.Tensor", "x", "scaled"),
    ("ge", "ge.Scalar", "scaled", number(1.0)),
    ("lt", "lt.Tensor", "scaled", "x"),
    ("le", "le.Scalar", "x", number(-1.0)),
    ("eq", "eq.Tensor", "larger", "x"),
    ("ne", "ne.Tensor", "larger", "scaled"),
    ("gt long", "gt.Scalar", "near", 0),
    ("ge long", "ge.Tensor", "near", "other"),
    ("lt long", "lt.Scalar", "other", -1),
    ("le long", "le.Tensor", "near", "other"),
    ("eq long", "eq.Tensor", "near", "other"),
    ("ne long", "ne.Scalar", "other", 2),
    ("a", "logical_and.default", "gt", "ge long"),
    ("b", "logical_or.default", "ge", "lt long"),
    ("c", "bitwise_and.Tensor", "ne", "ne long"),
    ("d", "bitwise_or.Tensor", "le", "eq long"),
    ("e", "logical_xor.default", "lt", "gt long"),
    ("f", "logical_xor.default", "eq", "le long"),
    ("g", "logical_not.default", "flag"),
    ("ab", "bitwise_xor.Tensor", "a", "b"),
    ("cd", "logical_xor.default", "c", "d"),
    ("ef", "logical_xor.default", "e", "f"),
    ("abcd", "logical_xor.default", "ab", "cd"),
    ("efg", "logical_xor.default", "ef", "g"),
    ("all", "logical_xor.default", "abcd", "efg"),
    ("not", "bitwise_not.default", "all"),
]
CONVERSIONS: Final[list[Step]] = [
    ("more", "add.Tensor", "x", "near"),
    ("less", "sub.Tensor", "more", "small"),
    ("high", "add.Tensor", "less", "byte"),
    ("above", "gt.Tensor", "high", "y"),
    ("chosen", "where.self", "above", "high", "less"),
    ("copy", "clone.default", "chosen"),
    ("again", "lift_fresh_copy.default", "copy"),
    ("flagged", "add.Tensor", "again", "flag"),
    ("counted", "add.Tensor", "flagged", "above"),
]


def chains() -> list[tuple[str, str, list[Json]]]:
    whole_numbers: dict[str, Json] = {"near": NEAR, "flag": whole(46, 2, LENGTH, dtype="bool")}
    column, row, bias = draw(49, 160, 1, spread=4), draw(50, 211, spread=4), draw(51, 160, 1, spread=4)
    more = {"small": whole(47, 7, LENGTH, dtype="int32"), "byte": whole(48, 7, LENGTH, dtype="uint8")}
    return [
        _chain("chain of functions", {"x": X, "y": Y}, FUNCTIONS),
        _chain("chain of a normalization", {"column": column, "row": row, "bias": bias}, NORMALIZATION),
        _chain("chain of an optimizer", {v: draw(52 + i, 37, 33, spread=12) for i, v in enumerate("pgmv")}, OPTIMIZER),
        _chain("chain of flags", {"x": X, "y": Y, "other": OTHER, **whole_numbers}, FLAGS),
        _chain("chain of conversions", {"x": X, "y": Y, **whole_numbers, **more}, CONVERSIONS),
    ]


def _chain(name: str, inputs: dict[str, Json], steps: Sequence[Step]) -> tuple[str, str, list[Json]]:
    places: dict[str, Json] = {value: {"value": i} for i, value in enumerate([*inputs, *(made for made, *_ in steps)])}
    listed = [[f"aten.{op}", *(places[x] if isinstance(x, str) else x for x in taken)] for _, op, *taken in steps]
    return name, "chain", [list(inputs.values()), listed]


def in_turn(inputs: Sequence[Array], steps: Sequence[Sequence[Json]]) -> Array:
    """The last step's result."""
    values = list(inputs)
    for operator, *taken in steps:
        values.append(OPERATORS[operator](*(values[x["value"]] if isinstance(x, dict) else x for x in taken)))
    return values[-1]

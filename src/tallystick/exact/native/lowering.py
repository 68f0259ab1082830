"""ATen's element-wise operators as operations of the element-wise machine.

The PyTorch kernels (exact/elementwise.py, functions.py, roots.py) define the bits; each rule here is the same
composition of the same roundings. What no rule covers, such as arithmetic of integers, stays with those kernels.
"""

from collections.abc import Callable
from typing import Any, Final

import torch

from tallystick.exact.native.elementwise import Assembly, Value

Rule = Callable[..., Value]
CONVERSIONS: Final = {"int64": "float_of_long", "int32": "float_of_int", "uint8": "float_of_byte"}


class NotCovered(Exception):
    """The machine has no operation for these operands."""


def lower(assembly: Assembly, op: str, args: list[Any], kwargs: dict[str, Any], result: torch.dtype) -> Value:
    """Adds `op` to `assembly`; arguments are values of it, Python numbers or None.

    Raises:
        NotCovered
    """
    rule = RULES.get(op)
    if rule is None:
        raise NotCovered
    try:
        value = rule(assembly, *args, **kwargs)
    except TypeError:  # an overload with other arguments
        raise NotCovered from None
    if value.kind != {torch.float32: "float", torch.bool: "flag"}.get(result):
        raise NotCovered
    return value


def _float(assembly: Assembly, x: Any) -> Value:
    """`x` as float32: what torch makes of a number, and of an integer operand beside float32."""
    if not isinstance(x, Value):
        if isinstance(x, bool) or not isinstance(x, int | float):
            raise NotCovered
        return assembly.number(x)
    if x.kind == "float":
        return x
    if x.kind in {"bool", "flag"}:
        return assembly.apply("float_of_flag", _flag(assembly, x))
    return assembly.apply(CONVERSIONS[x.kind], x)


def _flag(assembly: Assembly, x: Any) -> Value:
    if not isinstance(x, Value) or x.kind not in {"bool", "flag"}:
        raise NotCovered
    return assembly.apply("load_flag", x, kind="flag") if x.kind == "bool" else x


def _one_is_float(*operands: Any) -> bool:
    return any(isinstance(x, Value) and x.kind == "float" for x in operands)


def _require_float(*operands: Any) -> None:
    if not _one_is_float(*operands):
        raise NotCovered


def _arithmetic(name: str) -> Rule:
    def rule(assembly: Assembly, a: Any, b: Any, alpha: Any = 1) -> Value:
        _require_float(a, b)
        left, right = _float(assembly, a), _float(assembly, b)
        if alpha != 1:
            if not (isinstance(b, Value) and b.kind == "float"):
                raise NotCovered
            right = assembly.apply("mul", right, assembly.number(alpha))
        return assembly.apply(name, left, right)

    return rule


def _function(name: str) -> Rule:
    def rule(assembly: Assembly, x: Any) -> Value:
        _require_float(x)
        return assembly.apply(name, x)

    return rule


def _comparison(name: str) -> Rule:
    def rule(assembly: Assembly, a: Any, b: Any) -> Value:
        if _one_is_float(a, b):
            return assembly.apply(name, _float(assembly, a), _float(assembly, b), kind="flag")
        return assembly.apply(f"{name}_long", _long(assembly, a), _long(assembly, b), kind="flag")

    return rule


def _long(assembly: Assembly, x: Any) -> Value:
    if isinstance(x, Value) and x.kind == "int64":
        return x
    if not isinstance(x, int) or isinstance(x, bool):
        raise NotCovered
    return assembly.whole(x)


def _logic(name: str) -> Rule:
    def rule(assembly: Assembly, a: Any, b: Any) -> Value:
        return assembly.apply(name, _flag(assembly, a), _flag(assembly, b), kind="flag")

    return rule


def _not(assembly: Assembly, x: Any) -> Value:
    return assembly.apply("logical_not", _flag(assembly, x), kind="flag")


def _negative(assembly: Assembly, x: Any) -> Value:
    _require_float(x)
    return assembly.apply("sub", assembly.number(0.0), x)


def _sign(assembly: Assembly, x: Any) -> Value:
    _require_float(x)
    above, below = (assembly.apply(name, x, assembly.number(0.0), kind="flag") for name in ("gt", "lt"))
    return assembly.apply("sub", _float(assembly, above), _float(assembly, below))


def _clamp(assembly: Assembly, x: Any, low: Any = None, high: Any = None) -> Value:
    _require_float(x)
    if low is not None:
        x = assembly.apply("maximum", x, _float(assembly, low))
    return x if high is None else assembly.apply("minimum", x, _float(assembly, high))


def _clamp_max(assembly: Assembly, x: Any, high: Any) -> Value:
    return _clamp(assembly, x, None, high)


def _reciprocal(assembly: Assembly, x: Any) -> Value:
    _require_float(x)
    return assembly.apply("div", assembly.number(1.0), x)


def _rsqrt(assembly: Assembly, x: Any) -> Value:
    _require_float(x)
    return _reciprocal(assembly, assembly.apply("sqrt", x))


def _power(assembly: Assembly, x: Any, exponent: Any) -> Value:
    _require_float(x)
    match exponent:
        case 0.5:
            return assembly.apply("sqrt", x)
        case -0.5:
            return _rsqrt(assembly, x)
        case -1:
            return _reciprocal(assembly, x)
        case 2:
            return assembly.apply("mul", x, x)
        case 3:
            return assembly.apply("mul", assembly.apply("mul", x, x), x)
        case _:
            raise NotCovered


def _where(assembly: Assembly, condition: Any, a: Any, b: Any) -> Value:
    _require_float(a, b)
    return assembly.apply("where", _flag(assembly, condition), _float(assembly, a), _float(assembly, b))


def _clone(assembly: Assembly, x: Any) -> Value:
    _require_float(x)
    return assembly.apply("copy", x)


def _convert(assembly: Assembly, x: Any, dtype: Any = None) -> Value:
    if not isinstance(x, Value) or dtype not in {None, torch.float32, torch.bool}:
        raise NotCovered
    if dtype is torch.bool and x.kind == "float":
        return assembly.apply("ne", x, assembly.number(0.0), kind="flag")
    if dtype is torch.bool and x.kind == "int64":
        return assembly.apply("ne_long", x, assembly.whole(0), kind="flag")
    if dtype is torch.bool or (dtype is None and x.kind != "float"):
        raise NotCovered
    return assembly.apply("copy", x) if x.kind == "float" else _float(assembly, x)


def _overloads(name: str, rule: Rule, *overloads: str) -> dict[str, Rule]:
    return {f"aten.{name}.{overload}": rule for overload in overloads}


RULES: Final[dict[str, Rule]] = {
    **{
        k: v
        for name in ("add", "sub", "mul", "div")
        for k, v in _overloads(name, _arithmetic(name), "Tensor", "Scalar").items()
    },
    **{f"aten.{name}.default": _arithmetic(name) for name in ("maximum", "minimum")},
    **{
        f"aten.{name}.default": _function(name)
        for name in ("abs", "relu", "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sqrt")
    },
    **{
        k: v
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
        for k, v in _overloads(name, _comparison(name), "Tensor", "Scalar").items()
    },
    **{
        f"aten.{prefix}_{name}.{overload}": _logic(f"logical_{name}")
        for name in ("and", "or", "xor")
        for prefix, overload in (("logical", "default"), ("bitwise", "Tensor"))
    },
    "aten.logical_not.default": _not,
    "aten.bitwise_not.default": _not,
    "aten.neg.default": _negative,
    "aten.sign.default": _sign,
    **_overloads("clamp", _clamp, "default", "Tensor"),
    **_overloads("clamp_min", _clamp, "default", "Tensor"),
    **_overloads("clamp_max", _clamp_max, "default", "Tensor"),
    "aten.reciprocal.default": _reciprocal,
    "aten.rsqrt.default": _rsqrt,
    "aten.pow.Tensor_Scalar": _power,
    "aten.where.self": _where,
    "aten.clone.default": _clone,
    "aten.lift_fresh_copy.default": _clone,
    "aten._to_copy.default": _convert,
}
"""Operator name, as ATen spells it, to its rule."""

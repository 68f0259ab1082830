"""Operators that compute each entry by itself."""

from collections.abc import Callable

import numpy as np

from .values import BOOL, F32, Array, Number, meet, operand, require, settle

Kernel = Callable[..., Array]


def add(a: Array, b: Array | Number, alpha: Number = 1) -> Array:
    x, y = meet(a, b if alpha == 1 else mul(operand(b, a), alpha))
    return settle(np.add(x, y))


def sub(a: Array, b: Array | Number, alpha: Number = 1) -> Array:
    no_flags(a, b)
    x, y = meet(a, b if alpha == 1 else mul(operand(b, a), alpha))
    return settle(np.subtract(x, y))


def mul(a: Array, b: Array | Number) -> Array:
    x, y = meet(a, b)
    return settle(np.multiply(x, y))


def div(a: Array, b: Array | Number) -> Array:
    """Integers become float32 before they meet anything."""
    return settle(np.divide(a.astype(F32), operand(b, a).astype(F32)))


def neg(x: Array) -> Array:
    no_flags(x)
    return settle(np.zeros_like(x) - x)


def absolute(x: Array) -> Array:
    no_flags(x)
    return settle(np.abs(x))


def sign(x: Array) -> Array:
    return x if x.dtype == BOOL else (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)


def relu(x: Array) -> Array:
    return np.where(x <= 0, np.zeros_like(x), x)


def maximum(a: Array | Number, b: Array | Number) -> Array:
    x, y = meet(a, b)
    return settle(np.where(np.isnan(x) | np.isnan(y), x + y, np.where(x > y, x, y)))


def minimum(a: Array | Number, b: Array | Number) -> Array:
    x, y = meet(a, b)
    return settle(np.where(np.isnan(x) | np.isnan(y), x + y, np.where(x < y, x, y)))


def clamp(x: Array, low: Array | Number | None = None, high: Array | Number | None = None) -> Array:
    no_flags(x)
    raised = x if low is None else maximum(x, low)
    return raised if high is None else minimum(raised, operand(high, x))


def clamp_max(x: Array, high: Array | Number) -> Array:
    return clamp(x, None, high)


def where(condition: Array, a: Array, b: Array) -> Array:
    x, y = meet(a, b)
    return np.where(condition, x, y)


def comparison(op: Kernel) -> Kernel:
    return lambda a, b: op(*meet(a, b))


def logical(op: Kernel) -> Kernel:
    return lambda *operands: op(*(x != 0 for x in operands))


def bitwise(op: Kernel) -> Kernel:
    def kernel(a: Array, b: Array | Number) -> Array:
        x, y = meet(a, b)
        require(x.dtype != F32, "bits of float32")
        return op(x, y)

    return kernel


def bitwise_not(x: Array) -> Array:
    require(x.dtype != F32, "bits of float32")
    return np.invert(x)


def rounding(op: Kernel) -> Kernel:
    def kernel(x: Array) -> Array:
        no_flags(x)
        return settle(op(x)) if x.dtype == F32 else x

    return kernel


def is_nan(x: Array) -> Array:
    return np.isnan(x.astype(F32))


def is_inf(x: Array) -> Array:
    return np.isinf(x.astype(F32))


def divided(op: Callable[[int, int], int]) -> Kernel:
    """Python's // and % round down, as the text does; the quotient is taken modulo 2**bits."""

    def kernel(a: Array, b: Array | Number) -> Array:
        for x in (a, operand(b, a)):
            require(x.dtype not in {F32, BOOL}, "division of what is not integers")
        x, y = np.broadcast_arrays(*meet(a, b))
        require(bool((y != 0).all()), "division by zero")
        pairs = zip(x.reshape(-1), y.reshape(-1), strict=True)
        found = [op(int(p), int(q)) % 2**64 for p, q in pairs]
        return np.array(found, np.uint64).astype(x.dtype).reshape(x.shape)

    return kernel


def no_flags(*operands: Array | Number) -> None:
    for x in operands:
        require(not (isinstance(x, np.ndarray) and x.dtype == BOOL), "a difference or magnitude of flags")

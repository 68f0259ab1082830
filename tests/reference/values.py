"""Canonical float32, rounding, and how operands of different dtypes meet."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Number = int | float
F32, F64, I32, I64, U8, BOOL = (np.dtype(t) for t in (np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_))
RANK: Final = {BOOL: 0, U8: 1, I32: 2, I64: 3, F32: 4}
SMALLEST: Final = 2.0**-126
ONE_NAN: Final = np.array(0x7FC00000, np.uint32).view(np.float32)


class UndefinedError(ValueError):
    """exact-v1 gives the operator no result for these operands."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise UndefinedError(what)


def settle(x: Array) -> Array:
    """A float32 as it leaves an operator; other dtypes as they are."""
    if x.dtype != F32:
        return x
    x = np.where(np.abs(x) <= SMALLEST, np.float32(0), x)
    return np.where(np.isnan(x), ONE_NAN, x)


def f32(x: Array) -> Array:
    """float64, or integers, rounded to float32."""
    return settle(np.asarray(x).astype(F32))


def above(magnitude: Array) -> Array:
    """The smallest e with magnitude < 2**e, from the bits of a float32."""
    return (np.asarray(magnitude, F32).view(np.uint32) >> 23).astype(I64) - 126


def two_to(exponent: Array) -> Array:
    value: Array = np.ldexp(1.0, exponent)
    return value


def finite(x: Array, what: str) -> Array:
    require(bool(np.isfinite(x).all()), f"{what} is not finite")
    return x


def integers(x: Array, unit: Array) -> Array:
    """Float32 values as int64, in units of 2**unit."""
    units: Array = np.rint(x.astype(F64) * two_to(-unit))
    return units.astype(I64)


def operand(x: Array | Number, like: Array) -> Array:
    """A number beside a tensor `like`."""
    if isinstance(x, np.ndarray):
        return x
    if like.dtype == F32 or isinstance(x, float):
        return np.array(float(x)).astype(F32)
    return np.array(x, BOOL if isinstance(x, bool) and like.dtype == BOOL else I64)


def category(dtype: Any) -> int:
    return {BOOL: 0, F32: 2}.get(np.dtype(dtype), 1)


def promoted(*operands: Array) -> Any:
    """The dtype in which operands meet."""
    highest = max(category(x.dtype) for x in operands)
    among = [x for x in operands if category(x.dtype) == highest]
    among = [x for x in among if x.ndim] or among
    return max((x.dtype for x in among), key=lambda dtype: RANK[dtype])


def meet(a: Array | Number, b: Array | Number) -> tuple[Array, Array]:
    like = a if isinstance(a, np.ndarray) else b
    assert isinstance(like, np.ndarray)
    x, y = operand(a, like), operand(b, like)
    dtype = promoted(x, y)
    return x.astype(dtype), y.astype(dtype)


def dims_of(x: Array, dims: Any) -> tuple[int, ...]:
    """Dimensions from 0 up; all of them for none."""
    if isinstance(dims, int):
        dims = [dims]
    if x.ndim == 0 or not dims:
        return tuple(range(x.ndim))
    return tuple(sorted(d % x.ndim for d in dims))


def as_lines(x: Array, dims: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """`x` as [rest, terms], and the shape of the rest."""
    rest = [d for d in range(x.ndim) if d not in dims]
    shape = tuple(x.shape[d] for d in rest)
    count = int(np.prod([x.shape[d] for d in dims], dtype=np.int64))
    return x.transpose([*rest, *dims]).reshape(int(np.prod(shape, dtype=np.int64)), count), shape


def kept(result: Array, x: Array, dims: tuple[int, ...], keepdim: bool) -> Array:
    return result.reshape([1 if d in dims else size for d, size in enumerate(x.shape)]) if keepdim else result

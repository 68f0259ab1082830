"""The operator table: every ATen operator that a program may use, and its exact kernel.

A kernel takes what the operator takes and returns what it returns. float32 tensors and Python floats that enter are
canonical and hold only the one NaN (`rounding`), and so do results. The table is the allow-list: an operator that is
not here cannot be in a program. Integer and bool tensors use torch's own operators, which are exact already.

Kernels also run on meta tensors, which have a shape and a dtype but no values: so a program is checked before it runs.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact import functions
from tallystick.exact.products import matmul
from tallystick.exact.rounding import canonical, one_nan
from tallystick.exact.sums import exact_sum

Kernel = Callable[..., Tensor]
Number = int | float


def _operand(x: Tensor | Number, like: Tensor) -> Tensor:
    """A Python number meets a float32 tensor as the float32 nearest to it, and an integer tensor as an int64."""
    if isinstance(x, Tensor):
        return x
    if like.is_floating_point() or isinstance(x, float):
        return torch.tensor(x, dtype=torch.float32, device=like.device)
    return torch.tensor(x, dtype=torch.int64, device=like.device)


def _elementwise(op: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """A binary operator that IEEE 754 rounds correctly: float32 in, one rounding, canonical out, with the one NaN."""

    def kernel(a: Tensor | Number, b: Tensor | Number) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        assert isinstance(like, Tensor)
        result = op(_operand(a, like), _operand(b, like))
        return one_nan(canonical(result)) if result.is_floating_point() else result

    return kernel


multiply = _elementwise(torch.mul)
divide = _elementwise(torch.div)
plus = _elementwise(torch.add)
minus = _elementwise(torch.sub)


def add(a: Tensor, b: Tensor | Number, alpha: Number = 1) -> Tensor:
    return plus(a, b if alpha == 1 else multiply(_operand(b, a), alpha))


def sub(a: Tensor, b: Tensor | Number, alpha: Number = 1) -> Tensor:
    _require_numbers(a, b)
    return minus(a, b if alpha == 1 else multiply(_operand(b, a), alpha))


def neg(x: Tensor) -> Tensor:
    """0 - x, since -x would turn 0 into negative zero."""
    _require_numbers(x)
    return minus(torch.zeros_like(x), x)


def absolute(x: Tensor) -> Tensor:
    _require_numbers(x)
    return x.abs()


def _require_numbers(*operands: Tensor | Number) -> None:
    """torch has no difference of flags, but says so only once there are values."""
    if any(isinstance(x, Tensor) and x.dtype == torch.bool for x in operands):
        raise Refused("unsupported_dtype", "a difference or magnitude of bool tensors is not defined; use int64")


def relu(x: Tensor) -> Tensor:
    """max(x, 0), and NaN for NaN."""
    return torch.where(x <= 0, torch.zeros_like(x), x)


def addmm(bias: Tensor, a: Tensor, b: Tensor, beta: Number = 1, alpha: Number = 1) -> Tensor:
    product = matmul(a, b)
    scaled = product if alpha == 1 else multiply(product, alpha)
    return plus(scaled, bias if beta == 1 else multiply(bias, beta))


def sum_over(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: object = None) -> Tensor:
    if dtype not in {None, torch.float32, torch.int64}:
        raise Refused("unsupported_dtype", f"a sum in {dtype} is not part of exact-v1; use float32 or int64")
    return exact_sum(x.to(torch.float32) if dtype is torch.float32 else x, dims or (), keepdim)


def mean_over(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, dtype: object = None) -> Tensor:
    """The exact sum, rounded to float32, divided by the number of terms."""
    total = sum_over(x, dims, keepdim, dtype)
    return divide(total, float(x.numel() // max(total.numel(), 1)))


def log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """x - max, less the log of the sum of its exponentials; each step an exact kernel."""
    shifted = minus(x, x.amax(dim, keepdim=True))
    return minus(shifted, functions.log(exact_sum(functions.exp(shifted), (dim,), keepdim=True)))


def softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    e = functions.exp(minus(x, x.amax(dim, keepdim=True)))
    return divide(e, exact_sum(e, (dim,), keepdim=True))


def to_copy(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Conversion between integer kinds, or from them to float32 (nearest, ties to even)."""
    if dtype is None or dtype == x.dtype:
        return x.clone()
    if x.is_floating_point():
        raise Refused("unsupported_dtype", f"{x.dtype} to {dtype} is not part of exact-v1; keep it in float32")
    return x.to(dtype)


def full(size: Sequence[int], value: Number, dtype: torch.dtype | None = None) -> Tensor:
    """`dtype` None means what torch infers: float32 for a float, int64 for an int, bool for a bool."""
    return torch.full(list(size), _fitting(value, dtype), dtype=dtype)


def full_like(x: Tensor, value: Number, dtype: torch.dtype | None = None) -> Tensor:
    fitting = _fitting(value, dtype or x.dtype)
    return torch.full_like(x, fitting, dtype=dtype, memory_format=torch.contiguous_format)


def scalar_tensor(value: Number, dtype: torch.dtype | None = None) -> Tensor:
    """`dtype` None means float32."""
    return torch.scalar_tensor(_fitting(value, dtype), dtype=dtype)


def _fitting(value: Number, dtype: torch.dtype | None) -> Number:
    """`value`, if a tensor of `dtype` can hold it; torch's own conversion depends on the machine."""
    if dtype is None or dtype.is_floating_point:
        return value
    low, high = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if isinstance(value, float) or not low <= value <= high:
        raise Refused("bad_constant", f"{value} is not a value of {dtype}")
    return value


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    _require_indices(index, x, dim)
    return torch.gather(x, dim, index)


def scatter(x: Tensor, dim: int, index: Tensor, value: Number) -> Tensor:
    _require_indices(index, x, dim)
    return torch.scatter(x, dim, index, _fitting(value, x.dtype))


def _require_indices(index: Tensor, x: Tensor, dim: int) -> None:
    """An index comes from the data, such as a label, so it is refused here and not left to crash the device."""
    size = x.shape[dim] if x.dim() else 1
    if not index.is_meta and bool(((index < 0) | (index >= size)).any()):
        raise Refused("index_out_of_range", f"an index is not within 0..{size - 1}; check the data, such as labels")


def amax(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    peak = x.amax(tuple(dims), keepdim=keepdim)
    return one_nan(peak) if peak.is_floating_point() else peak


def _compare(op: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    def kernel(a: Tensor, b: Tensor | Number) -> Tensor:
        return op(a, _operand(b, a))

    return kernel


def _same(op: Callable[..., Any]) -> Kernel:
    """An operator that only moves or selects entries: torch's own is exact."""
    return op


def _unchanged(x: Tensor) -> Tensor:
    return x


def _with_overloads(name: str, kernel: Kernel, *overloads: str) -> dict[str, Kernel]:
    return {f"aten.{name}.{overload}": kernel for overload in overloads}


KERNELS: Final[dict[str, Kernel]] = {
    "aten.mm.default": matmul,
    "aten.bmm.default": matmul,
    "aten.addmm.default": addmm,
    **_with_overloads("add", add, "Tensor", "Scalar"),
    **_with_overloads("sub", sub, "Tensor", "Scalar"),
    **_with_overloads("mul", multiply, "Tensor", "Scalar"),
    **_with_overloads("div", divide, "Tensor", "Scalar"),
    "aten.neg.default": neg,
    "aten.relu.default": relu,
    "aten.exp.default": functions.exp,
    "aten.log.default": functions.log,
    "aten._log_softmax.default": log_softmax,
    "aten._softmax.default": softmax,
    "aten.sum.dim_IntList": sum_over,
    "aten.sum.default": sum_over,
    "aten.mean.dim": mean_over,
    "aten.mean.default": mean_over,
    **_with_overloads("eq", _compare(torch.eq), "Tensor", "Scalar"),
    **_with_overloads("ne", _compare(torch.ne), "Tensor", "Scalar"),
    **_with_overloads("lt", _compare(torch.lt), "Tensor", "Scalar"),
    **_with_overloads("le", _compare(torch.le), "Tensor", "Scalar"),
    **_with_overloads("gt", _compare(torch.gt), "Tensor", "Scalar"),
    **_with_overloads("ge", _compare(torch.ge), "Tensor", "Scalar"),
    "aten.abs.default": absolute,
    "aten.amax.default": amax,
    "aten.where.self": _same(torch.where),
    "aten.gather.default": gather,
    "aten.scatter.value": scatter,
    "aten.permute.default": _same(torch.permute),
    "aten.view.default": _same(torch.reshape),
    "aten.expand.default": _same(Tensor.expand),
    "aten.unsqueeze.default": _same(torch.unsqueeze),
    "aten.squeeze.dims": _same(torch.squeeze),
    "aten.squeeze.dim": _same(torch.squeeze),
    "aten.clone.default": _same(torch.clone),
    "aten.alias.default": _unchanged,
    "aten.detach.default": _unchanged,
    "aten._to_copy.default": to_copy,
    "aten.full.default": full,
    "aten.full_like.default": full_like,
    "aten.scalar_tensor.default": scalar_tensor,
}
"""Operator name, as ATen spells it, to exact kernel."""

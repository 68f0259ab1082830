"""Arithmetic, comparisons and logic, one entry at a time.

On float32 an operator is the IEEE operation in float32, then `settle`: magnitudes up to 2**-126 become +0 and NaN
gets its one form. Mixed operands meet as torch promotes them; integers become the nearest float32. Integer results
wrap around (two's complement), as everywhere in torch.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.rounding import settle

Number = int | float
Kernel = Callable[..., Tensor]


def operand(x: Tensor | Number, like: Tensor) -> Tensor:
    """A Python number meets a float32 tensor as the float32 nearest to it, and an integer tensor as an int64."""
    if isinstance(x, Tensor):
        return x
    if like.is_floating_point() or isinstance(x, float):
        return torch.tensor(x, dtype=torch.float32, device=like.device)
    flag = isinstance(x, bool) and like.dtype == torch.bool
    return torch.tensor(x, dtype=torch.bool if flag else torch.int64, device=like.device)


def _binary(op: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """A binary operator that IEEE 754 rounds correctly: float32 in, one rounding, canonical out, with the one NaN."""

    def kernel(a: Tensor | Number, b: Tensor | Number) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        assert isinstance(like, Tensor)
        return settle(op(operand(a, like), operand(b, like)))

    return kernel


multiply: Final = _binary(torch.mul)
divide: Final = _binary(torch.div)
plus: Final = _binary(torch.add)
minus: Final = _binary(torch.sub)
maximum: Final = _binary(torch.maximum)
"""The larger; NaN if either is."""
minimum: Final = _binary(torch.minimum)


def add(a: Tensor, b: Tensor | Number, alpha: Number = 1) -> Tensor:
    return plus(a, b if alpha == 1 else multiply(operand(b, a), alpha))


def sub(a: Tensor, b: Tensor | Number, alpha: Number = 1) -> Tensor:
    require_numbers(a, b)
    return minus(a, b if alpha == 1 else multiply(operand(b, a), alpha))


def neg(x: Tensor) -> Tensor:
    """0 - x, since -x would turn 0 into negative zero."""
    require_numbers(x)
    return minus(torch.zeros_like(x), x)


def absolute(x: Tensor) -> Tensor:
    require_numbers(x)
    return x.abs()


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1, and 0 for NaN."""
    if x.dtype == torch.bool:
        return x.clone()
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


def relu(x: Tensor) -> Tensor:
    """max(x, 0), and NaN for NaN."""
    require_numbers(x)
    return torch.clamp_min(x, 0)


def where(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `chosen`, else `b`; float32 by bits, which is much faster than torch's own."""
    if chosen.dtype != torch.bool or a.dtype != torch.float32 or b.dtype != torch.float32:
        return torch.where(chosen, a, b)
    p, q = a.view(torch.int32), b.view(torch.int32)
    mask = chosen.expand(torch.broadcast_shapes(chosen.shape, a.shape, b.shape)).to(torch.int32)
    return mask.mul_(p ^ q).bitwise_xor_(q).view(torch.float32)


def clamp(x: Tensor, low: Tensor | Number | None = None, high: Tensor | Number | None = None) -> Tensor:
    """min(max(x, low), high); NaN if any is."""
    require_numbers(x)
    raised = x if low is None else maximum(x, low)
    return raised if high is None else minimum(raised, operand(high, x))


def clamp_max(x: Tensor, high: Tensor | Number) -> Tensor:
    return clamp(x, None, high)


def require_numbers(*operands: Tensor | Number) -> None:
    """torch has no difference or order of flags, but says so only once there are values."""
    if any(isinstance(x, Tensor) and x.dtype == torch.bool for x in operands):
        raise Refused("unsupported_dtype", "a difference or magnitude of bool tensors is not defined; use int64")


def require_integers(*operands: Tensor, flags: bool) -> None:
    """`flags`: whether bool tensors pass."""
    for x in operands:
        if x.is_floating_point() or (x.dtype == torch.bool and not flags):
            raise Refused("unsupported_dtype", f"this operator on {x.dtype} is not part of exact-v1; use integers")


def rounding(op: Callable[[Tensor], Tensor]) -> Kernel:
    """floor, ceil, round (ties to even) or trunc: exact in float32, except that -0.0 becomes 0."""

    def kernel(x: Tensor) -> Tensor:
        require_numbers(x)
        return settle(op(x)) if x.is_floating_point() else x.clone()

    return kernel


def comparison(op: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    def kernel(a: Tensor, b: Tensor | Number) -> Tensor:
        return op(a, operand(b, a))

    return kernel


def bitwise(op: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """On integers bit by bit, on flags as logic."""

    def kernel(a: Tensor, b: Tensor | Number) -> Tensor:
        other = operand(b, a)
        require_integers(a, other, flags=True)
        return op(a, other)

    return kernel


def bitwise_not(x: Tensor) -> Tensor:
    require_integers(x, flags=True)
    return torch.bitwise_not(x)


def floor_divide(a: Tensor, b: Tensor | Number) -> Tensor:
    """The quotient of integers, rounded down.

    Dividing the smallest integer by -1 stops some processors, so -1 is taken out: there the quotient is 0 - a.
    """
    dividend, divisor, negated = _divided(a, b)
    return torch.where(negated, -dividend, torch.floor_divide(dividend, divisor))


def remainder(a: Tensor, b: Tensor | Number) -> Tensor:
    """a - b * floor_divide(a, b), of integers; it has the sign of b."""
    dividend, divisor, negated = _divided(a, b)
    rest = torch.remainder(dividend, divisor)
    return torch.where(negated, torch.zeros_like(rest), rest)


def _divided(a: Tensor, b: Tensor | Number) -> tuple[Tensor, Tensor, Tensor]:
    """Both operands in the dtype in which they meet, the second with 1 in the place of -1, and where that was done."""
    other = operand(b, a)
    require_integers(a, other, flags=False)
    dtype = torch.result_type(a, other)
    divisor = other.to(dtype)
    if not divisor.is_meta and bool((divisor == 0).any()):
        raise Refused("division_by_zero", "an integer is divided by zero")
    if not dtype.is_signed:  # and in uint8, 255 == -1
        return a.to(dtype), divisor, torch.zeros_like(divisor, dtype=torch.bool)
    negated = divisor == -1
    return a.to(dtype), torch.where(negated, torch.ones_like(divisor), divisor), negated

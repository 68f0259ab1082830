"""Matrix products on integers.

Each row of the left operand and each column of the right one is scaled by a power of two and rounded to integers of
magnitude at most 2**bits: 20 in the profile `full` (three base-128 digits), 13 in `fast` (two). Their products add up
exactly in float64 as long as the running sum stays below 2**53, in any order, so any BLAS gives the same integer; it is
scaled back and rounded to float32 once. The same integers can be multiplied digit by digit on an int8 unit. The idea is
Ozaki's error-free splitting (Ootomo et al. 2024, arXiv 2409.13313), cut to one fixed-size slice.
"""

from typing import Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.rounding import exponent_above, power_of_two, require_finite, to_float32

FULL_BITS: Final = 20
FAST_BITS: Final = 13


def exact_terms(bits: int) -> int:
    """How many products of two integers of magnitude up to 2**bits float64 adds up exactly."""
    return int(2 ** (53 - 2 * bits))


def max_terms(bits: int) -> int:
    """How many of them int64 adds up, with one bit to spare."""
    return int(2 ** (62 - 2 * bits))


def scaled_integers(x: Tensor, dims: int | tuple[int, ...], bits: int = FULL_BITS) -> tuple[Tensor, Tensor]:
    """Rounds `x` (float32) to integers that share a power of two over `dims`.

    Returns:
        The integers (float64, shape of `x`, magnitude up to 2**bits) and their unit's exponent (int64, `dims` of
        size 1): x is within half a unit of integers * 2**exponent.

    Raises:
        NonFiniteError: `x` holds an infinity or a NaN.
        Refused: `unsupported_dtype`.
    """
    dims = (dims,) if isinstance(dims, int) else dims
    if x.dtype != torch.float32:
        raise Refused("unsupported_dtype", f"a matrix product of {x.dtype} is not part of exact-v1; use float32")
    if any(x.shape[dim] == 0 for dim in dims):
        shape = list(x.shape)
        for dim in dims:
            shape[dim] = 1
        return x.to(torch.float64), torch.zeros(shape, dtype=torch.int64, device=x.device)
    peak = x.abs().amax(dims, keepdim=True)
    require_finite(peak, "an operand of a matrix product")
    unit = exponent_above(peak) - bits
    return torch.round(x.to(torch.float64) * power_of_two(-unit)), unit


def matmul(a: Tensor, b: Tensor, bits: int = FULL_BITS) -> Tensor:
    """The product of `a` [..., M, K] and `b` [..., K, N], float32, with equal leading sizes.

    Entry (i, j) is the exact integer sum_k qa[i,k] * qb[k,j], times its power of two, rounded to float64 (which changes
    it only beyond 2**53) and from there to float32.

    Raises:
        NonFiniteError: an operand holds an infinity or a NaN.
        Refused: `unsupported_dtype`, or `too_large` for K > max_terms(bits).
    """
    require_terms(a.shape[-1], max_terms(bits))
    qa, unit_a = scaled_integers(a, -1, bits)
    qb, unit_b = scaled_integers(b, -2, bits)
    return to_float32(_integer_product(qa, qb, exact_terms(bits)) * power_of_two(unit_a + unit_b))


def require_terms(terms: int, limit: int) -> None:
    """Raises Refused `too_large` for a product over more terms than can be added exactly."""
    if terms > limit:
        raise Refused("too_large", f"a matrix product over {terms} terms; at most {limit} are admitted")


def _integer_product(qa: Tensor, qb: Tensor, limit: int) -> Tensor:
    """Exact products of integer matrices; beyond `limit` terms the pieces are added in int64."""
    terms = qa.shape[-1]
    if terms <= limit:
        return qa @ qb
    total = torch.zeros((), dtype=torch.int64, device=qa.device)
    for start in range(0, terms, limit):
        piece = qa[..., start : start + limit] @ qb[..., start : start + limit, :]
        total = total + piece.to(torch.int64)
    return total.to(torch.float64)

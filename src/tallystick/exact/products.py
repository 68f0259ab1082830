"""Matrix products on integers.

Each row of the left operand and each column of the right one is scaled by a power of two and rounded to integers of
at most DIGITS base-128 digits. Their products add up exactly in float64 as long as the running sum stays below 2**53,
in any order, so any BLAS gives the same integer; it is scaled back and rounded to float32 once. The same integers can
be multiplied digit by digit on an int8 unit. The idea is Ozaki's error-free splitting (Ootomo et al. 2024,
arXiv 2409.13313), cut to one fixed-size slice.
"""

from typing import Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.rounding import exponent_above, power_of_two, require_finite, to_float32

DIGITS: Final = 3
INTEGER_BITS: Final = 7 * DIGITS - 1
"""Scaled entries are integers of magnitude <= 2**INTEGER_BITS."""
EXACT_TERMS: Final = 2 ** (53 - 2 * INTEGER_BITS)
"""How many products of two such integers float64 adds up exactly."""
MAX_TERMS: Final = 2 ** (62 - 2 * INTEGER_BITS)
"""How many of them int64 adds up."""


def scaled_integers(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Rounds `x` (float32) to integers that share a power of two along `dim`.

    Returns:
        The integers (float64, shape of `x`) and their unit's exponent (int64, `dim` of size 1):
        x is within half a unit of integers * 2**exponent.

    Raises:
        NonFiniteError: `x` holds an infinity or a NaN.
        Refused: `unsupported_dtype`.
    """
    if x.dtype != torch.float32:
        raise Refused("unsupported_dtype", f"a matrix product of {x.dtype} is not part of exact-v1; use float32")
    if x.shape[dim] == 0:
        shape = list(x.shape)
        shape[dim] = 1
        return x.to(torch.float64), torch.zeros(shape, dtype=torch.int64, device=x.device)
    peak = x.abs().amax(dim, keepdim=True)
    require_finite(peak, "an operand of a matrix product")
    unit = exponent_above(peak) - INTEGER_BITS
    return torch.round(x.to(torch.float64) * power_of_two(-unit)), unit


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The product of `a` [..., M, K] and `b` [..., K, N], float32, with equal leading sizes.

    Entry (i, j) is the exact integer sum_k qa[i,k] * qb[k,j], times its power of two, rounded to float64 (which changes
    it only beyond 2**53) and from there to float32.

    Raises:
        NonFiniteError: an operand holds an infinity or a NaN.
        Refused: `unsupported_dtype`, or `too_large` for K > MAX_TERMS.
    """
    if a.shape[-1] > MAX_TERMS:
        raise Refused("too_large", f"a matrix product over {a.shape[-1]} terms; at most {MAX_TERMS} are admitted")
    qa, unit_a = scaled_integers(a, -1)
    qb, unit_b = scaled_integers(b, -2)
    return to_float32(_integer_product(qa, qb) * power_of_two(unit_a + unit_b))


def _integer_product(qa: Tensor, qb: Tensor) -> Tensor:
    """Exact products of integer matrices; beyond EXACT_TERMS the pieces are added in int64."""
    terms = qa.shape[-1]
    if terms <= EXACT_TERMS:
        return qa @ qb
    total = torch.zeros((), dtype=torch.int64, device=qa.device)
    for start in range(0, terms, EXACT_TERMS):
        piece = qa[..., start : start + EXACT_TERMS] @ qb[..., start : start + EXACT_TERMS, :]
        total = total + piece.to(torch.int64)
    return total.to(torch.float64)

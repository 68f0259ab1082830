"""Matrix products on integers.

Each row of the left operand and each column of the right one is scaled by a power of two and rounded to integers of
magnitude at most 2**bits: 20 in the profile `full` (three base-128 digits), 13 in `fast` (two). Their products add up
exactly in float64 as long as the running sum stays below 2**53, in any order, so any BLAS gives the same integer; it is
scaled back and rounded to float32 once. The idea is Ozaki's error-free splitting (Ootomo et al. 2024, arXiv
2409.13313), cut to one fixed-size slice.

Three ways give the same bits: the compiled kernels (`native`), on a CPU where they were built; one float64 product; and
int8 products digit by digit, for a machine whose int8 unit is faster than its float64 unit, on request
(TALLYSTICK_PRODUCTS=int8).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.native import products as compiled
from tallystick.exact.rounding import exponent_above, make_canonical, peak_along, power_of_two, require_finite
from tallystick.exact.settings import setting

FULL_BITS: Final = 20
FAST_BITS: Final = 13
DIGIT_BITS: Final = 7
INT8_TERMS: Final = 2 ** (30 - 2 * (DIGIT_BITS - 1))
"""How many products of two digits int32 adds up, with a bit to spare."""

BLOCK: Final = 2**18
"""Entries of the float64 operands or results that are made at a time; rather many, for the sake of the BLAS."""


@dataclass(frozen=True)
class Rounded:
    """float32 numbers, each rounded to an integer of magnitude up to 2**bits times a power of two.

    They stay where they were on the number line, so that products and sums of them need no scaling afterwards: float64
    adds multiples of a power of two as exactly as integers, and its exponents are large enough.
    """

    values: Tensor
    """float64."""
    unit: Tensor
    """The power of two's exponent (int64), of size 1 where it is shared."""

    def integers(self) -> Tensor:
        return self.values * power_of_two(-self.unit)


Product = Callable[[Rounded, Rounded, int], Tensor]


def exact_terms(bits: int) -> int:
    """How many products of two integers of magnitude up to 2**bits float64 adds up exactly."""
    return int(2 ** (53 - 2 * bits))


def max_terms(bits: int) -> int:
    """How many of them int64 adds up, with one bit to spare."""
    return int(2 ** (62 - 2 * bits))


def rounded(x: Tensor, dims: int | tuple[int, ...], bits: int = FULL_BITS) -> Rounded:
    """Rounds `x` (float32) to integers of magnitude up to 2**bits times a power of two that is shared over `dims`.

    Raises:
        NonFiniteError: `x` holds an infinity or a NaN.
        Refused: `unsupported_dtype`.
    """
    return rounded_to(x, unit_over(x, dims, bits))


def unit_over(x: Tensor, dims: int | tuple[int, ...], bits: int = FULL_BITS) -> Tensor:
    """The exponent (int64, `dims` of size 1) of the unit in which `x` (float32) has magnitudes up to 2**bits."""
    dims = (dims,) if isinstance(dims, int) else dims
    if x.dtype != torch.float32:
        raise Refused("unsupported_dtype", f"a matrix product of {x.dtype} is not part of exact-v1; use float32")
    if any(x.shape[dim] == 0 for dim in dims):
        shape = list(x.shape)
        for dim in dims:
            shape[dim] = 1
        return torch.zeros(shape, dtype=torch.int64, device=x.device)
    peak = peak_along(x, dims)
    require_finite(peak, "an operand of a matrix product")
    return exponent_above(peak) - bits


def rounded_to(x: Tensor, unit: Tensor) -> Rounded:
    """`x` (float32, within 2**51 units) rounded to multiples of 2**unit, ties to even."""
    return Rounded(nearest_multiple(x.to(torch.float64), unit), unit)


def nearest_multiple(x: Tensor, unit: Tensor) -> Tensor:
    """`x` (float64, within 2**51 units) rounded in place to multiples of 2**unit, ties to even.

    Numbers from 2**52 to 2**53 units are a unit apart, so adding one of them rounds; taking it away again is exact.
    """
    lever = power_of_two(unit + 52) * 1.5
    return x.add_(lever).sub_(lever)


def matmul(a: Tensor, b: Tensor, bits: int = FULL_BITS) -> Tensor:
    """The product of `a` [..., M, K] and `b` [..., K, N], float32, with equal leading sizes.

    Entry (i, j) is the exact integer sum_k qa[i,k] * qb[k,j], times its power of two, rounded to float64 (which changes
    it only beyond 2**53) and from there to float32.

    Raises:
        NonFiniteError: an operand holds an infinity or a NaN.
        Refused: `unsupported_dtype`, or `too_large` for K > max_terms(bits).
    """
    require_terms(a.shape[-1], max_terms(bits))
    result = compiled.matmul(a, b, bits) if CHOSEN_PRODUCT is float64_product else None
    return scaled_product(a, b, bits, CHOSEN_PRODUCT) if result is None else result


def scaled_product(a: Tensor, b: Tensor, bits: int, product: Product) -> Tensor:
    """`matmul` by torch's own operators: some rows of `a` at a time, or some matrices of a stack."""
    result = a.new_empty((*a.shape[:-1], b.shape[-1]))
    if a.dim() > 2:
        count = max(1, BLOCK // max(1, *(x[0].numel() for x in (a, b, result) if len(x))))
        for x, y, place in zip(a.split(count), b.split(count), result.split(count), strict=True):
            place.copy_(product(rounded(x, -1, bits), rounded(y, -2, bits), bits))
    else:
        right = rounded(b, -2, bits)
        count = max(1, BLOCK // max(1, *b.shape))
        for x, place in zip(a.split(count), result.split(count), strict=True):
            place.copy_(product(rounded(x, -1, bits), right, bits))
    return make_canonical(result)


def require_terms(terms: int, limit: int) -> None:
    """Raises Refused `too_large` for a product over more terms than can be added exactly."""
    if terms > limit:
        raise Refused("too_large", f"a matrix product over {terms} terms; at most {limit} are admitted")


def float64_product(a: Rounded, b: Rounded, bits: int) -> Tensor:
    """Exact products of rounded matrices; beyond `exact_terms` the pieces are added in int64."""
    terms, limit = a.values.shape[-1], exact_terms(bits)
    if terms <= limit:
        return a.values @ b.values
    starts = range(0, terms, limit)
    pieces = (a.values[..., at : at + limit] @ b.values[..., at : at + limit, :] for at in starts)
    return wide_sum(pieces, a.unit + b.unit)


def wide_sum(parts: Iterable[Tensor], unit: Tensor) -> Tensor:
    """The sum of tensors of multiples of 2**unit (float64, exact), added in int64 and rounded to float64 once."""
    scale = power_of_two(-unit)
    total = sum((part * scale).to(torch.int64) for part in parts)
    assert isinstance(total, Tensor)
    return total.to(torch.float64).mul_(power_of_two(unit))


def int8_product(a: Rounded, b: Rounded, bits: int) -> Tensor:
    """The same, digit by digit, with sums of int8 products in int32."""
    count, (qa, qb) = -(-bits // DIGIT_BITS), (a.integers(), b.integers())
    digits_a, digits_b = digits_of(qa, count), digits_of(qb, count)
    total = torch.zeros((*qa.shape[:-1], qb.shape[-1]), dtype=torch.int64, device=qa.device)
    for i, x in enumerate(digits_a):
        for j, y in enumerate(digits_b):
            for start in range(0, qa.shape[-1], INT8_TERMS):
                part = slice(start, start + INT8_TERMS)
                total += _int8_matmul(x[..., part], y[..., part, :]).to(torch.int64) << DIGIT_BITS * (i + j)
    return total.to(torch.float64).mul_(power_of_two(a.unit + b.unit))


def digits_of(q: Tensor, count: int) -> list[Tensor]:
    """Balanced base-128 digits (int8), lowest first: within -64..63, and the highest up to 64.

    >>> [d.tolist() for d in digits_of(torch.tensor([200.0, -64.0]), 2)]
    [[-56, -64], [2, 0]]
    """
    rest, digits = q.to(torch.int32), []
    half = 1 << DIGIT_BITS - 1
    for _ in range(count - 1):
        digit = ((rest + half) & (2 * half - 1)) - half
        digits.append(digit.to(torch.int8))
        rest = (rest - digit) >> DIGIT_BITS
    return [*digits, rest.to(torch.int8)]


def _int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    if a.dim() == 2:
        return torch._int_mm(_laid_out_anew(a), _laid_out_anew(b))
    stack = zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True)
    products = [torch._int_mm(_laid_out_anew(x), _laid_out_anew(y)) for x, y in stack]
    return torch.stack(products).reshape(*a.shape[:-1], b.shape[-1])


def _laid_out_anew(x: Tensor) -> Tensor:
    """torch calls a row with the strides (1, 1) contiguous, and `_int_mm` (2.13, with oneDNN) reads past its end."""
    return x.clone(memory_format=torch.contiguous_format)


PRODUCTS: Final[dict[str, Product]] = {"float64": float64_product, "int8": int8_product}
CHOSEN_PRODUCT: Final = PRODUCTS[setting("TALLYSTICK_PRODUCTS", PRODUCTS, "float64")]
"""The way chosen; the self-test shows whether it is exact on this machine, such as on an int8 unit that saturates."""

"""The ways in which a product can be computed on this machine, and what they are compared with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Final

import torch
from torch import Tensor

from reference import fractional as reference
from tallystick.exact.native import LIBRARY

HIGHEST: Final = 5


@contextmanager
def computing(level: int, threads: int = 1, flush: bool = False) -> Iterator[None]:
    """Instruction sets up to `level` (tiles.h); -1 where nothing was compiled."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)
    if LIBRARY is not None:
        LIBRARY.ts_limit_level(level)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)
        if LIBRARY is not None:
            LIBRARY.ts_limit_level(HIGHEST)


def _levels() -> list[int]:
    if LIBRARY is None:
        return [-1]
    found = [level for level in range(HIGHEST + 1) if LIBRARY.ts_limit_level(level) == level]
    LIBRARY.ts_limit_level(HIGHEST)
    return found


LEVELS: Final = _levels()


def patterns(x: Tensor) -> Tensor:
    """The bits of float32, so that -0 is not 0."""
    return x.contiguous().view(torch.int32)


def dot(a: Sequence[int], b: Sequence[int], unit: Fraction) -> float:
    """What exact-v1 says of one entry of a product, given the operands' integers and the product of their units."""
    total = sum(x * y for x, y in zip(a, b, strict=True))
    return reference.float32(reference.float64(Fraction(total)) * unit)


def wide_numbers(seed: int, *shape: int, low: int = -126, high: int = 127) -> Tensor:
    """Canonical float32 of both signs with exponents spread over low..high, and every eighth a zero."""
    generator = torch.Generator().manual_seed(seed)
    mantissa = 1 + torch.randint(1, 2**23, shape, generator=generator) / 2**23
    exponent = torch.randint(low, high + 1, shape, generator=generator)
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    zero = torch.randint(0, 8, shape, generator=generator) == 0
    values = torch.ldexp(mantissa.to(torch.float64), exponent) * sign
    return torch.where(zero, 0.0, values).to(torch.float32)

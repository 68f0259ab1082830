"""Counter-based random integers: Philox4x32-10 (Salmon et al., SC 2011), the same on every device.

The value at a counter is a function of (key, counter) alone, so nothing is drawn in order and nothing has a state.
"""

from typing import Final

import torch
from torch import Tensor

MASK_32: Final = 0xFFFF_FFFF
MULTIPLIERS: Final = (0xD251_1F53, 0xCD9E_8D57)
KEY_STEPS: Final = (0x9E37_79B9, 0xBB67_AE85)
ROUNDS: Final = 10


def _multiply(a: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * constant, by 16-bit halves so that int64 does not overflow."""
    low = a * (constant & 0xFFFF)
    high = a * (constant >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(key: int, stream: int, count: int) -> Tensor:
    """`count` rows of four 32-bit values for counters (0..count-1, stream), keyed by the low 64 bits of `key`.

    Returns:
        int64 [count, 4], entries in 0..2**32-1.
    """
    index = torch.arange(count, dtype=torch.int64)
    c2 = torch.full_like(index, stream & MASK_32)
    c3 = torch.full_like(index, (stream >> 32) & MASK_32)
    return philox_block(key, index & MASK_32, index >> 32, c2, c3)


def philox_block(key: int, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> Tensor:
    """The four 32-bit values (int64 [n, 4]) at each counter c0 | c1 << 32 | c2 << 64 | c3 << 96 (int64 [n] each)."""
    return philox_words(key & MASK_32, (key >> 32) & MASK_32, c0, c1, c2, c3)


def philox_words(k0: int | Tensor, k1: int | Tensor, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> Tensor:
    """As `philox_block`, with the key as two 32-bit words, which may be tensors."""
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK_32, (k1 + KEY_STEPS[1]) & MASK_32
    return torch.stack([c0, c1, c2, c3], dim=1)


def permutation(key: int, stream: int, count: int) -> Tensor:
    """A permutation of 0..count-1 (int64): indices sorted by 63 random bits each, ties by index."""
    draws = philox(key, stream, count)
    return torch.argsort((draws[:, 0] << 31) | (draws[:, 1] >> 1), stable=True)

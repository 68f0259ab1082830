"""Random numbers inside a program: a function of a key, a stream and an element, and of nothing else.

`tallystick::uniform` is registered with torch, so that a traced program can hold it like any ATen operator. Element e
is k * 2**-24, where k is the high 24 bits of word e % 4 of the Philox block at counter (e // 4, stream); see `random`.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.random import MASK_32, philox_words

WORDS_PER_BLOCK: Final = 4


def uniform(key: Tensor, size: Sequence[int], stream: int) -> Tensor:
    """float32 of shape `size`, in [0, 1).

    Args:
        key: int64 [2], the low and the high 32-bit word.
        stream: which random operator of the program this is.
    """
    if key.shape != (2,) or key.dtype != torch.int64:
        raise Refused("bad_key", f"a key of random numbers is int64 [2], not {key.dtype} {list(key.shape)}")
    if key.is_meta:
        return key.new_empty(list(size), dtype=torch.float32)
    count = math.prod(size)
    block = torch.arange(-(-count // WORDS_PER_BLOCK), dtype=torch.int64, device=key.device)
    c2, c3 = torch.full_like(block, stream & MASK_32), torch.full_like(block, (stream >> 32) & MASK_32)
    k0, k1 = key[0] & MASK_32, key[1] & MASK_32
    words = philox_words(k0, k1, block & MASK_32, block >> 32, c2, c3).view(-1)[:count]
    return ((words >> 8).to(torch.float32) * 2.0**-24).view(list(size))


@torch.library.custom_op("tallystick::uniform", mutates_args=())
def _operator(key: Tensor, size: Sequence[int], stream: int) -> Tensor:
    return uniform(key, size, stream)


@_operator.register_fake
def _shape(key: Tensor, size: Sequence[int], stream: int) -> Tensor:
    return key.new_empty(list(size), dtype=torch.float32)

"""Large tensors a block at a time, so that what a kernel makes on the way is small and stays in the processor's cache.

No result depends on where blocks begin and end.
"""

import functools
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

ENTRIES: Final = 2**15
"""Of one block, for each thread: torch gives a thread no less."""


def entries_at_once() -> int:
    return ENTRIES * torch.get_num_threads()


def by_blocks(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function`, which maps entry by entry, applied to one block after the other."""

    @functools.wraps(function)
    def kernel(x: Tensor) -> Tensor:
        size = entries_at_once()
        if not x.is_cpu or x.numel() <= size:
            return function(x)
        first, *rest = x.reshape(-1).split(size)
        made = function(first)
        result = torch.empty(x.shape, dtype=made.dtype)
        places = result.view(-1).split(size)
        places[0].copy_(made)
        for part, place in zip(rest, places[1:], strict=True):
            place.copy_(function(part))
        return result

    return kernel

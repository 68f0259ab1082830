"""What the C library does with memory that a step frees."""

import ctypes
import os
from typing import Final

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
KEPT_BYTES: Final = 512 * 2**20
"""At the end of the heap, for the next step."""
LARGEST_PIECE: Final = 32 * 2**20
"""Larger ones are taken from the system and go back at once; the most that glibc admits."""
SETTINGS: Final = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> None:
    """Lets this process keep what it frees, up to KEPT_BYTES.

    Every step frees as much as the last one and takes it again. glibc gives all but some megabytes back in between,
    and the system clears each page anew: a tenth of the time of a step. Whoever has set glibc's own variables is left
    alone, and so is another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name in os.environ for name in SETTINGS):
        mallopt(M_MMAP_THRESHOLD, LARGEST_PIECE)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)

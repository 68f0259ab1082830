"""The compiled kernels, where they were built; without them, or with TALLYSTICK_NATIVE=0, torch has the same bits."""

import ctypes
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final


def _load() -> ctypes.CDLL | None:
    if os.environ.get("TALLYSTICK_NATIVE") == "0":
        return None
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_library{suffix}")
        if path.exists():
            return ctypes.CDLL(str(path))
    return None


LIBRARY: Final = _load()

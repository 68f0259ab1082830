"""The compiled kernels, where they were built; without them torch has the same bits.

The environment variable TALLYSTICK_NATIVE switches them off (0), or keeps products from units beyond the one it names:
portable, float64, avx2, avx512, vnni, amx.
"""

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

import torch

from tallystick.exact.settings import setting

UNITS: Final = {
    "portable": "any processor",
    "float64": "float64 with FMA",
    "avx2": "AVX2",
    "avx512": "AVX-512",
    "vnni": "AVX-512 with VNNI",
    "amx": "AMX",
}
"""What products can run on, worst first (`level` in tiles.h), and how to call it."""


def share_threads(library: ctypes.CDLL) -> bool:
    """Lets the kernels run on the threads of torch's OpenMP runtime (threads.h); False where it cannot be found."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            team = getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)  # looks in what it is linked to as well
            if team is not None:
                library.ts_share_team(ctypes.cast(team, ctypes.c_void_p))
                return True
    return False


def load(folder: Path) -> tuple[ctypes.CDLL | None, str]:
    """The library in `folder`, if it can be loaded; and which kernels run, in words.

    Raises:
        SettingError: TALLYSTICK_NATIVE names no unit.
    """
    why, wanted = "none were compiled at install", setting("TALLYSTICK_NATIVE", ("0", "1", *UNITS), "1")
    if wanted == "0":
        return None, "PyTorch alone (TALLYSTICK_NATIVE=0)"
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_library{suffix}"
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
                unit = library.ts_limit_level(list(UNITS).index(wanted) if wanted in UNITS else len(UNITS) - 1)
                threads = "" if share_threads(library) else ", one thread"
            except (OSError, AttributeError) as error:  # of another architecture, C library or version, or cut off
                why = f"the compiled kernels cannot be loaded: {error}; reinstall tallystick to build them anew"
                continue
            return library, f"compiled kernels ({list(UNITS.values())[unit]}{threads})"
    return None, f"PyTorch alone ({why})"


_LOADED: Final = load(Path(__file__).parent)
LIBRARY: Final = _LOADED[0]
IN_USE: Final = _LOADED[1]

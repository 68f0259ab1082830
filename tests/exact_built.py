"""Compiled kernels with other sources or flags than setup.py's, beside the ones that are installed."""

import ast
import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tallystick.exact import native

SOURCES: Final = Path(native.__file__).parent
SETUP: Final = Path(__file__).parents[1] / "setup.py"
Patches = Mapping[str, tuple[str, str]]
"""By the name of a source: what stands there once, and what is to stand there."""


def usual_flags() -> list[str]:
    """What setup.py compiles with."""
    found = re.search(r"^FLAGS = (.*)$", SETUP.read_text(), re.MULTILINE)
    assert found is not None
    flags: list[str] = ast.literal_eval(found[1])
    return flags


def built(folder: Path, files: Sequence[str], patches: Patches, *flags: str) -> ctypes.CDLL:
    """A library from `files`; its functions take and return what those of the installed one do."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or native.LIBRARY is None or sys.platform != "linux":
        pytest.skip("no C compiler, or no compiled kernels, or not Linux: no faulty kernels could be built")
    for path in [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]:
        text = path.read_text()
        old, new = patches.get(path.name, ("", ""))
        assert not old or text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
        (folder / path.name).write_text(text.replace(old, new) if old else text)
    made = folder / "library.so"
    subprocess.run(
        [compiler, *usual_flags(), *flags, "-shared", "-fPIC", *files, "-o", made, "-lm"],
        cwd=folder,
        check=True,
    )
    library = ctypes.CDLL(str(made))
    for name, function in vars(native.LIBRARY).items():
        if name.startswith("ts_") and hasattr(library, name):
            there: Any = getattr(library, name)
            there.argtypes, there.restype = function.argtypes, function.restype
    return library

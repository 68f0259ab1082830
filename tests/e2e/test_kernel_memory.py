"""The compiled kernels touch no memory but their own: built with sanitizers, they run the self-test and random shapes.

Programs come from the network, and with them every shape that a kernel computes on.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import tallystick
from exact_built import usual_flags
from tallystick.exact import native

TESTS = Path(__file__).parents[1]
SANITIZED = (*usual_flags(), "-O1", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
PARTS = """    bump->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
"""
GUARDED = """
    extern void __asan_poison_memory_region(void const volatile *, size_t);
    extern void __asan_unpoison_memory_region(void const volatile *, size_t);
    const size_t whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + ALIGNMENT;
    bump->used += whole;
    if (place) {
        __asan_unpoison_memory_region(place, bytes);
        __asan_poison_memory_region((char *)place + bytes, whole - bytes);
    }
"""
"""A workspace is one allocation: without a fence between its parts, writing past one of them would go unnoticed."""
WORK = """
import sys
from tallystick.exact.selftest import first_failure
from fuzz.kernels import main
print("self-test:", first_failure())
main()
"""


@pytest.fixture(scope="module")
def runtime() -> str:
    """The sanitizer's library, which has to be there before any other."""
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux" or native.LIBRARY is None:
        pytest.skip("no gcc, or not Linux, or no compiled kernels: nothing to build with a sanitizer")
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(found.stdout.strip()).is_absolute():
        pytest.skip("gcc has no address sanitizer here")
    return found.stdout.strip()


@pytest.fixture(scope="module")
def package(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of tallystick whose kernels were built with sanitizers."""
    root = tmp_path_factory.mktemp("sanitized")
    shutil.copytree(Path(tallystick.__file__).parent, root / "tallystick", ignore=shutil.ignore_patterns("_library*"))
    folder = root / "tallystick" / "exact" / "native"
    change(folder / "workspace.c", PARTS, GUARDED)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sorted(folder.glob("*.c"))))
    link(folder)
    return root


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


def compile_one(source: Path) -> None:
    subprocess.run(["gcc", *SANITIZED, "-c", source, "-o", source.with_suffix(".o")], check=True)


def link(folder: Path) -> None:
    made = folder / f"_library{EXTENSION_SUFFIXES[0]}"
    subprocess.run(["gcc", *SANITIZED, "-shared", *folder.glob("*.o"), "-o", made, "-lm"], check=True)


def run(package: Path, runtime: str, cases: int) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(package), str(TESTS)]),
    }
    command = [sys.executable, "-c", WORK, "--cases", str(cases)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_kernels_stay_within_their_memory(package: Path, runtime: str) -> None:
    ended = run(package, runtime, cases=2000)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "self-test: None\n2000 cases on" in ended.stdout


def test_a_workspace_that_is_too_small_is_noticed(package: Path, runtime: str, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "tallystick" / "exact" / "native"
    change(folder / "gemm.c", "step_entries + SPILL, 16)", "step_entries, 16)")
    compile_one(folder / "gemm.c")
    link(folder)
    ended = run(tmp_path, runtime, cases=2000)
    assert ended.returncode != 0
    assert "AddressSanitizer" in ended.stderr

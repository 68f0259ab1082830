"""What exact training costs beside plain PyTorch on this machine: time per step and peak memory.

    python -m benchmarks.exact [--json FILE] [--threads N] [--only PATTERN] [--repeats N]

`native` is the compiled library, with the best unit that the processor has; `no int8 unit` the same library on a
processor that has no integer dot product, or kept from using it; `float64` the same library with every product on the
float64 unit; `PyTorch alone` is the same arithmetic with the library switched off. The bars of `native` are for
processors with an integer dot product, that of the others is for those without.
"""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.cases import ALONE, NAMES, PRODUCT
from benchmarks.measuring import OURS, PLAIN
from benchmarks.report import Row, cpu_flags, middle_and_spread, missing_row, progress, publish, ratio_row

PROFILES: Final = ("full", "fast")
PATHS: Final = {"native": "1", "no int8 unit": "avx512", "float64": "float64", ALONE: "0"}
"""And what TALLYSTICK_NATIVE is for each."""
TIME_BARS: Final = {
    ("product", "full"): 1.6,
    ("product", "fast"): 0.9,
    ("mlp", "full"): 1.8,
    ("mlp", "fast"): 1.1,
    ("resnet", "full"): 2.5,
    ("resnet", "fast"): 2.0,
    ("transformer", "full"): 2.0,
    ("transformer", "fast"): 1.5,
}
"""Largest time of ours over PyTorch's, native path, on a processor with an integer dot product."""
DOT_PRODUCTS: Final = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
NO_DOT_PRODUCT_BAR: Final = 3.0
MEMORY_BAR: Final = 2.0
BYTES_BAR: Final = 1.01
MEMORY_PROCESSES: Final = 3
"""Of each side: a freed matrix of a product stays with the allocator or does not, by chance."""
CHILD_LIMIT_S: Final = 900


def measure(what: str, case: str, profile: str, path: str, threads: int, last: str, program: Path) -> dict[str, Any]:
    """Runs one measurement in a fresh process; a failure is a reason, like any other."""
    command = [sys.executable, "-m", "benchmarks.measuring"]
    arguments = [what, case, profile, path, str(threads), last, str(program)]
    environment = os.environ | {"TALLYSTICK_NATIVE": PATHS[path]}
    try:
        done = subprocess.run(
            [*command, *arguments],
            env=environment,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
            timeout=CHILD_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"took more than {CHILD_LIMIT_S} s"}
    if done.returncode != 0:
        return {"reason": f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def rows_of(case: str, profile: str, path: str, threads: int, repeats: int) -> Iterator[Row]:
    """Time against every baseline, then peak memory; and once for each model the bytes that a worker sends."""
    label = f"{NAMES[case]}, {profile}, {path}"
    bar = TIME_BARS[case, profile] if path == "native" else NO_DOT_PRODUCT_BAR
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.json"
        timing = measure("time", case, profile, path, threads, str(repeats), program)
        if "reason" in timing:
            yield missing_row(label, "ms", PLAIN, bar, f"not supported: {timing['reason']}")
            return
        ours, spread = middle_and_spread(timing["samples"].pop(OURS))
        for name, samples in timing["samples"].items():
            theirs, their_spread = middle_and_spread(samples)
            note = f"middle half {spread} against {their_spread}"
            yield ratio_row(label, "ms", ours, theirs, name, bar if name == PLAIN else None, note)
        sides = [OURS, PLAIN] * MEMORY_PROCESSES
        peaks = [measure("memory", case, profile, path, threads, side, program) for side in sides]
        reasons = [peak["reason"] for peak in peaks if "reason" in peak]
        if reasons:
            yield missing_row(f"{label}: peak memory", "MiB", PLAIN, MEMORY_BAR, f"not measured: {reasons[0]}")
        else:
            mine, plain = (middle_and_spread([peak["peak"] for peak in peaks[i::2]]) for i in range(2))
            note = f"middle half {mine[1]} against {plain[1]}"
            yield ratio_row(f"{label}: peak memory", "MiB", mine[0], plain[0], PLAIN, MEMORY_BAR, note)
        if case != PRODUCT and (profile, path) == ("full", paths_here()[0]):
            sent = measure("bytes", case, profile, path, threads, "-", program)
            yield ratio_row(f"{label}: gradients sent", "bytes", sent[OURS], sent[PLAIN], "float32", BYTES_BAR)


def paths_here() -> list[str]:
    """`native` is `no int8 unit` on a processor without one."""
    return [path for path in PATHS if path != "native" or not DOT_PRODUCTS.isdisjoint(cpu_flags())]


def chosen_cases(only: str) -> list[tuple[str, str, str]]:
    """Case, profile and path of everything whose name, such as "mlp,full,native", has or matches `only`."""
    every = [(case, profile, path) for case in NAMES for profile in PROFILES for path in paths_here()]
    return [parts for parts in every if fnmatch.fnmatch(",".join(parts), f"*{only}*")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exact", description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for both sides")
    parser.add_argument("--only", default="", help='cases, such as "mlp", "mlp,full,native" or "fast,*"')
    parser.add_argument("--repeats", type=int, default=21, help="runs of each side, interleaved")
    options = parser.parse_args()
    cases = chosen_cases(options.only)
    if not cases:
        parser.error(f"--only {options.only!r} matches no case; there are {', '.join(NAMES)}, with profile and path")
    rows = []
    for parts in cases:
        progress(f"measuring {', '.join(parts)}")
        rows += list(rows_of(*parts, options.threads, options.repeats))
    publish(rows, options.threads, options.json)


if __name__ == "__main__":
    main()

"""One measurement in a process of its own, started by `benchmarks.exact`; its result is JSON on standard output.

    python -m benchmarks.measuring time   CASE PROFILE PATH THREADS REPEATS PROGRAM
    python -m benchmarks.measuring memory CASE PROFILE PATH THREADS SIDE    PROGRAM
    python -m benchmarks.measuring bytes  CASE PROFILE PATH THREADS -       PROGRAM

`time` runs ours and the baselines in turn, so that whatever else the machine does hits all of them alike. `memory` runs
one side only; the program comes from the file that `time` left, so tracing does not count. Its figure is the peak
resident size over three runs, less the resident size once everything is imported and has run on a tiny example. `bytes`
is what a worker sends for one micro-batch.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn

from benchmarks import cases
from benchmarks.fixed_order import fixed_order_product
from tallystick.errors import TallystickError
from tallystick.program.graph import Profile, decode_program, encode_program
from tallystick.program.interpreter import prepare
from tallystick.program.training import MEMORY_LIMIT

PLAIN: Final = "PyTorch float32"
OURS: Final = "ours"
WARM_UP: Final = 2
MEMORY_RUNS: Final = 3
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def timed(sides: dict[str, cases.Action], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every run of every side, interleaved."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(WARM_UP + repeats):
        for name, action in sides.items():
            start = time.perf_counter()
            action()
            took = (time.perf_counter() - start) * 1000
            if number >= WARM_UP:
                samples[name].append(took)
    return samples


def time_sides(case: str, profile: Profile, threads: int, repeats: int, program: Path) -> dict[str, list[float]]:
    if case == cases.PRODUCT:
        a, b = cases.operands()
        ours = cases.exact_product(profile)
        name, fixed = fixed_order_product(threads)
        return timed({OURS: lambda: ours(a, b), PLAIN: lambda: a @ b, name: lambda: fixed(a, b)}, repeats)
    workload = cases.WORKLOADS[case]
    step = cases.program_of(workload, profile)
    program.write_bytes(encode_program(step))
    return timed({OURS: cases.exact_step(workload, step), PLAIN: cases.plain_step(workload)}, repeats)


def peak_of(case: str, profile: Profile, side: str, program: Path) -> float:
    """Peak memory of one side in MiB, above what it takes to have the library loaded."""
    setup = _side(case, profile, side, program)
    _run_something_tiny(profile)
    before = _forget_peak()
    action = setup()
    for _ in range(MEMORY_RUNS):
        action()
    return (_peak() - before) / 1024


def _side(case: str, profile: Profile, side: str, program: Path) -> Callable[[], cases.Action]:
    if case == cases.PRODUCT:
        product = cases.exact_product(profile) if side == OURS else torch.matmul

        def setup() -> cases.Action:
            a, b = cases.operands()
            return lambda: product(a, b)

        return setup
    workload = cases.WORKLOADS[case]
    if side != OURS:
        return lambda: cases.plain_step(workload)
    step = decode_program(program.read_bytes())
    for graph in (step.gradient, step.update, step.predict):
        prepare(graph, MEMORY_LIMIT)  # allocates no tensors, but loads torch's shape inference
    return lambda: cases.exact_step(workload, step)


def _run_something_tiny(profile: Profile) -> None:
    """Loads what is loaded on first use: thread pools, kernels, autograd."""
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cases.loss(model(torch.randn(8, 8)), torch.zeros(8, dtype=torch.int64)).backward()
    optimizer.step()
    cases.exact_product(profile)(torch.randn(8, 8), torch.randn(8, 8))


def _forget_peak() -> int:
    """Resident size now (KiB), from which the peak counts anew where the system allows that."""
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        RESET.write_text("5")  # Linux: sets the peak back to the present size
    except OSError:
        return _status("VmHWM")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM") if STATUS.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def main() -> None:
    what, case, profile, path, threads, last, program = sys.argv[1:]
    torch.set_num_threads(int(threads))
    chosen = cast(Profile, profile)
    result: dict[str, Any]
    try:
        cases.require_path(path)
        if what == "time":
            result = {"samples": time_sides(case, chosen, int(threads), int(last), Path(program))}
        elif what == "bytes":
            step = decode_program(Path(program).read_bytes())
            result = dict(zip((OURS, PLAIN), cases.contribution_bytes(cases.WORKLOADS[case], step), strict=True))
        else:
            result = {"peak": peak_of(case, chosen, last, Path(program))}
    except TallystickError as error:
        result = {"reason": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

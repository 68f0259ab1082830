"""Law 1 on one machine: whatever instruction set, thread count, BLAS mode and treatment of subnormal numbers, one root.

Each profile is a process of its own, since libraries choose their code paths when they start. Beside the exact run,
each process trains the same model with plain float32 operators, whose weights must differ between profiles: otherwise
the profiles would not be different machines, and agreement would show nothing.
"""

import argparse
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn

from program_samples import start
from tallystick.exact import functions, kernels, products, reductions, sums
from tallystick.exact.native import accumulate as native_accumulate
from tallystick.exact.native import reduce as native_reduce
from tallystick.exact.random import philox
from tallystick.exact.sums import exact_sum
from tallystick.program import interpreter
from tallystick.program.optimizers import Tensors
from tallystick.program.training import record_indices, train_step
from tallystick.proof.roots import state_root

GOLDEN: Final = "3c2e4ae415f954fec0b84b22eaad07aeec24fda298ab7bab5d87fddcc9141e65"
"""The root after the last step, the same on every machine."""
STEPS, MICRO_BATCHES, SIZE, RECORDS = 60, 2, 32, 512
FEATURES, HIDDEN, CLASSES = 40, 64, 10


def made_up(stream: int, *shape: int) -> Tensor:
    """float32 values in -1..1 that are the same everywhere, unlike torch's own random numbers."""
    count = torch.Size(shape).numel()
    return (philox(1, stream, count)[:, 0].double() / 2**31 - 1).to(torch.float32).reshape(shape)


def model_and_records() -> tuple[nn.Module, Tensors]:
    model = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    with torch.no_grad():
        for stream, parameter in enumerate(model.parameters()):
            parameter.copy_(made_up(stream, *parameter.shape) / 8)
    x = made_up(100, RECORDS, FEATURES)
    return model, {"x": x, "y": x[:, :CLASSES].argmax(1)}


def exact_root() -> str:
    model, records = model_and_records()
    training, state = start(model, records, size=SIZE, micro_batches=MICRO_BATCHES, rate="0.3")
    for step in range(STEPS):
        state, _ = train_step(training, state, step)
    return state_root(state, STEPS)


def plain_name() -> str:
    """A hash over the weights that ordinary float32 training gives."""
    model, records = model_and_records()
    training, _ = start(model, records, size=SIZE, micro_batches=MICRO_BATCHES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for step in range(STEPS):
        chosen = torch.cat([record_indices(training, step, index) for index in range(MICRO_BATCHES)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(records["x"][chosen]), records["y"][chosen]).backward()
        optimizer.step()
    return sha256(b"".join(value.detach().numpy().tobytes() for value in model.parameters())).hexdigest()


@dataclass(frozen=True)
class Profile:
    """How a process is started; `capability` is ATen's name for an instruction set, None for the machine's best."""

    name: str
    threads: int = 1
    capability: str | None = None
    blas: str | None = None
    flush: bool = False
    native: bool = True
    """Whether the compiled kernels run, or those of torch under this profile."""

    def start(self) -> "subprocess.Popen[str]":
        tests = Path(__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
        if self.capability:
            environment["ATEN_CPU_CAPABILITY"] = self.capability
        if not self.native:
            environment["TALLYSTICK_NATIVE"] = "0"
        if self.blas:
            environment["MKL_CBWR"] = self.blas
        flags = ["--threads", str(self.threads), *(["--flush"] if self.flush else [])]
        return subprocess.Popen([sys.executable, __file__, *flags], env=environment, stdout=subprocess.PIPE, text=True)


CAPABILITIES: Final = {"AVX512": ("default", "avx2", "avx512"), "AVX2": ("default", "avx2")}


def profiles() -> list[Profile]:
    levels = CAPABILITIES.get(torch.backends.cpu.get_cpu_capability(), ("default",))
    return [
        Profile("one thread"),
        Profile("two threads", threads=2),
        Profile("compiled kernels, subnormal numbers flushed", threads=2, flush=True),
        Profile("portable BLAS, subnormal numbers flushed", blas="COMPATIBLE", flush=True, native=False),
        *(Profile(level, 1 + place % 2, level, native=False) for place, level in enumerate(levels)),
    ]


def outputs(jobs: list[Profile]) -> dict[str, dict[str, str]]:
    """What each profile's process printed; two run at a time."""
    printed: dict[str, dict[str, str]] = {}
    for place in range(0, len(jobs), 2):
        running = [(job, job.start()) for job in jobs[place : place + 2]]
        for job, process in running:
            text, _ = process.communicate(timeout=120)
            assert process.returncode == 0, job
            printed[job.name] = dict(line.split("=", 1) for line in text.split())
    return printed


def test_every_cpu_profile_gives_the_golden_root() -> None:
    jobs = profiles()
    printed = outputs(jobs)
    assert {name: out["root"] for name, out in printed.items()} == dict.fromkeys((job.name for job in jobs), GOLDEN)
    for job in jobs:
        out = printed[job.name]
        assert (out["threads"], out["flush"]) == (str(job.threads), str(job.flush))
        assert job.capability is None or out["capability"].lower() == job.capability
    levels = [printed[job.name]["plain"] for job in jobs if job.capability]
    assert len(set(levels)) == len(levels), "plain float32 training is the same on these profiles, so they show nothing"


def plain_sum(x: Tensor, dims: Any, keepdim: bool = False) -> Tensor:
    return x.sum(tuple(dims) or None, keepdim=keepdim) if x.is_floating_point() else exact_sum(x, dims, keepdim)


def one_bit_off(terms: tuple[float, ...], place: int) -> tuple[float, ...]:
    """`terms` with one bit of one coefficient flipped: the 29th from the end, a relative change below 2**-23."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", terms[place]))
    (changed,) = struct.unpack("<d", struct.pack("<Q", bits ^ 1 << 28))
    return (*terms[:place], changed, *terms[place + 1 :])


def plain_product(a: Tensor, b: Tensor, bits: int) -> Tensor:
    return torch.matmul(a, b)


def by_log2(x: Tensor) -> Tensor:
    """As good as `torch.log`, which on AVX-512 happens to be right wherever this training takes a logarithm."""
    return torch.log2(x) * math.log(2)


FAULTS: Final[dict[str, tuple[object, str, object]]] = {
    "torch.sum for the exact sum": (sums, "exact_sum", plain_sum),
    "torch.exp for exp": (functions, "exp", torch.exp),
    "torch.log2 for log": (functions, "log", by_log2),
    "torch.matmul for the exact product": (products, "matmul", plain_product),
    "one bit of a coefficient of exp": (functions, "EXP_TERMS", one_bit_off(functions.EXP_TERMS, 8)),
    "a sum with a bit less": (sums, "TERM_BITS", 29),
}


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faults are planted in the pure-PyTorch kernels, so those must run."""
    for module in (interpreter, native_reduce, native_accumulate):
        monkeypatch.setattr(module, "LIBRARY", None)


@pytest.mark.usefixtures("without_native")
def test_without_a_fault_the_same_process_gives_the_golden_root() -> None:
    assert exact_root() == GOLDEN


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("without_native")
def test_a_planted_fault_changes_the_root(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, replacement = FAULTS[fault]
    original = getattr(place, name)
    for module in (place, kernels, reductions):
        if getattr(module, name, None) is original:
            monkeypatch.setattr(module, name, replacement)
    for op, kernel in kernels.KERNELS.items():
        if kernel is original:
            monkeypatch.setitem(kernels.KERNELS, op, replacement)
    assert exact_root() != GOLDEN


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--threads", type=int, required=True)
    arguments.add_argument("--flush", action="store_true")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    flushes = chosen.flush and torch.set_flush_denormal(True)
    run: Callable[[], str] = exact_root
    print(f"threads={torch.get_num_threads()}")
    print(f"flush={flushes}")
    print(f"capability={torch.backends.cpu.get_cpu_capability()}")
    print(f"root={run()}")
    print(f"plain={plain_name()}")


if __name__ == "__main__":
    main()

"""One root per family over everything that may differ between two CPUs.

The short version trains each family for SHORT steps. The long one (`pytest --long -m long -s`, with `-n 2` for two at
a time) does LONG steps, family by family, in both profiles of exact-v1. A check of five steps is not enough: a
published audit missed a divergence that appeared at the fifteenth.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from families import FAMILIES

SHORT, LONG = 20, 1000

PROFILES: dict[str, dict[str, str]] = {
    "native, one thread": {},
    "native, two threads": {"THREADS": "2"},
    "native, products on AVX2, two threads": {"TALLYSTICK_NATIVE": "avx2", "THREADS": "2"},
    "native, products in float64": {"TALLYSTICK_NATIVE": "float64"},
    "fallback": {"TALLYSTICK_NATIVE": "0"},
    "fallback, two threads, AVX2": {"TALLYSTICK_NATIVE": "0", "THREADS": "2", "ATEN_CPU_CAPABILITY": "avx2"},
    "no SIMD": {"TALLYSTICK_NATIVE": "0", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "AVX-512": {"TALLYSTICK_NATIVE": "0", "ATEN_CPU_CAPABILITY": "avx512"},
    "MKL compatible": {"TALLYSTICK_NATIVE": "0", "MKL_CBWR": "COMPATIBLE"},
    "oneDNN capped": {"TALLYSTICK_NATIVE": "0", "ONEDNN_MAX_CPU_ISA": "SSE41", "THREADS": "2"},
    "subnormals flushed": {"FLUSH": "1"},
    "fallback, subnormals flushed": {"TALLYSTICK_NATIVE": "0", "FLUSH": "1"},
}

SCRIPT = """
import os, sys
import torch
torch.set_num_threads(int(os.environ.get("THREADS", "1")))
torch.set_flush_denormal("FLUSH" in os.environ)
from families import FAMILIES, start
from tallystick.program.training import train_step
from tallystick.proof.roots import state_root
steps = int(sys.argv[1])
for name in sys.argv[2].split(","):
    training, state, _ = start(name, sys.argv[3])
    for step in range(steps):
        state, _ = train_step(training, state, step)
    print(name, state_root(state, steps))
"""


if torch.backends.cpu.get_cpu_capability() != "AVX512":  # the process would die of an illegal instruction
    del PROFILES["AVX-512"]


def roots(profile: str, steps: int, arithmetic: str, families: Iterable[str]) -> list[str]:
    environment = os.environ | PROFILES[profile] | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(steps), ",".join(families), arithmetic]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{profile}: {run.stderr[-2000:]}"
    found = run.stdout.splitlines()
    print(f"{profile}, {steps} steps, {arithmetic}:", *found, sep="\n  ", flush=True)
    return found


def require_one_root(found: dict[str, list[str]]) -> None:
    if "AVX-512" not in PROFILES:
        print("not run: the profile AVX-512, which this processor does not have")
    reference = found["native, one thread"]
    for profile, lines in found.items():
        assert lines == reference, profile


def test_every_family_has_one_root_over_all_profiles() -> None:
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda profile: roots(profile, SHORT, "full", FAMILIES), PROFILES)
        require_one_root(dict(zip(PROFILES, found, strict=True)))


@pytest.mark.long
@pytest.mark.parametrize("arithmetic", ["full", "fast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_one_root_over_all_profiles_after_many_steps(family: str, arithmetic: str) -> None:
    require_one_root({profile: roots(profile, LONG, arithmetic, [family]) for profile in PROFILES})

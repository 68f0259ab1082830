"""A training process keeps the memory that a step frees, unless its user has set glibc's own variables."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from tallystick.program.heap import keep_freed_memory

keep_freed_memory()
def step():
    return sum(len(x) for x in [torch.ones(750_000) for _ in range(5)])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
before = faults()
for _ in range(20):
    step()
print((faults() - before) // 20)
"""
PAGES = 5 * 750_000 * 4 // 4096
"""Of what a step takes."""


def faults_of_a_step(**variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=60, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc: nothing is set")
def test_a_step_takes_no_new_pages_from_the_system() -> None:
    assert faults_of_a_step() < PAGES // 20
    assert faults_of_a_step(MALLOC_TRIM_THRESHOLD_="100000") > PAGES // 2

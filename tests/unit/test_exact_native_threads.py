"""The compiled kernels run on the threads of torch's own OpenMP runtime."""

import os
import subprocess
import sys
from ctypes import CFUNCTYPE, c_int, c_void_p

import pytest
import torch

from tallystick.exact import native

pytestmark = pytest.mark.skipif(native.LIBRARY is None, reason="no compiled kernels: there are no threads of theirs")
FORKED = """
import os, torch
from tallystick.exact.products import matmul

torch.set_num_threads(2)
a = torch.randn(128, 128, generator=torch.Generator().manual_seed(1))
before = matmul(a, a)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(matmul(a, a), before) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.equal(matmul(a, a), before))
"""


def test_parts_of_a_call_run_on_several_threads_at_once() -> None:
    assert native.LIBRARY is not None
    barrier_of_two, seen = torch.zeros(2, dtype=torch.bool), set()

    def meet(_context: None, part: int, parts: int) -> None:
        seen.add((part, parts))
        barrier_of_two[part] = True
        while not barrier_of_two.all():  # each waits for the other one
            pass

    native.LIBRARY.ts_parallel(2, CFUNCTYPE(None, c_void_p, c_int, c_int)(meet), None)
    assert seen == {(0, 2), (1, 2)}


def test_a_forked_child_which_has_no_threads_computes_the_same_bits() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", FORKED]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.split() == ["0", "True"], ended.stderr

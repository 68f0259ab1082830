"""What verification holds in memory does not grow with the length of the training."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from proof_samples import run_sample

STEPS, SEGMENT, HIDDEN = 250, 5, 1024
STATE_BYTES = 8 * (6 * HIDDEN + HIDDEN + 3 * HIDDEN)
"""Of parameters and momentum; kept for each of 200 segments, it would be 16 MiB."""
SLACK = 4 * 2**20
MEASURE = """
import resource, sys
from pathlib import Path
import torch
from tallystick.proof.directory import Places
from tallystick.proof.policy import FULL, Listed
from tallystick.proof.verify import How, verify
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
places = Places(Path(sys.argv[1]))
verify(places, How(Listed((0, 1))))
before = peak()
assert verify(places, How(FULL)).outcome == "verified"
print(peak() - before)
"""


def growth(path: Path) -> int:
    """How far the peak of a fresh process rises above that of two segments while it re-executes all, bytes."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_four_times_the_steps_take_the_same_memory(tmp_path: Path) -> None:
    grown = []
    for steps in (STEPS, 4 * STEPS):
        torch.manual_seed(2)
        x = torch.randn(40, 6)
        model = nn.Sequential(nn.Linear(6, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3))
        run = run_sample(model, {"x": x, "y": x[:, :3].argmax(1)}, None, steps=steps)
        run.write(tmp_path / str(steps), run.commitment(segment=SEGMENT))
        grown.append(growth(tmp_path / str(steps)))
    assert 4 * STEPS // SEGMENT * STATE_BYTES > 3 * SLACK
    assert max(grown) < SLACK, grown

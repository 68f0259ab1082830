"""Is an honest proof ever rejected where processors choose other instructions, threads and libraries?

Each profile is a process of its own, since libraries choose their code paths when they start.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.report import Row, progress

PROFILES: Final[dict[str, dict[str, str]]] = {
    "compiled, 1 thread": {},
    "compiled, 2 threads": {"THREADS": "2"},
    "compiled, subnormals flushed": {"FLUSH": "1"},
    "torch alone": {"TALLYSTICK_NATIVE": "0"},
    "torch alone, no SIMD": {"TALLYSTICK_NATIVE": "0", "ATEN_CPU_CAPABILITY": "default"},
    "torch alone, AVX2, 2 threads": {"TALLYSTICK_NATIVE": "0", "ATEN_CPU_CAPABILITY": "avx2", "THREADS": "2"},
    "torch alone, MKL for SSE4.2": {"TALLYSTICK_NATIVE": "0", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "torch alone, MKL compatible": {"TALLYSTICK_NATIVE": "0", "MKL_CBWR": "COMPATIBLE"},
    "torch alone, subnormals flushed": {"TALLYSTICK_NATIVE": "0", "FLUSH": "1"},
}
SCRIPT: Final = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(int(os.environ.get("THREADS", "1")))
torch.set_flush_denormal("FLUSH" in os.environ)
from tallystick.proof.directory import Places
from tallystick.proof.policy import FULL
from tallystick.proof.verify import How, verify
verdict = verify(Places(Path(sys.argv[1])), How(FULL))
print(json.dumps([len(verdict.checked), verdict.outcome, verdict.reason]))
"""


def honest_row(proof: Path, segments: int, profiles: Mapping[str, Mapping[str, str]] = PROFILES) -> Row:
    """Replays every segment of `proof` under every profile."""
    replays, rejected, notes = 0, 0, []
    for name, settings in profiles.items():
        progress(f"honest proof: {name}")
        command = [sys.executable, "-c", SCRIPT, str(proof)]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
        agreed, outcome, reason = json.loads(done.stdout)
        replays += segments
        rejected += segments - agreed
        if outcome != "verified":
            notes.append(f"{name}: {reason}")
    note = "; ".join(notes) or f"of {replays} replays over {len(profiles)} CPU profiles"
    return Row("honest segments rejected", "replays", rejected, None, "", None, 0.0, rejected == 0, note)

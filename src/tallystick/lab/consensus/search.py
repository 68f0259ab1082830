"""How long it takes until ordinary seeds find a planted mistake."""

import time
from dataclasses import dataclass
from typing import Any

from tallystick.lab.consensus.campaign import Seeds, run_seed
from tallystick.lab.consensus.planted import BUGS
from tallystick.lab.consensus.run import Verdict


@dataclass(frozen=True)
class Detection:
    bug: str
    seeds: int
    """How many were run, the one that found it included."""
    seconds: float
    verdict: Verdict | None

    @property
    def found(self) -> bool:
        return self.verdict is not None

    def line(self) -> str:
        if self.verdict is None:
            return f"{self.bug}: NOT FOUND in {self.seeds} seeds, {self.seconds:.1f} s"
        found = f"{self.bug}: found by seed {self.verdict.seed}, after {self.seeds} seeds, {self.seconds:.1f} s"
        return f"{found}: {self.verdict.failure}"

    def report(self) -> dict[str, Any]:
        return {
            "bug": self.bug,
            "found": self.found,
            "seeds": self.seeds,
            "seconds": round(self.seconds, 1),
            "seed": None if self.verdict is None else self.verdict.seed,
            "failure": "" if self.verdict is None else self.verdict.failure,
        }


def find(bug: str, seeds: Seeds) -> Detection:
    """Runs ordinary seeds, in order, until one fails with the bug planted."""
    started = time.process_time()
    with BUGS[bug]():
        for count, seed in enumerate(range(seeds.first, seeds.last + 1), 1):
            verdict = run_seed(seed)
            if not verdict.passed:
                return Detection(bug, count, time.process_time() - started, verdict)
    return Detection(bug, seeds.last - seeds.first + 1, time.process_time() - started, None)

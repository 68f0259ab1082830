"""An attack as data: how to make the forgery, and how the exact verifier is asked about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tallystick.proof.attacks.bench import Bench
from tallystick.proof.directory import Places
from tallystick.proof.policy import FULL, Policy
from tallystick.proof.verify import verify

Answer = Literal["accepted", "caught", "not asked"]


@dataclass(frozen=True)
class Finding:
    """What one verifier made of one attack."""

    answer: Answer
    why: str
    """The verdict's code, or the reason for not asking."""


@dataclass(frozen=True)
class Attack:
    """One executable variant of row `row` of the catalogue."""

    row: int
    name: str
    make: Callable[[Bench, Path], object]
    """Makes the forgery at a path that does not exist yet."""
    code: str
    """What the exact verifier says to it."""
    policy: Policy = FULL
    judge: Callable[[Bench, Path], Finding] | None = None
    """Asks in another way than by verifying a proof."""

    def ask(self, bench: Bench, path: Path) -> Finding:
        """The exact verifier's finding on the forgery at `path`."""
        if self.judge is not None:
            return self.judge(bench, path)
        verdict = verify(Places(path), bench.how(self.policy))
        return Finding("accepted" if verdict.outcome == "verified" else "caught", verdict.code)

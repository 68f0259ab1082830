"""What verification found, for people, programs and exit codes."""

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

Outcome = Literal["verified", "could_not_check", "mismatch"]
EXIT_CODES: Final[dict[Outcome, int]] = {"verified": 0, "could_not_check": 1, "mismatch": 2}


@dataclass(frozen=True)
class Difference:
    """A claim of a proof that is false: the first one found."""

    code: str
    reason: str
    step: int | None = None
    tensor: str | None = None
    expected: str | None = None
    """What the specification or the re-execution says."""
    found: str | None = None
    """What the proof says."""
    segment: int | None = None


class Chance(msgspec.Struct, frozen=True):
    """How likely these checks are to meet a bad segment, if so many of all segments are bad."""

    bad: int
    probability: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of checking one proof. Fields that the check did not reach are None."""

    outcome: Outcome
    code: str
    """Stable and lower_snake_case: what programs key on."""
    reason: str
    """One line for a person."""
    prover: str | None = None
    """Identity of the signer: who claims this, not whether to trust them."""
    proof: str | None = None
    """SHA-256 of the file `signature`."""
    spec: str | None = None
    """Name of the training specification. Compare it with the one you expect: any specification can be proved."""
    network: str | None = None
    task: str | None = None
    attempt: int | None = None
    segment: int | None = None
    """The first of the checked segments, counted from 0, in which proof and re-execution differ."""
    step: int | None = None
    """The first step, counted from 0, whose link differs."""
    tensor: str | None = None
    expected: str | None = None
    found: str | None = None
    steps: int = 0
    """Steps that were re-executed and agreed."""
    total_steps: int | None = None
    segments: int | None = None
    """How many the proof has."""
    checked: list[int] = []
    """Segments that were re-executed and agreed."""
    coverage: float = 0.0
    """Share of the steps that was re-executed and agreed."""
    policy: str | None = None
    nonce: str | None = None
    """What the sample was drawn from: the same gives the same sample of this proof."""
    detection: list[Chance] = []
    final_root: str | None = None
    """The state root after the last step, as signed."""
    model: str | None = None
    """The root of final parameters and buffers, as signed."""
    test_accuracy: float | None = None
    parents: list["Verdict"] = []
    """On the proofs that this one descends from, the nearest first."""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

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


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of checking one proof. Fields that the check did not reach are None."""

    outcome: Outcome
    code: str
    """Stable and lower_snake_case: what programs key on."""
    reason: str
    """One line for a person."""
    prover: str | None = None
    """Identity of the signer: who claims this, not whether to trust them."""
    spec: str | None = None
    """Name of the training specification. Compare it with the one you expect: any specification can be proved."""
    network: str | None = None
    task: str | None = None
    step: int | None = None
    """The first step, counted from 0, at which proof and re-execution differ."""
    tensor: str | None = None
    expected: str | None = None
    found: str | None = None
    steps: int = 0
    """Steps that were re-executed and agreed."""
    final_root: str | None = None
    """The state root after the last step, as signed."""
    test_accuracy: float | None = None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

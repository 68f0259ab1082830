"""What checking a record found. It can be consistent within the tolerance; it is never more than that."""

from typing import Final, Literal

import msgspec

from tallystick.proof.tolerant.attacks import ATTACKS, Attack
from tallystick.proof.tolerant.distances import Distances

Outcome = Literal["consistent_within_tolerance", "mismatch", "could_not_check"]
EXIT_CODES: Final[dict[Outcome, int]] = {"consistent_within_tolerance": 3, "could_not_check": 1, "mismatch": 2}
"""Never 0, which a script would take for `tallystick verify`'s verdict."""

Drawn = Literal["end", "top-q", "uniform"]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One segment that was run again."""

    segment: int
    steps: tuple[int, int]
    """The first step, counted from 0, and the one after the last."""
    drawn: list[Drawn]
    weights: Distances
    buffers: Distances
    slots: Distances
    movement: float
    """How far the replay moved the weights, l2."""
    loss_error: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of checking one record. Fields that the check did not reach keep their defaults."""

    outcome: Outcome
    code: str
    reason: str
    signed_by: str | None = None
    """Identity of the signer, None if the record is not signed."""
    record: str | None = None
    """SHA-256 of record.json."""
    steps: int = 0
    segments: int = 0
    """How many segments the record has."""
    nonce: str | None = None
    """Gives the same uniform samples again."""
    samples: int = 0
    """Uniform samples."""
    detection: dict[str, float] = {}
    """How likely the uniform samples find one of so many bad segments."""
    checked: list[Checked] = []
    attacks: tuple[Attack, ...] = ATTACKS

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

"""Who trained first, when two parties hold proofs of one model: rules over what can be checked.

What decides is when a proof's signed final statement was anchored in a ledger. It does not matter who anchored it: the
digest covers the prover's signature, so whoever copies an anchor from the air anchors it for the original. A commitment
anchored before training shows intent and is told, but does not decide, because committing costs nothing and one who
only committed could copy the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

Winner = Literal["first", "second"]


@dataclass(frozen=True)
class Place:
    """Where a digest stands in a ledger."""

    chain: str
    height: int
    time_ms: int
    number: int
    """How many anchors came before it."""


@dataclass(frozen=True)
class Claim:
    """One party's proof, as far as it was checked."""

    proof: str
    """SHA-256 of the sealed final statement, hex."""
    prover: str
    model: str
    """Root over the final parameters and buffers, hex: one bit of difference is another model."""
    parent: str | None
    """The proof that this training started from, if it was fine-tuning."""
    outcome: str
    """Of verification: `verified`, `mismatch` or `could_not_check`."""
    anchored: Place | None
    committed: Place | None
    """Where the commitment that was signed before step 0 stands."""


class Settlement(msgspec.Struct, frozen=True):
    """The answer, and how it was reached."""

    winner: Winner | None
    code: str
    """`first_anchored`, `only_verified`, `only_anchored`, `same_proof`, `derived`, `different_models`, `not_anchored`,
    `different_chains` or `none_verified`."""
    reasons: list[str]


def settle(first: Claim, second: Claim) -> Settlement:
    """Says whose claim to one model stands, without looking at anything but the two claims."""
    if first.proof == second.proof:
        return Settlement(None, "same_proof", [f"both are the proof {first.proof}, signed by {first.prover}"])
    for name, child, other in (("first", first, second), ("second", second, first)):
        if child.parent == other.proof:
            return Settlement(None, "derived", [f"the {name} was trained on from the other one's model, and says so"])
    if first.model != second.model:
        models = f"the models differ: {first.model} and {second.model}"
        return Settlement(None, "different_models", [models, "a proof claims only the very bits that it ends in"])
    sides: list[tuple[Winner, Claim]] = [("first", first), ("second", second)]
    reasons = [f"both end in the model {first.model}", *(_told(name, claim) for name, claim in sides)]
    verified = [side for side in sides if side[1].outcome == "verified"]
    if len(verified) < 2:
        return _alone(verified, reasons, "verified")
    anchored = [(name, claim.anchored) for name, claim in sides if claim.anchored is not None]
    if len(anchored) < 2:
        return _alone(anchored, reasons, "anchored")
    (_, ours), (_, theirs) = anchored
    if ours.chain != theirs.chain:
        return Settlement(None, "different_chains", [*reasons, "ledgers with different clocks do not order them"])
    winner = min(anchored, key=lambda side: side[1].number)[0]
    return Settlement(winner, "first_anchored", [*reasons, f"the {winner} was anchored before the other"])


def _alone(standing: Sequence[tuple[Winner, object]], reasons: list[str], what: str) -> Settlement:
    """At most one of the two has what both would need."""
    if standing:
        winner = standing[0][0]
        return Settlement(winner, f"only_{what}", [*reasons, f"only the {winner} is {what}"])
    code = "none_verified" if what == "verified" else "not_anchored"
    return Settlement(None, code, [*reasons, f"neither is {what}, so nothing says who was first"])


def _told(name: str, claim: Claim) -> str:
    parts = [f"the {name}: signed by {claim.prover}, {claim.outcome.replace('_', ' ')}"]
    for what, place in (("anchored", claim.anchored), ("commitment anchored", claim.committed)):
        parts.append(f"{what} in block {place.height} of {place.chain}" if place else f"{what} nowhere")
    return ", ".join(parts)

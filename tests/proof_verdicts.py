"""What tests of verification share: verdicts on proofs, and provers who are dishonest in one step."""

from pathlib import Path

from proof_samples import PROVER, Tamper, nudged
from tallystick.proof.directory import Places
from tallystick.proof.policy import FULL, Policy
from tallystick.proof.verdict import Verdict
from tallystick.proof.verify import How, verify


def verdict_of(path: Path, policy: Policy = FULL) -> Verdict:
    return verify(Places(path), How(policy))


def mismatch(path: Path, policy: Policy = FULL) -> Verdict:
    verdict = verdict_of(path, policy)
    assert (verdict.outcome, verdict.exit_code, verdict.prover) == ("mismatch", 2, PROVER.identity), verdict
    return verdict


def at(step: int, change: Tamper) -> Tamper:
    """A prover who is dishonest in one step."""
    return lambda now, state, total: change(now, state, total) if now == step else (state, total)


def nudge(name: str) -> Tamper:
    return lambda step, state, total: (nudged(state, name), total)

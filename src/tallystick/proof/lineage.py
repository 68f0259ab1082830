"""Chains of trust: the proof of a fine-tuned model is worth as much as the proofs that it starts from.

A proof that names a parent is checked together with its parent, and so on up to a proof that names none. A child's
initial parameters and buffers must be the parent's final ones, bit for bit, wherever both have one of that name;
what only the child has (a new head, say) starts where its own specification says.

What was verified once need not be verified again: a proof's name is a hash over everything in it, so a verdict about
it never changes. `Remembered` keeps such verdicts in a folder of the verifier's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tallystick.canon.hashing import is_name
from tallystick.errors import Refused
from tallystick.program.optimizers import Tensors
from tallystick.proof.commitment import Parent
from tallystick.proof.directory import Places, Proof, open_proof, read_state
from tallystick.proof.roots import MODEL_PARTS, tensor_digests
from tallystick.proof.verdict import Outcome, Verdict

MAX_GENERATIONS: Final = 100
MAX_VERDICT_BYTES: Final = 2**20
STRENGTH: Final = {"sample": 1, "full": 2}
"""A verdict of one policy stands in for one of another that is not stronger. A list of segments is the verifier's own
choice for once, and is not remembered."""
Check = Callable[[Places], Verdict]


@dataclass(frozen=True)
class Remembered:
    """Verdicts of earlier checks, in files named after proofs."""

    folder: Path

    def find(self, proof: str, policy: str) -> Verdict | None:
        """A `verified` of at least the strength of `policy`; None if there is none that can be read."""
        path = self.folder / f"{proof}.json"
        if not is_name(proof) or not path.is_file() or path.stat().st_size > MAX_VERDICT_BYTES:
            return None
        try:
            verdict = msgspec.json.decode(path.read_bytes(), type=Verdict)
        except msgspec.MsgspecError:
            return None
        strong = STRENGTH.get(verdict.policy or "", 0) >= STRENGTH.get(policy, len(STRENGTH) + 1)
        return verdict if verdict.proof == proof and verdict.outcome == "verified" and strong else None

    def keep(self, verdict: Verdict) -> None:
        """Remembers a `verified`, unless a stronger one is there."""
        if verdict.outcome != "verified" or verdict.proof is None or verdict.policy not in STRENGTH:
            return
        if self.find(verdict.proof, verdict.policy) is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / f"{verdict.proof}.json").write_bytes(verdict.to_json())


def verify_lineage(
    places: Places, parents: Sequence[Places], policy: str, check: Check, remembered: Remembered | None = None
) -> Verdict:
    """The verdict on a proof together with all that it descends from: `verified` only if all of them are.

    Args:
        parents: where proofs lie that the lineage may need.
        policy: what `check` does: `full`, `sample` or `listed`.
        check: verifies one proof by itself.
    """
    first, *others = _generations(places, parents, policy, check, remembered)
    if not others or others[-1].outcome == "verified":
        return msgspec.structs.replace(first, parents=others)
    failed = others[-1]
    reason = f"its ancestor {len(others)} back: {failed.reason}"
    return msgspec.structs.replace(first, outcome=failed.outcome, code=failed.code, reason=reason, parents=others)


def _generations(
    places: Places, parents: Sequence[Places], policy: str, check: Check, remembered: Remembered | None
) -> list[Verdict]:
    """Verdicts, the youngest first, up to the first that is not `verified`."""
    known: dict[str, Proof] = {}
    for place in parents:
        try:
            proof = open_proof(place)
        except Refused as refused:
            return [_refusal(Refused(refused.code, f"{place.proof}: {refused.reason}"))]
        known[proof.signature] = proof
    try:
        proof = open_proof(places)
    except Refused as refused:
        return [_refusal(refused)]
    verdicts: list[Verdict] = []
    while len(verdicts) < MAX_GENERATIONS:
        earlier = remembered.find(proof.signature, policy) if remembered and verdicts else None
        verdicts.append(earlier or check(proof.places))
        if verdicts[-1].outcome != "verified":
            return verdicts
        if remembered:
            remembered.keep(verdicts[-1])
        claimed = proof.commitment.parent
        if claimed is None:
            return verdicts
        parent = known.pop(claimed.signature, None)  # taken out, so that no lineage goes round in circles
        if parent is None:
            way = "name its directory with --parent, or leave out what it started from with --alone"
            missing = Refused("missing_parent", f"the training started from the proof {claimed.signature}; {way}")
            return [*verdicts, _refusal(missing)]
        try:
            require_descent(proof, parent)
        except Refused as refused:
            return [*verdicts, _refusal(refused)]
        proof = parent
    return [*verdicts, _refusal(Refused("too_many_parents", f"more than {MAX_GENERATIONS} generations"))]


def require_descent(child: Proof, parent: Proof) -> None:
    """Checks that `child` starts from the model that `parent` ends in.

    Raises:
        Refused: `wrong_parent`, or why a state cannot be read.
    """
    claimed = child.commitment.parent
    if claimed is None or (claimed.signature, claimed.root) != (parent.signature, parent.statement.root):
        raise Refused("wrong_parent", f"the commitment does not name the proof {parent.signature} as it is")
    before, after = (_model_digests(read_state(*at)) for at in ((child, 0), (parent, parent.commitment.steps)))
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise Refused("wrong_parent", f"no parameter has the name of one of the parent {parent.signature}")
    for name in shared:
        if before[name] != after[name]:
            digests = f"{before[name].hex()} here, {after[name].hex()} there"
            raise Refused("wrong_parent", f"{name} does not start where the parent ended: {digests}")


def parent_of(proof: Proof) -> Parent:
    """How a commitment names the proof that its training starts from."""
    return Parent(proof.signature, proof.statement.root)


def final_model(proof: Proof) -> Tensors:
    """The parameters and buffers that a proof ends in, by their names in the model.

    Raises:
        Refused: why the state cannot be read.
    """
    state = read_state(proof, proof.commitment.steps)
    return {full.partition("/")[2]: value for full, value in state.items() if full.startswith(MODEL_PARTS)}


def _model_digests(state: Tensors) -> dict[str, bytes]:
    return tensor_digests({name: value for name, value in state.items() if name.startswith(MODEL_PARTS)})


def _refusal(refused: Refused) -> Verdict:
    """What a refusal means: a child that does not start where it says is a false claim, all else is not checkable."""
    outcome: Outcome = "mismatch" if refused.code == "wrong_parent" else "could_not_check"
    return Verdict(outcome=outcome, code=refused.code, reason=refused.reason)

"""What validators say about contributions, and when it decides.

Let f be the number of faulty validators that consensus tolerates. When f + 1 give the same root, at least one of them
is honest and computed it, and the computation is deterministic: that root is the truth. A worker whose root differs
is slashed on it, and f liars alone can never do that to an honest one.
"""

from msgspec.structs import replace

from tallystick.canon.quorum import faults
from tallystick.errors import Refused
from tallystick.ledger.draft import Draft
from tallystick.ledger.faults import slash_validator, slash_worker, suspend, unaudited, unfinished
from tallystick.ledger.rounds import (
    accept,
    current_round,
    find_round,
    put_round,
    require_distinct,
    take_away,
    with_assignments,
)
from tallystick.ledger.state import Assignment, Round, Vote
from tallystick.ledger.transactions import UNAVAILABLE, Audit, Verdict


def require_validator(draft: Draft, sender: str) -> None:
    if not draft.state.is_validator(sender):
        raise Refused("not_validator", f"{sender[:12]}: only validators audit and attest")


def audit(draft: Draft, sender: str, body: Audit) -> None:
    """A verdict on something already decided, or taken away meanwhile, is late: it is taken and has no effect."""
    require_validator(draft, sender)
    task, round_ = find_round(draft, body.task, body.step)
    require_distinct(round_, [verdict.micro_batch for verdict in body.verdicts])
    for verdict in body.verdicts:
        require_timely(round_, sender, verdict)
    for verdict in body.verdicts:
        judge(draft, task.id, sender, verdict)


def require_timely(round_: Round, sender: str, verdict: Verdict) -> None:
    """Not before the draw, and once."""
    entry, place = round_.assignments[verdict.micro_batch], f"micro-batch {verdict.micro_batch}"
    if entry.worker == verdict.worker and entry.phase != "accepted" and not entry.drawn:
        raise Refused("not_drawn", f"{place}: is {entry.phase}, and the audit has not been drawn; wait for the draw")
    if awaits(entry, verdict) and any(vote.validator == sender for vote in entry.verdicts):
        raise Refused("already_judged", f"{place}: {sender[:12]} has given its verdict, which stands")


def awaits(entry: Assignment, verdict: Verdict) -> bool:
    """Whether the verdict can still decide something.

    Of a contribution that was accepted without audit, only UNAVAILABLE counts: nobody had to fetch it before, and
    without it the step cannot be summed. One that was audited can be computed again by those who audited it.
    """
    if entry.worker != verdict.worker:
        return False
    if entry.drawn:
        return entry.phase == "revealed"
    return entry.phase == "accepted" and verdict.root == UNAVAILABLE


def judge(draft: Draft, task: str, sender: str, verdict: Verdict) -> None:
    """Counts one verdict, and acts if it is the one that decides."""
    round_ = current_round(draft, task)
    entry = round_.assignments[verdict.micro_batch]
    if not awaits(entry, verdict):
        return
    entry = replace(entry, verdicts=(*entry.verdicts, Vote(sender, verdict.root)))
    put_round(draft, task, with_assignments(round_, {verdict.micro_batch: entry}))
    if is_decided(draft, entry, verdict.root):
        decide(draft, task, entry, verdict)


def is_decided(draft: Draft, entry: Assignment, root: str) -> bool:
    """Whether one who gave `root` is honest, if consensus still holds."""
    voices = sum(vote.root == root for vote in entry.verdicts)
    return voices > faults(len(draft.state.validators))


def decide(draft: Draft, task: str, entry: Assignment, verdict: Verdict) -> None:
    if verdict.root == UNAVAILABLE:
        decide_unavailable(draft, task, verdict)
    else:
        decide_truth(draft, task, entry, verdict)


def decide_unavailable(draft: Draft, task: str, verdict: Verdict) -> None:
    """What nobody can fetch was not revealed. Who saw it otherwise is not at fault: availability is not a fact that
    all see alike."""
    suspend(draft, task, verdict.worker, "unavailable", draft.task(task).policy.forfeit)
    others = unfinished(current_round(draft, task), {verdict.worker})
    take_away(draft, task, [verdict.micro_batch, *others])


def decide_truth(draft: Draft, task: str, entry: Assignment, verdict: Verdict) -> None:
    """`verdict.root` is what the contribution must be."""
    if entry.root == verdict.root:
        accept(draft, task, [verdict.micro_batch])
    else:
        finders = [vote.validator for vote in entry.verdicts if vote.root == verdict.root]
        slash_worker(draft, task, verdict.micro_batch, verdict.worker, "wrong_contribution", finders)
        take_away(draft, task, unaudited(current_round(draft, task), verdict.worker))
    for vote in entry.verdicts:
        if vote.root not in (verdict.root, UNAVAILABLE):
            slash_validator(draft, task, verdict.micro_batch, vote.validator, "false_audit")

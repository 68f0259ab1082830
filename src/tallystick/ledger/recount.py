"""What a change of the validators does to the votes of rounds in progress.

Every threshold follows the validators there are now. So the votes of one that has left no longer count, and one that
has changed its key keeps its vote and gets no second one. Where those who remain have said enough under the new
threshold, the round goes on at once: there may be nobody left whose vote could set it going.

A round cannot finish with the wrong result through this as long as at most f of the *remaining* validators are faulty;
whoever endorses a removal answers for that.
"""

from collections.abc import Callable

from msgspec.structs import replace

from tallystick.ledger.audits import awaits, decide, is_decided
from tallystick.ledger.draft import Draft
from tallystick.ledger.rounds import current_round, put_round
from tallystick.ledger.settlement import finish_if_agreed
from tallystick.ledger.state import Round, Vote
from tallystick.ledger.transactions import Verdict


def same(identity: str) -> str:
    return identity


def recount(draft: Draft, rename: Callable[[str], str] = same) -> None:
    """Done whenever `state.validators` has changed.

    Args:
        rename: the name of a validator now, by the one it had before.
    """
    present = {validator.identity for validator in draft.state.validators}
    for task in draft.state.open_tasks:
        if (round_ := draft.task(task).round) is None:
            continue
        put_round(draft, task, with_votes_of(round_, present, rename))
        for index in range(len(round_.assignments)):
            decide_audit(draft, task, index)
        finish_if_settled(draft, task)


def with_votes_of(round_: Round, present: set[str], rename: Callable[[str], str]) -> Round:
    assignments = tuple(
        replace(
            entry,
            verdicts=tuple(Vote(name, v.root) for v in entry.verdicts if (name := rename(v.validator)) in present),
        )
        if entry.verdicts
        else entry
        for entry in round_.assignments
    )
    attestations = tuple(
        replace(a, validator=name) for a in round_.attestations if (name := rename(a.validator)) in present
    )
    return replace(round_, assignments=assignments, attestations=attestations)


def decide_audit(draft: Draft, task: str, index: int) -> None:
    """Where two roots have enough voices now, the next verdict decides: this happens only when so few validators are
    left that none of them may be faulty, and one is."""
    entry = current_round(draft, task).assignments[index]
    roots = {vote.root for vote in entry.verdicts if is_decided(draft, entry, vote.root)}
    if len(roots) != 1 or entry.worker is None:
        return
    verdict = Verdict(index, entry.worker, roots.pop())
    if awaits(entry, verdict):
        decide(draft, task, entry, verdict)


def finish_if_settled(draft: Draft, task: str) -> None:
    round_ = current_round(draft, task)
    for attestation in round_.attestations:
        if draft.task(task).round is round_:
            finish_if_agreed(draft, task, round_, attestation)

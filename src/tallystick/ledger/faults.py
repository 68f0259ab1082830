"""What faults cost. Only what is proven, or said by enough validators to include an honest one, costs a stake.

The caller takes away what the fault undoes: `unfinished` or `unaudited`, by `rounds.take_away`.
"""

from collections.abc import Collection, Sequence

from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Slashed, Suspended
from tallystick.ledger.state import Round, Worker


def suspend(draft: Draft, task: str, worker: str, reason: str, forfeit: int) -> None:
    """Gives `worker` no more work until it enrolls again, and burns up to `forfeit` of its bond."""
    entry = draft.task(task).workers[worker]
    forfeited = min(entry.bond, forfeit)
    draft.seize(task, worker, forfeited)
    draft.share_out(forfeited, 0, ())
    if entry.standing == "active":
        draft.set_worker(task, worker, Worker("suspended", entry.bond - forfeited))
    draft.emit(Suspended(task, worker, reason, forfeited))


def slash_worker(
    draft: Draft, task: str, micro_batch: int, worker: str, reason: str, finders: Sequence[str] = ()
) -> None:
    """Takes all that `worker` answers with in this task, and bars it from the task for good."""
    entry = draft.task(task)
    amount = entry.workers[worker].bond
    draft.seize(task, worker, amount)
    draft.set_worker(task, worker, Worker("ejected", 0))
    burned = draft.share_out(amount, entry.policy.finder_permille, finders)
    draft.emit(Slashed(task, entry.step, micro_batch, worker, reason, amount, tuple(finders), burned))


def slash_validator(draft: Draft, task: str, micro_batch: int | None, validator: str, reason: str) -> None:
    """Burns as much of a validator's bond as a worker would lose in this task. It keeps its office."""
    entry = draft.task(task)
    amount = draft.seize_from_validator(validator, entry.policy.stake)
    draft.share_out(amount, 0, ())
    draft.emit(Slashed(task, entry.step, micro_batch, validator, reason, amount, (), amount))


def unfinished(round_: Round, workers: Collection[str]) -> list[int]:
    """What a suspended worker is relieved of: all that it has not revealed yet. What it revealed still counts."""
    return [i for i, a in enumerate(round_.assignments) if a.worker in workers and a.phase in ("assigned", "committed")]


def unaudited(round_: Round, worker: str) -> list[int]:
    """What an ejected worker is relieved of: all that was not audited, because nobody knows what else is wrong."""
    audited = [a.phase == "accepted" and a.drawn for a in round_.assignments]
    return [i for i, a in enumerate(round_.assignments) if a.worker == worker and not audited[i]]

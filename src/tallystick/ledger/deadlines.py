"""What the passing of agreed time does. A deadline has passed in the first block whose time is not before it."""

from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Missed
from tallystick.ledger.faults import suspend, unfinished
from tallystick.ledger.membership import forget_the_past
from tallystick.ledger.rounds import by_worker, current_round, take_away
from tallystick.ledger.state import Phase, State
from tallystick.ledger.tasks import expire


def next_deadline_ms(state: State) -> int | None:
    """When a block is due even if nobody sends a transaction; None if never."""
    open_tasks = [state.tasks[task] for task in state.open_tasks]
    dues = [task.round.due_ms for task in open_tasks if task.round is not None and task.round.due_ms is not None]
    return min(dues + [task.expires_ms for task in open_tasks], default=None)


def pass_deadlines(draft: Draft) -> None:
    """Done before a block's transactions, so that none of them finds an assignment that is overdue."""
    forget_the_past(draft)
    for task in draft.state.open_tasks:
        entry = draft.task(task)
        if entry.expires_ms <= draft.now_ms:
            expire(draft, task)
        elif entry.round is not None and entry.round.due_ms is not None and entry.round.due_ms <= draft.now_ms:
            miss_deadlines(draft, task)


def miss_deadlines(draft: Draft, task: str) -> None:
    """Suspends everyone who is late, and takes away their work.

    To be late with a commitment costs nothing but the place, because a machine may vanish. To be late with a reveal
    costs a forfeit, once, because a commitment could otherwise be made for free and opened only if it pays.
    """
    late_reveal = overdue(draft, task, "committed")
    late_commit = overdue(draft, task, "assigned")
    step, forfeit = draft.task(task).step, draft.task(task).policy.forfeit
    for worker, indices in late_reveal:
        draft.emit(Missed(task, step, worker, "reveal", indices))
        suspend(draft, task, worker, "missed_reveal", forfeit)
    suspended = {worker for worker, _ in late_reveal}
    for worker, indices in late_commit:
        draft.emit(Missed(task, step, worker, "commit", indices))
        if worker not in suspended:
            suspend(draft, task, worker, "missed_commit", 0)
            suspended.add(worker)
    take_away(draft, task, unfinished(current_round(draft, task), suspended))


def overdue(draft: Draft, task: str, phase: Phase) -> list[tuple[str, tuple[int, ...]]]:
    """Assignments in `phase` whose deadline has passed, by worker."""
    return by_worker(
        (index, entry.worker)
        for index, entry in enumerate(current_round(draft, task).assignments)
        if entry.phase == phase
        and entry.worker is not None
        and entry.deadline_ms is not None
        and entry.deadline_ms <= draft.now_ms
    )

"""The mechanics of a round: dealing work, taking it back, drawing the audit, accepting.

    unassigned -> assigned -> committed -> revealed -> accepted

The rules make the first move (`move_on`), the worker the next two (`contributions.py`), and `accept` is the last.
`take_away` returns an assignment to the start from anywhere, which is how every fault ends, so a fault costs time and
never correctness. A round is settled when all its assignments are accepted.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from tallystick.errors import Refused
from tallystick.ledger.assignment import AUDIT, DEAL, deal, key_of, sample
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Accepted, Assigned, AuditDrawn, RoundOpened
from tallystick.ledger.state import Assignment, Round, Task


def find_open_task(draft: Draft, task: str) -> Task:
    entry = draft.state.tasks.get(task)
    if entry is None:
        raise Refused("no_such_task", f"task {task[:12]}: not on this ledger, or any more; check the id")
    if entry.status != "open":
        raise Refused("task_closed", f"task {task[:12]}: {entry.status}")
    return entry


def find_round(draft: Draft, task: str, step: int) -> tuple[Task, Round]:
    """The round that a transaction speaks of, which must be the one in progress."""
    entry = find_open_task(draft, task)
    if entry.round is None or entry.round.step != step:
        now = "none is in progress" if entry.round is None else f"step {entry.round.step} is in progress"
        raise Refused("wrong_step", f"task {task[:12]}: step {step}, but {now}")
    return entry, entry.round


def require_distinct(round_: Round, micro_batches: Sequence[int]) -> None:
    """A transaction may speak of each micro-batch once, and only of those that exist."""
    if len(set(micro_batches)) != len(micro_batches):
        raise Refused("repeated_micro_batch", "entries: a micro-batch is listed twice; list each once")
    if max(micro_batches) >= len(round_.assignments):
        raise Refused(
            "no_such_micro_batch", f"entries: micro-batch {max(micro_batches)} of {len(round_.assignments)}, from 0"
        )


def current_round(draft: Draft, task: str) -> Round:
    """The round of a task that is known to have one."""
    round_ = draft.task(task).round
    assert round_ is not None, f"task {task[:12]} has no round"
    return round_


def put_round(draft: Draft, task: str, round_: Round | None) -> None:
    draft.put_task(replace(draft.task(task), round=round_))


def with_assignments(round_: Round, changes: Mapping[int, Assignment]) -> Round:
    entries = list(round_.assignments)
    for index, assignment in changes.items():
        entries[index] = assignment
    due_ms = min((entry.deadline_ms for entry in entries if entry.deadline_ms is not None), default=None)
    return replace(round_, assignments=tuple(entries), due_ms=due_ms)


def move_on(draft: Draft, task: str) -> None:
    """What the rules do by themselves once a block's transactions have been executed: open, deal, draw.

    All of it is keyed with the block's digest, so it comes last: no transaction of the block can react to it. And
    what several transactions set free is dealt together, to those who are still in good standing after all of them.
    """
    entry = draft.task(task)
    if entry.round is None and entry.active:
        blank = (Assignment(),) * entry.micro_batches
        put_round(draft, task, Round(entry.step, draft.beacon, draft.now_ms, blank))
        draft.emit(RoundOpened(task, entry.step, draft.beacon.hex()))
    if draft.task(task).round is not None:
        deal_unassigned(draft, task)
        draw_if_complete(draft, task)


def deal_unassigned(draft: Draft, task: str) -> None:
    """Deals what nobody has over the active workers, in proportion to their whole stakes. If there are none, the work
    waits for the next enrollment."""
    entry, round_ = draft.task(task), current_round(draft, task)
    waiting = [index for index, assignment in enumerate(round_.assignments) if assignment.phase == "unassigned"]
    weights = [(worker, draft.account(worker).stake) for worker in entry.active]
    if not waiting or not weights:
        return
    workers = deal(key_of(DEAL, draft.beacon, task, round_.step), weights, len(waiting))
    deadline_ms = draft.now_ms + entry.policy.commit_ms
    dealt = dict(zip(waiting, workers, strict=True))
    changes = {index: Assignment("assigned", worker, deadline_ms) for index, worker in dealt.items()}
    put_round(draft, task, with_assignments(round_, changes))
    for worker, indices in by_worker(dealt.items()):
        draft.emit(Assigned(task, round_.step, worker, indices, deadline_ms))


def by_worker(dealt: Iterable[tuple[int, str]]) -> list[tuple[str, tuple[int, ...]]]:
    """Micro-batches grouped by worker, both in ascending order."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, worker in dealt:
        groups[worker].append(index)
    return [(worker, tuple(sorted(groups[worker]))) for worker in sorted(groups)]


def take_away(draft: Draft, task: str, indices: Sequence[int]) -> None:
    """Returns assignments to the start, to be dealt again at the end of the block.

    Attestations already made spoke of a set of contributions that no longer stands, so they are void.
    """
    round_ = current_round(draft, task)
    blank = with_assignments(round_, {index: Assignment() for index in indices})
    put_round(draft, task, replace(blank, attestations=()))


def draw_if_complete(draft: Draft, task: str) -> None:
    """Draws the audit once nothing is left to reveal; what is not drawn is accepted.

    The beacon is that of the block with the last reveal, and every commitment is in that block or an earlier one:
    nobody could compute the draw while choosing what to commit to. Work redone because an audit caught its worker
    gets a draw of its own, in which at least one micro-batch is drawn.
    """
    entry, round_ = draft.task(task), current_round(draft, task)
    fresh = [i for i, a in enumerate(round_.assignments) if a.phase == "revealed" and not a.drawn]
    if not fresh or any(assignment.phase not in ("revealed", "accepted") for assignment in round_.assignments):
        return
    drawn = sample(key_of(AUDIT, draft.beacon, task, round_.step), fresh, entry.policy.audit_permille)
    changes = {index: replace(round_.assignments[index], drawn=True) for index in drawn}
    put_round(draft, task, with_assignments(round_, changes))
    draft.emit(AuditDrawn(task, round_.step, tuple(drawn)))
    if passed := sorted(set(fresh) - set(drawn)):
        accept(draft, task, passed)


def accept(draft: Draft, task: str, indices: Sequence[int]) -> None:
    """The only way into phase accepted.

    Acceptance is not yet final: until the step is attested, `take_away` undoes it (of a worker that is
    caught, all that was not audited; of any worker, what cannot be fetched). A challenge window after the round
    would keep the round's assignments and the workers' bonds for some agreed time after `settlement.finish_step`,
    pay at its end instead, and undo a step by restoring the task's root from `history` and opening its round again.
    """
    round_ = current_round(draft, task)
    changes = {i: replace(round_.assignments[i], phase="accepted", verdicts=()) for i in indices}
    put_round(draft, task, with_assignments(round_, changes))
    draft.emit(Accepted(task, round_.step, tuple(indices)))

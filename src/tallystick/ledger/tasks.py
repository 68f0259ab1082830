"""How a task begins and ends, and who works in it."""

from typing import Final

from msgspec.structs import replace

from tallystick.errors import Refused
from tallystick.ledger.accounts import require_balance
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Enrolled, Left, TaskDone, TaskExpired, TaskOpened
from tallystick.ledger.rewards import per_attestation, per_contribution
from tallystick.ledger.rounds import find_open_task
from tallystick.ledger.state import Status, Task, Worker
from tallystick.ledger.transactions import Enroll, Leave, OpenTask, Policy

MAX_STEPS: Final = 100_000
"""Of one task. Every finished step leaves a record in the state, which is hashed whole at every checkpoint."""
MAX_OPEN_TASKS: Final = 256
"""Every block looks at each open task's deadlines."""
MAX_OPEN_STEPS: Final = 500_000
"""Of all open tasks together, finished or not: room that is promised cannot be taken back from whoever works."""
MAX_OPEN_MICRO_BATCHES: Final = 2**15
"""The same for a round in progress, where every micro-batch may collect a verdict from each validator."""
MAX_WORKERS: Final = 4096
"""Per task, counting those ejected. There are no more micro-batches than that in a step either."""


def open_task(draft: Draft, sender: str, task: str, body: OpenTask) -> None:
    require_policy(body.policy)
    require_worth(draft, body)
    require_balance(draft, sender, body.reward)
    require_room(draft, body)
    draft.change(sender, balance=-body.reward)
    draft.put_task(
        Task(
            id=task,
            client=sender,
            spec=body.spec,
            initial_root=body.initial_root,
            root=body.initial_root,
            steps=body.steps,
            micro_batches=body.micro_batches,
            policy=body.policy,
            reward=body.reward,
            escrow=body.reward,
            opened_ms=draft.now_ms,
        )
    )
    draft.state = replace(draft.state, open_tasks=(*draft.state.open_tasks, task))
    draft.emit(TaskOpened(task, sender, body.steps, body.micro_batches, body.reward))


def require_policy(policy: Policy) -> None:
    """Terms under which nobody could be held to anything, or no round could end, are refused."""
    if policy.stake == 0:
        raise Refused("bad_policy", "policy.stake: 0, so that cheating costs nothing; ask for at least 1")
    if policy.forfeit > policy.stake:
        raise Refused("bad_policy", f"policy.forfeit: {policy.forfeit} is more than the stake of {policy.stake}")
    if policy.audit_permille == 0:
        raise Refused("bad_policy", "policy.audit_permille: 0, so that nothing is ever checked; use at least 1")
    if policy.expires_ms <= policy.commit_ms + policy.reveal_ms:
        raise Refused("bad_policy", "policy.expires_ms: over before one round can be; use more than commit and reveal")


def require_worth(draft: Draft, body: OpenTask) -> None:
    """Everyone who does their part gets at least one unit for it."""
    if body.steps > MAX_STEPS:
        raise Refused("too_many_steps", f"steps: {body.steps}, at most {MAX_STEPS}; split the task")
    share = body.policy.validator_permille
    if per_contribution(body.reward, share, body.steps, body.micro_batches) == 0:
        contributions = body.steps * body.micro_batches
        raise Refused(
            "reward_too_small", f"reward: {body.reward} is less than 1 for each of {contributions} contributions"
        )
    if share and per_attestation(body.reward, share, body.steps, len(draft.state.validators)) == 0:
        raise Refused(
            "reward_too_small", f"reward: {body.reward} is less than 1 for each attestation; see docs/ledger.md"
        )


def require_room(draft: Draft, body: OpenTask) -> None:
    """What all open tasks may come to take in the state has a bound, whatever becomes of them."""
    tasks = [draft.task(task) for task in draft.state.open_tasks]
    for what, there, more, most in (
        ("tasks", len(tasks), 1, MAX_OPEN_TASKS),
        ("steps", sum(task.steps for task in tasks), body.steps, MAX_OPEN_STEPS),
        ("micro-batches", sum(task.micro_batches for task in tasks), body.micro_batches, MAX_OPEN_MICRO_BATCHES),
    ):
        if there + more > most:
            raise Refused(
                "too_many_tasks",
                f"open_task: {there} {what} are open, and {more} more would be over {most}; wait until a task ends",
            )


def enroll(draft: Draft, sender: str, body: Enroll) -> None:
    """Locks what the policy asks for. A stake is locked once, so it never backs two tasks, or an office and a task."""
    task = find_open_task(draft, body.task)
    worker = task.workers.get(sender)
    if worker is not None and worker.standing == "active":
        raise Refused("already_enrolled", f"task {task.id[:12]}: {sender[:12]} is at work in it")
    if worker is not None and worker.standing == "ejected":
        raise Refused("ejected", f"task {task.id[:12]}: {sender[:12]} was caught in it and may not come back")
    if worker is None and len(task.workers) >= MAX_WORKERS:
        raise Refused("task_full", f"task {task.id[:12]}: has {MAX_WORKERS} workers")
    missing = task.policy.stake - (worker.bond if worker else 0)
    if draft.account(sender).free < missing:
        free = draft.account(sender).free
        raise Refused(
            "insufficient_stake", f"task {task.id[:12]}: needs {missing} more at stake, {free} are free; deposit"
        )
    draft.set_worker(task.id, sender, Worker("active", task.policy.stake))
    draft.emit(Enrolled(task.id, sender))


def leave(draft: Draft, sender: str, body: Leave) -> None:
    """At once for a worker with no part in the round; otherwise it finishes its part, and answers for it, first."""
    task = find_open_task(draft, body.task)
    worker = task.workers.get(sender)
    if worker is None or worker.standing in ("leaving", "ejected"):
        raise Refused("not_enrolled", f"task {task.id[:12]}: {sender[:12]} has nothing to leave")
    if task.round is not None and any(entry.worker == sender for entry in task.round.assignments):
        draft.set_worker(task.id, sender, replace(worker, standing="leaving"))
    else:
        release(draft, task.id, sender)


def release(draft: Draft, task: str, worker: str) -> None:
    draft.set_worker(task, worker, None)
    draft.emit(Left(task, worker))


def release_leaving(draft: Draft, task: str) -> None:
    """Between two rounds, lets go of those who asked to leave."""
    for identity, worker in sorted(draft.task(task).workers.items()):
        if worker.standing == "leaving":
            release(draft, task, identity)


def finish(draft: Draft, task: str) -> None:
    returned = close(draft, task, "done")
    draft.emit(TaskDone(task, draft.task(task).root, returned))


def expire(draft: Draft, task: str) -> None:
    """Work in progress is lost; finished steps were paid when they became final."""
    returned = close(draft, task, "expired")
    draft.emit(TaskExpired(task, draft.task(task).step, returned))


def close(draft: Draft, task: str, status: Status) -> int:
    """Frees all stakes, forgets round and workers, and returns the rest of the escrow, whose amount is the result."""
    for identity in sorted(draft.task(task).workers):
        draft.set_worker(task, identity, None)
    entry = draft.task(task)
    draft.pay_from_escrow(task, entry.client, entry.escrow)
    draft.put_task(replace(draft.task(task), round=None, status=status))
    draft.state = replace(
        draft.state,
        open_tasks=tuple(other for other in draft.state.open_tasks if other != task),
        ended_tasks=(*draft.state.ended_tasks, task),
    )
    return entry.escrow

"""How a task begins and ends, and who works in it."""

from typing import Final

from msgspec.structs import replace

from tallystick.errors import Refused
from tallystick.ledger.accounts import require_balance
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Enrolled, Left, TaskDone, TaskExpired, TaskOpened
from tallystick.ledger.rewards import per_attestation, per_contribution
from tallystick.ledger.rounds import find_open_task
from tallystick.ledger.state import Task, Worker
from tallystick.ledger.transactions import Enroll, Leave, OpenTask, Policy

MAX_STEPS: Final = 100_000
"""A finished step leaves about 200 bytes in the state for good, and the whole state is hashed at every checkpoint."""
MAX_OPEN_TASKS: Final = 256
"""Every block looks at each open task's deadlines."""
MAX_WORKERS: Final = 4096
"""Per task, counting those ejected. There are no more micro-batches than that in a step either."""


def open_task(draft: Draft, sender: str, task: str, body: OpenTask) -> None:
    require_policy(body.policy)
    require_worth(draft, body)
    require_balance(draft, sender, body.reward)
    if len(draft.state.open_tasks) >= MAX_OPEN_TASKS:
        raise Refused("too_many_tasks", f"open_task: {MAX_OPEN_TASKS} tasks are open; wait until one ends")
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
    returned = close(draft, task)
    entry = replace(draft.task(task), status="done")
    draft.put_task(entry)
    draft.emit(TaskDone(task, entry.root, returned))


def expire(draft: Draft, task: str) -> None:
    """Work in progress is lost; finished steps were paid when they became final."""
    returned = close(draft, task)
    entry = replace(draft.task(task), status="expired")
    draft.put_task(entry)
    draft.emit(TaskExpired(task, entry.step, returned))


def close(draft: Draft, task: str) -> int:
    """Frees all stakes, forgets round and workers, and returns the rest of the escrow, whose amount is the result."""
    for identity in sorted(draft.task(task).workers):
        draft.set_worker(task, identity, None)
    entry = draft.task(task)
    draft.pay_from_escrow(task, entry.client, entry.escrow)
    draft.put_task(replace(draft.task(task), round=None))
    draft.state = replace(draft.state, open_tasks=tuple(other for other in draft.state.open_tasks if other != task))
    return entry.escrow

"""Which tasks stay in the state once they are over, and how large a state can become."""

import msgspec
import pytest
from msgspec.structs import replace

from ledger_network import CLIENT, POLICY, RICH, Network, check_invariants, name
from tallystick.canon.chunks import CHUNK_BYTES, MAX_CHUNKS
from tallystick.ledger import accounts, anchors, forgetting, membership, rotation, tasks
from tallystick.ledger.events import Accepted, Slashed, TaskDone, TaskExpired
from tallystick.ledger.state import (
    MAX_STATE_BYTES,
    MAX_VALIDATORS,
    Account,
    Anchored,
    Assignment,
    Attestation,
    Proposal,
    Reply,
    Rotation,
    Round,
    StepRecord,
    Task,
    Validator,
    Vote,
    Worker,
    dump_state,
)
from tallystick.ledger.transactions import MAX_AMOUNT, AddValidator, Enroll, Policy

BRIEF = Policy(
    stake=1,
    forfeit=0,
    audit_permille=1,
    validator_permille=0,
    finder_permille=0,
    commit_ms=1,
    reveal_ms=1,
    expires_ms=3,
)


@pytest.fixture
def net() -> Network:
    return Network()


def finish(net: Network, steps: int = 1) -> str:
    """A whole task, done by ann, who leaves her stake where it is."""
    net.open_task(steps=steps, micro_batches=1)
    net.enroll("ann")
    for _ in range(steps):
        net.play_step("ann")
    assert net.the_task().status == "done"
    return net.task


def test_tasks_that_nobody_works_on_leave_nothing_behind(net: Network) -> None:
    net.wait(1)
    before = len(dump_state(net.state))
    for _ in range(4):
        net.block(*(net.sign(CLIENT, net.offer(1, 1, 1, BRIEF)) for _ in range(tasks.MAX_OPEN_TASKS)), ms=5)
        assert len(net.state.open_tasks) == tasks.MAX_OPEN_TASKS
    net.wait(5)
    assert len(net.seen(TaskExpired)) == 4 * tasks.MAX_OPEN_TASKS
    assert sum(event.returned for event in net.seen(TaskExpired)) == 4 * tasks.MAX_OPEN_TASKS
    assert not net.state.tasks and net.account(CLIENT).balance == RICH
    assert len(dump_state(net.state)) < before + 200, "all that is new is the client's last reply"
    check_invariants(net.state)


def test_work_on_a_step_that_was_never_finished_is_forgotten_with_its_task(net: Network) -> None:
    """It was not paid, and there is nothing to fetch; what it cost its workers was told, and is in their accounts."""
    net.open_task()
    net.enroll("ann")
    net.contribute("ann")
    net.audit("v0", "v1")
    net.open_task()
    net.enroll("eve")
    net.commit("eve")
    net.reveal("eve", {0: name("another")})
    assert net.seen(Accepted)
    assert net.seen(Slashed)
    net.wait(POLICY.expires_ms)
    assert not net.state.tasks and not net.state.ended_tasks
    assert (net.account("ann").locked, net.account("ann").stake) == (0, 100)
    assert net.account("eve").stake == 0 and net.state.burned == 100
    check_invariants(net.state)


def test_a_task_with_a_finished_step_stays_when_it_expires(net: Network) -> None:
    net.open_task(steps=2)
    net.enroll("ann")
    net.play_step("ann")
    net.wait(POLICY.expires_ms)
    assert (net.the_task().status, len(net.the_task().history)) == ("expired", 1)
    assert net.state.ended_tasks == (net.task,)
    check_invariants(net.state)


def test_whichever_ended_first_is_forgotten_first(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that was opened first."""
    monkeypatch.setattr(forgetting, "KEPT_TASKS", 2)
    net.open_task(micro_batches=1)
    slow = net.task
    first, second = finish(net), finish(net)
    assert net.state.ended_tasks == (first, second)
    net.task = slow
    net.enroll("bob")
    net.play_step("bob")
    assert net.state.ended_tasks == (second, slow) and set(net.state.tasks) == {second, slow}
    assert [event.task for event in net.seen(TaskDone)] == [first, second, slow]
    assert net.send("bob", Enroll(first)).code == "no_such_task"
    check_invariants(net.state)


def test_those_with_many_steps_push_out_more(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "KEPT_STEPS", 4)
    several = [finish(net, steps=1), finish(net, steps=3)]
    assert list(net.state.ended_tasks) == several
    last = finish(net, steps=2)
    assert list(net.state.ended_tasks) == [last], "without the first alone there are still five"
    check_invariants(net.state)


def test_the_rest_of_the_block_still_finds_a_task_that_ended_in_it(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "KEPT_TASKS", 0)
    net.open_task()
    net.enroll("ann")
    net.contribute("ann")
    net.audit("v0", "v1")
    last = [net.sign(who, net.attest_body()) for who in ("v0", "v1", "v2", "v3")]
    assert [result.code for result in net.block(*last).results] == ["ok", "ok", "ok", "task_closed"]
    assert not net.state.tasks and len(net.seen(TaskDone)) == 1
    check_invariants(net.state)


def test_the_last_to_end_stays_however_long_it_was() -> None:
    assert forgetting.KEPT_STEPS >= tasks.MAX_STEPS
    assert tasks.MAX_OPEN_STEPS >= tasks.MAX_STEPS


# ---- the largest state there can be

NAME = "f" * 64
HUGE = MAX_AMOUNT
COUNT = 2**32 - 1
"""Heights and times are smaller for longer than anybody runs a ledger; amounts may be as large as they like."""


def size(value: object) -> int:
    return len(msgspec.msgpack.encode(value))


def in_state(task: Task) -> int:
    """The hook that writes mappings is the state's; a task has one, its workers, which is empty here. Its key and its
    place in one of the two lists come on top."""
    return len(msgspec.msgpack.encode(task, enc_hook=lambda _: [])) + size((NAME, NAME))


LISTS = 16
"""What writing the lengths of a task's lists takes when they are not empty."""


def largest() -> dict[str, int]:
    """Bytes of each kind of record, if there are as many as the rules let be and each is as long as it can be."""
    newcomer = AddValidator(NAME, "a" * 256, "u" * 1024, "c" * 16 * 1024, HUGE)
    all_names = (NAME,) * MAX_VALIDATORS
    verdicts = tuple(Vote(NAME, NAME) for _ in range(MAX_VALIDATORS))
    contribution = Assignment("unassigned", NAME, 2**42, NAME, NAME, NAME, drawn=False, verdicts=verdicts)
    attestation = Attestation(NAME, NAME, NAME, -HUGE)
    terms = Policy(HUGE, HUGE, 1000, 1000, 1000, 2**40, 2**40, 2**40)
    over = Task(NAME, NAME, NAME, NAME, NAME, 10**5, 4096, terms, HUGE, HUGE, 2**42, "expired", 10**5)
    round_ = Round(10**5, b"b" * 32, 2**42, (), 2**42, (attestation,) * MAX_VALIDATORS)
    reply = Reply(2**63 - 1, NAME, "c" * 24, COUNT)
    return {
        "accounts": accounts.MAX_ACCOUNTS * size((NAME, Account(HUGE, HUGE, HUGE, reply))),
        "anchors": anchors.MAX_ANCHORS * size((NAME, Anchored(NAME, COUNT, 2**42, COUNT))),
        "open tasks": tasks.MAX_OPEN_TASKS * (in_state(replace(over, round=round_)) + LISTS),
        "ended tasks": forgetting.KEPT_TASKS * (in_state(over) + LISTS),
        "steps": (tasks.MAX_OPEN_STEPS + forgetting.KEPT_STEPS) * size(StepRecord(NAME, NAME, -HUGE)),
        "contributions": tasks.MAX_OPEN_MICRO_BATCHES * size(contribution),
        "workers": tasks.MAX_OPEN_TASKS * tasks.MAX_WORKERS * size((NAME, Worker("suspended", HUGE))),
        "validators": MAX_VALIDATORS * size(Validator(NAME, HUGE, "a" * 256, "u" * 1024, "c" * 16 * 1024)),
        "proposals": MAX_VALIDATORS * membership.MAX_ENDORSED * size(Proposal(newcomer, all_names, 2**42)),
        "rotations": MAX_VALIDATORS * rotation.MAX_ROTATIONS * size(Rotation(NAME, NAME, 2**42)),
    }


def test_the_largest_state_is_well_below_the_largest_snapshot() -> None:
    assert MAX_STATE_BYTES == MAX_CHUNKS * CHUNK_BYTES
    assert sum(largest().values()) < MAX_STATE_BYTES * 3 // 4, largest()

"""The client: offers a task, and turns a finished one into a proof that anybody can verify without the network."""

from collections.abc import Callable
from pathlib import Path

from tallystick.canon.identity import Key
from tallystick.errors import Refused
from tallystick.network.blobs import BlobStore
from tallystick.network.dial import Sender, Validators
from tallystick.network.following import Follower, Terms, fetch_contribution, fetch_records
from tallystick.network.task_file import PreparedTask, prepare_task
from tallystick.network.views import TaskView
from tallystick.program.graph import MAX_PROGRAM_BYTES
from tallystick.proof.commitment import commitment_of
from tallystick.proof.recorder import Recorder, Run

Progress = Callable[[int, int], None]


def offer_task(
    task_file: Path, key: Key, validators: Validators, blobs: BlobStore, told: Callable[[str], None] = lambda line: None
) -> tuple[str, PreparedTask]:
    """Traces and stores a task, opens it on the ledger and returns its id. `told` hears of it when that takes long.

    Raises:
        TaskFileError, TraceError, Refused, UnreachableError
    """
    prepared = prepare_task(task_file, blobs)
    return Sender(key, validators, told).send(prepared.offer).hash, prepared


def wait_for_task(task: str, validators: Validators, on_step: Callable[[TaskView], None]) -> TaskView:
    """Waits until a task is done or expired; `on_step` is called whenever a step was finished.

    Raises:
        Refused: `not_done`: it is over, and the ledger has forgotten it.
        UnreachableError
    """
    seen, after = -1, 0
    while True:
        view = _task(task, validators)
        if view.step != seen:
            seen = view.step
            on_step(view)
        if view.status != "open":
            return view
        after = max([event.sequence for event in validators.events(after)], default=after)


def _task(task: str, validators: Validators) -> TaskView:
    """A validator that has executed the transaction by which a task is named, and then has no such task, had one: the
    ledger forgets those that expire without a finished step, and in time all others (`ledger/forgetting.py`)."""
    try:
        return validators.task(task)
    except Refused as refused:
        if refused.code != "no_such_task" or validators.transaction(task).code != "ok":
            raise
    try:
        return validators.task(task)  # which it may have opened between the two questions
    except Refused as refused:
        if refused.code != "no_such_task":
            raise
    over = "it expired before a step was finished, and its escrow was returned; or it ended long ago"
    raise Refused("not_done", f"task {task[:12]}: is over and no longer on the ledger: {over}")


def collect_proof(
    task: TaskView, key: Key, validators: Validators, blobs: BlobStore, out: Path, on_step: Progress
) -> None:
    """Follows a finished task from its initial state, checking every root, and writes the proof directory `out`.

    The commitment is signed now and not before step 0: here it is the ledger that shows when the task was fixed.

    Raises:
        Refused: the ledger's history does not lead where it says, or the task is not done.
        BlobMissingError, UnreachableError
    """
    if task.status != "done":
        raise Refused("not_done", f"task {task.id[:12]}: it is {task.status}, at step {task.step} of {task.steps}")
    follower = Follower(blobs, Terms(task.spec, task.initial_root, task.steps, task.micro_batches))
    training = follower.training
    test = fetch_records(blobs, training.spec.test, "test data") if training.spec.test else None
    run = Run(training, blobs.get(training.spec.program, MAX_PROGRAM_BYTES), follower.state, test)
    commitment = commitment_of(
        training.spec, task.spec, training.program, network=validators.status().chain, task=task.id
    )
    with Recorder(out, key, run, commitment) as recorder:
        _follow(recorder, follower, validators, task, blobs, on_step)
        recorder.finish()


def _follow(
    recorder: Recorder, follower: Follower, validators: Validators, task: TaskView, blobs: BlobStore, on_step: Progress
) -> None:
    for step in validators.history(task.id, 0):
        total = fetch_contribution(blobs, follower.training, step.total)
        follower.accept(total, step.root)
        if step.step == recorder.step:
            recorder.add(follower.state, total)
        on_step(step.step + 1, task.steps)

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
from tallystick.proof.directory import write_proof
from tallystick.proof.recording import entry_for

Progress = Callable[[int, int], None]


def offer_task(task_file: Path, key: Key, validators: Validators, blobs: BlobStore) -> tuple[str, PreparedTask]:
    """Traces and stores a task, opens it on the ledger and returns its id.

    Raises:
        TaskFileError, TraceError, Refused, UnreachableError
    """
    prepared = prepare_task(task_file, blobs)
    return Sender(key, validators).send(prepared.offer).hash, prepared


def wait_for_task(task: str, validators: Validators, on_step: Callable[[TaskView], None]) -> TaskView:
    """Waits until a task is done or expired; `on_step` is called whenever a step was finished."""
    seen, after = -1, 0
    while True:
        view = validators.task(task)
        if view.step != seen:
            seen = view.step
            on_step(view)
        if view.status != "open":
            return view
        after = max([event.sequence for event in validators.events(after)], default=after)


def collect_proof(
    task: TaskView, key: Key, validators: Validators, blobs: BlobStore, out: Path, on_step: Progress
) -> None:
    """Follows a finished task from its initial state, checking every root, and writes the proof directory `out`.

    Raises:
        Refused: the ledger's history does not lead where it says, or the task is not done.
        BlobMissingError, UnreachableError
    """
    if task.status != "done":
        raise Refused("not_done", f"task {task.id[:12]}: it is {task.status}, at step {task.step} of {task.steps}")
    follower = Follower(blobs, Terms(task.spec, task.initial_root, task.steps, task.micro_batches))
    initial, training, entries = follower.state, follower.training, []
    for step in validators.history(task.id, 0):
        total = fetch_contribution(blobs, training, step.total)
        follower.accept(total, step.root)
        entries.append(entry_for(step.step, follower.state, total))
        on_step(step.step + 1, task.steps)
    test = fetch_records(blobs, training.spec.test, "test data") if training.spec.test else None
    write_proof(
        out,
        key=key,
        spec=training.spec,
        program=blobs.get(training.spec.program, MAX_PROGRAM_BYTES),
        initial=initial,
        final=follower.state,
        train=training.records,
        test=test,
        entries=entries,
        network=validators.status().chain,
        task=task.id,
    )

"""Recording: the single-machine run, and the transcript entry of a step wherever it was computed."""

from collections.abc import Callable

from tallystick.program.optimizers import Tensors
from tallystick.program.training import LOSS, Training, mean_loss, train_step
from tallystick.proof.roots import STATE, contribution_root, root_from_digests, tensor_digests
from tallystick.proof.transcript import Entry

OnStep = Callable[[int, int, float], None]
"""Called after each step with the number of steps done, the number there are, and the mean loss of this one."""


def record(training: Training, initial: Tensors, on_step: OnStep | None = None) -> tuple[Tensors, tuple[Entry, ...]]:
    """Trains on this machine: the final state, and one entry per step.

    Raises:
        NonFiniteError: training has diverged; the message names the operator.
    """
    state, entries = initial, []
    for step in range(training.spec.steps):
        state, total = train_step(training, state, step)
        entries.append(entry_for(step, state, total))
        if on_step is not None:
            on_step(step + 1, training.spec.steps, mean_loss(entries[-1].loss, training.spec.micro_batches))
    return state, tuple(entries)


def entry_for(step: int, state_after: Tensors, total: Tensors) -> Entry:
    """The entry of `step`, from the state after it and the sum of its contributions."""
    digests = tensor_digests(state_after)
    return Entry(
        step=step,
        root=root_from_digests(STATE, (step + 1).to_bytes(8, "big"), digests),
        tensors=[value.hex() for value in digests.values()],
        total=contribution_root(total),
        loss=int(total[LOSS]),
    )

"""Running segments of a record again, with the verifier's own code, data and settings."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import torch

from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused, TallystickError
from tallystick.proof.tolerant.distances import Distances, distances
from tallystick.proof.tolerant.files import Read
from tallystick.proof.tolerant.record import Record, Segment, checkpoint_name
from tallystick.proof.tolerant.run import Run, Setup, advance, as_float
from tallystick.proof.tolerant.seeding import seed_step
from tallystick.proof.tolerant.state import (
    Checkpoint,
    capture,
    checkpoint_limit,
    counters,
    decode_checkpoint,
    groups_of_tensors,
    restore,
    settings,
)

T = TypeVar("T")
GROUPS: Final = ("weights", "buffers", "slots")


class Different(Exception):
    """A claim of a record that is false. Not an error: the caller makes a verdict of it."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Replayed:
    """What one segment gave when it was run again."""

    segment: Segment
    error: dict[str, Distances]
    """Between the recorded state after the segment and the replayed one, for weights, buffers and slots."""
    movement: Distances
    """Between the weights before the segment and the replayed ones after it: what the work in it is worth."""
    loss_error: float
    """Largest difference between a recorded and a replayed loss; 0 if none was recorded."""


def fresh_run(setup: Setup, seed: int) -> Run:
    """A run from the verifier's training file, seeded as the recorder seeds before step 0.

    Raises:
        Refused: `not_executable`.
    """
    run = _executed("setup", lambda: setup(seed))
    if not isinstance(run, Run):
        raise Refused("not_executable", f"setup: returned a {type(run).__name__}; it must return a tolerant.Run")
    return run


def trainable(run: Run) -> set[str]:
    return {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}


def load_checkpoint(read: Read, run: Run, step: int, name: str, *, finite: bool = True) -> Checkpoint:
    """The checkpoint at `step`, whose bytes are those that the transcript names.

    Raises:
        Refused: `missing`, `too_large`, `wrong_digest`, `malformed`, `not_finite` and others.
    """
    file = checkpoint_name(step)
    data = read(file, checkpoint_limit(run.model))
    if blob_name(data) != name:
        raise Refused("wrong_digest", f"{file}: its SHA-256 is {blob_name(data)}, {name} was recorded")
    checkpoint = decode_checkpoint(data, file)
    if checkpoint.details.step != step:
        raise Refused("malformed", f"{file}: says that it is of step {checkpoint.details.step}")
    for tensor, value in checkpoint.tensors.items():
        if finite and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Refused("not_finite", f"{file}: {tensor[:200]}: holds an infinity or a NaN, which nothing is near to")
    return checkpoint


def replay(setup: Setup, record: Record, read: Read, segment: Segment) -> Replayed:
    """Trains again from the checkpoint before `segment` and compares with the one after it.

    The learning rate and all other settings are those of the verifier's own optimizer and schedule at that step.

    Raises:
        Refused: the segment cannot be run.
        Different: the recorded settings or counters are not those of the replay.
    """
    run = fresh_run(setup, record.manifest.seed)
    before = load_checkpoint(read, run, segment.start, segment.before)
    after = load_checkpoint(read, run, segment.end, segment.after)
    _executed("schedule", lambda: advance(run, segment.start))
    _same_settings(before, run, segment.start)
    _executed("checkpoint", lambda: restore(run, before))
    run.model.train()
    loss_error = 0.0
    for entry in record.entries[segment.start : segment.end]:
        loss = _step(run, record.manifest.seed, entry.step, entry.indices)
        if loss is not None and entry.loss is not None:
            loss_error = max(loss_error, _loss_error(loss, entry.loss))
        if run.scheduler is not None and (entry.step + 1) % run.scheduler_every == 0:
            run.scheduler.step()
    reached = capture(run.model, run.optimizer, segment.end)
    _same_settings(after, run, segment.end)
    _same_counters(after, reached, segment)
    names = trainable(run)
    recorded, replayed, begun = (groups_of_tensors(c, names) for c in (after, reached, before))
    for group in GROUPS:
        if recorded[group].keys() != replayed[group].keys():
            odd = sorted(recorded[group].keys() ^ replayed[group].keys())[0]
            raise Different(
                "wrong_tensors", f"step {segment.end}: {odd} is in the record or in the replay, not in both"
            )
    error = {group: distances(recorded[group], replayed[group]) for group in GROUPS}
    return Replayed(segment, error, distances(begun["weights"], replayed["weights"]), loss_error)


def _step(run: Run, seed: int, step: int, indices: list[int]) -> float | None:
    seed_step(seed, step)
    loss = _executed(f"step {step}", lambda: run.step(indices))
    return None if loss is None else as_float(loss)


def _loss_error(replayed: float, recorded: str) -> float:
    try:
        difference = abs(replayed - float.fromhex(recorded))
    except (ValueError, OverflowError):
        return math.inf
    return math.inf if math.isnan(difference) else difference


def _same_settings(checkpoint: Checkpoint, run: Run, step: int) -> None:
    own = settings(run.optimizer)
    found = checkpoint.details.groups
    if len(own) != len(found):
        raise Different("wrong_settings", f"step {step}: {len(found)} parameter groups, your optimizer has {len(own)}")
    for number, (mine, theirs) in enumerate(zip(own, found, strict=True)):
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                raise Different(
                    "wrong_settings",
                    f"step {step}: group {number}: {key[:80]} is {str(theirs.get(key))[:80]} in the record, "
                    f"{str(mine.get(key))[:80]} in your training file",
                )


def _same_counters(recorded: Checkpoint, replayed: Checkpoint, segment: Segment) -> None:
    found, expected = counters(recorded), counters(replayed)
    for name in sorted(found.keys() | expected.keys()):
        if name not in found or name not in expected or not torch.equal(found[name], expected[name]):
            raise Different("wrong_counter", f"step {segment.end}: {name[:200]} is not what the replay counts")


def _executed(what: str, compute: Callable[[], T]) -> T:
    """Runs the verifier's code on recorded values. What it raises says that it does not fit, not that they are false.

    Raises:
        Refused: `not_executable`.
    """
    try:
        return compute()
    except TallystickError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0]
        raise Refused("not_executable", f"{what}: cannot be run: {detail}") from error

"""Re-execution of one segment: from the state before it, step by step, to what its line claims.

The links of all its steps are compared, and at its end every tensor. So a difference is located twice: the step is the
first whose link differs, and the tensor the first that differs at the end of the segment.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tallystick.errors import NonFiniteError, Refused, TallystickError
from tallystick.program.training import LOSS, Training, mean_loss, train_step
from tallystick.proof.directory import Proof, links, opened_transcript, read_state
from tallystick.proof.recording import Scribe
from tallystick.proof.roots import tensor_digests
from tallystick.proof.segments import Segment
from tallystick.proof.verdict import Difference

T = TypeVar("T")
OnLoss = Callable[[float], None]
"""Called after each re-executed step with its mean loss."""


@dataclass(frozen=True)
class Job:
    """A segment to re-execute, with the claims at its two ends."""

    index: int
    before: Segment | None
    """The segment before it, if there is one."""
    claimed: Segment


@dataclass(frozen=True)
class Result:
    """How many steps agreed, and the first difference after them."""

    index: int
    steps: int
    difference: Difference | None = None
    refused: tuple[str, str] | None = None
    """Code and reason, if the segment could not be checked."""


def replay(proof: Proof, training: Training, job: Job, on_loss: OnLoss | None = None) -> Result:
    """Re-executes a segment. Whatever the proof holds, the answer is a result, not an exception."""
    try:
        return _replay(proof, training, job, on_loss or (lambda loss: None))
    except Refused as refused:
        return Result(job.index, 0, None, (refused.code, refused.reason))


def _replay(proof: Proof, training: Training, job: Job, on_loss: OnLoss) -> Result:
    first, last = proof.commitment.bounds(job.index)
    state = read_state(proof, first, job.before.state if job.before else None)
    if job.before is not None:
        for (name, value), claimed in zip(tensor_digests(state).items(), job.before.tensors, strict=True):
            if value.hex() != claimed:
                reason = f"segment {job.index}: {name} of the state that it starts from is not what segments.jsonl says"
                code = "wrong_checkpoint"
                return Result(job.index, 0, Difference(code, reason, first, name, claimed, value.hex(), job.index))
    with opened_transcript(proof) as transcript:
        before = links(transcript, first, first)[0] if first else proof.first_link
        claims = links(transcript, first + 1, last)
    scribe = Scribe(training, proof.commitment, before, state, first)
    agreed: int | None = None
    for step in range(first, last):
        try:
            state, total = executed(f"step {step}", functools.partial(train_step, training, state, step))
        except NonFiniteError as error:
            return Result(job.index, step - first, diverged(step, error, job.index))
        loss = int(total[LOSS])
        link, closed = scribe.write(state, total) if proof.commitment.rooted(step) else (scribe.pass_over(loss), None)
        if agreed is None and link != claims[step - first]:
            agreed, wrong = step - first, (link, claims[step - first])
        on_loss(mean_loss(loss, training.spec.micro_batches))
    assert closed is not None
    place = last - 1 if agreed is None else first + agreed
    difference = next(_differences(sorted(state), closed.segment, job.claimed, place, job.index), None)
    if difference is None and agreed is not None:
        reason = f"segment {job.index}: the link of step {place} differs after re-execution"
        difference = Difference("wrong_link", reason, place, None, wrong[0].hex(), wrong[1].hex(), job.index)
    if difference is None:
        return Result(job.index, last - first)
    return Result(job.index, place - first, difference)


def _differences(names: list[str], computed: Segment, claimed: Segment, step: int, index: int) -> Iterator[Difference]:
    """Where two ends of one segment differ, the most telling place first; `step` is the first whose link differs."""
    where = f"segment {index}, from step {step} on"
    for name, expected, found in zip(names, computed.tensors, claimed.tensors, strict=True):
        if expected != found:
            reason = f"{where}: {name} at the end of the segment differs after re-execution"
            yield Difference("wrong_tensor", reason, step, name, expected, found, index)
    for code, what in (
        ("wrong_total", "total"),
        ("wrong_loss", "loss"),
        ("wrong_batch", "batch"),
        ("wrong_root", "root"),
        ("wrong_loss", "mean_loss"),
        ("wrong_update", "update"),
        ("wrong_checkpoint", "state"),
    ):
        expected, found = str(getattr(computed, what)), str(getattr(claimed, what))
        if expected != found:
            reason = f"{where}: {what} at the end of the segment differs after re-execution"
            yield Difference(code, reason, step, None, expected, found, index)


def diverged(step: int, error: NonFiniteError, segment: int | None = None) -> Difference:
    reason = f"step {step}: re-execution reaches an infinity or a NaN: {error}"
    return Difference("not_finite", reason, step, segment=segment)


def executed(what: str, compute: Callable[[], T]) -> T:
    """Runs part of a stranger's program.

    Shapes are checked beforehand, but operands can still be such that an operator of torch raises, for instance an
    index past the end.

    Raises:
        Refused: `not_executable`, or what the program was refused for.
        NonFiniteError: from a kernel.
    """
    try:
        return compute()
    except TallystickError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0]
        raise Refused("not_executable", f"{what}: cannot be re-executed: {detail}") from None

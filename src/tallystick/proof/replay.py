"""Re-execution of one segment: from the state before it, step by step, to what its line claims.

The links of all its steps are compared, and at its end root and file of the state. So a difference is located twice:
the step is the first whose link differs, and the tensor the first in which that file differs.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tallystick.errors import NonFiniteError, Refused, TallystickError
from tallystick.program.training import LOSS, Training, mean_loss, train_step
from tallystick.proof import manifest as m
from tallystick.proof.directory import Proof, links, opened_transcript, read_state
from tallystick.proof.recording import Closed, Scribe
from tallystick.proof.roots import state_root, tensor_digests
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
        found, expected = state_root(state, first), job.before.root
        if found != expected:
            reason = f"segment {job.index - 1}: the file with the state at its end does not have the root in its line"
            return Result(
                job.index, 0, Difference("wrong_checkpoint", reason, first - 1, None, expected, found, job.index - 1)
            )
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
    difference: Difference | None = next(_differences(proof, closed, job, place), None)
    if difference is None and agreed is not None:
        reason = f"segment {job.index}: the link of step {place} differs after re-execution"
        difference = Difference("wrong_link", reason, place, None, wrong[0].hex(), wrong[1].hex(), job.index)
    if difference is None:
        return Result(job.index, last - first)
    return Result(job.index, place - first, difference)


def _differences(proof: Proof, closed: Closed, job: Job, step: int) -> Iterator[Difference]:
    """Where two ends of one segment differ, the most telling place first; `step` is the first whose link differs."""
    computed, claimed, index = closed.segment, job.claimed, job.index
    last = claimed.step == proof.commitment.steps
    where, more = f"segment {index}, from step {step} on", ""
    file = proof.manifest.file(m.FINAL).sha256 if last else claimed.state
    if (computed.root, computed.state) != (claimed.root, file):
        code = "wrong_tensor" if computed.root != claimed.root else "wrong_final_state" if last else "wrong_checkpoint"
        try:
            tensors = tensor_digests(read_state(proof, claimed.step, claimed.state))
        except Refused as refused:
            tensors, more = {}, f"; in which tensor, the file would tell: {refused.reason}"
        for name, found in tensors.items():
            expected = closed.tensors[name]
            if expected != found:
                reason = f"{where}: {name} at the end of the segment differs after re-execution"
                yield Difference(code, reason, step, name, expected.hex(), found.hex(), index)
    for code, what in (
        ("wrong_root", "root"),
        ("wrong_total", "total"),
        ("wrong_loss", "loss"),
        ("wrong_batch", "batch"),
        ("wrong_loss", "mean_loss"),
        ("wrong_update", "update"),
        ("wrong_checkpoint", "state"),
    ):
        ours, theirs = str(getattr(computed, what)), str(getattr(claimed, what))
        if ours != theirs:
            reason = f"{where}: {what} at the end of the segment differs after re-execution{more}"
            yield Difference(code, reason, step, None, ours, theirs, index)


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

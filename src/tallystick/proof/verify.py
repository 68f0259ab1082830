"""Verification by re-execution: chosen segments are computed again and compared with the transcript, bit for bit.

`verified` means zero differences in what was re-executed, and says how much that was. A proof that is signed and
well-formed but says something false is a `mismatch`; one that cannot be read, authenticated, parsed or executed is
`could_not_check`. Nothing that a prover recorded is obeyed: data order, learning rate and number of steps come from the
specification, and what is compared is fixed here.
"""

import os
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tallystick.errors import NonFiniteError, Refused
from tallystick.program.optimizers import Tensors
from tallystick.program.training import Training, accuracy, initial_state, prepare_training
from tallystick.proof import manifest as m
from tallystick.proof.claims import false_claim
from tallystick.proof.commitment import Commitment
from tallystick.proof.directory import Places, Proof, check_listed, open_proof, read_records, read_state, scan_segments
from tallystick.proof.parallel import in_processes, on_ray
from tallystick.proof.policy import FULL, Policy, Sample, chosen, detection
from tallystick.proof.replay import Job, Result, diverged, executed, replay
from tallystick.proof.segments import Segment
from tallystick.proof.verdict import Difference, Verdict
from tallystick.proof.writer import state_name

OnProgress = Callable[[int, int, float | None], None]
"""Called with the steps that agreed, those to re-execute, and where known the loss of the last one."""
NAMED: Final = 10
"""Missing checkpoints that a reason names; there may be more."""


@dataclass(frozen=True)
class How:
    """How to re-execute."""

    policy: Policy = FULL
    jobs: int = 1
    ray: bool = False
    max_steps: int | None = None
    """More steps than this are not re-executed."""
    spec: str | None = None
    """Name of the training specification that is wanted; a proof of any other one is a mismatch."""


@dataclass
class _Found:
    """What re-execution has found so far."""

    steps: int = 0
    checked: list[int] = field(default_factory=list)
    difference: Difference | None = None
    refused: tuple[str, str] | None = None


def verify(places: Places, how: How = How(), on_progress: OnProgress | None = None) -> Verdict:
    """Checks a proof. Whatever is in there, the answer is a verdict, not an exception."""
    try:
        proof = open_proof(places)
    except Refused as refused:
        return _could_not_check(refused.code, refused.reason)
    try:
        segments = chosen(how.policy, proof.commitment, proof.signature)
        _require_few_steps(proof.commitment, segments, how.max_steps)
        unwanted = _unwanted(proof, how)
        verdict = (
            _mismatch(unwanted, _Found())
            if unwanted
            else _check(proof, segments, how, on_progress or (lambda done, steps, loss: None))
        )
    except Refused as refused:
        verdict = _could_not_check(refused.code, refused.reason)
    return msgspec.structs.replace(
        verdict,
        prover=proof.prover,
        proof=proof.signature,
        spec=proof.spec_name,
        network=proof.commitment.network,
        task=proof.commitment.task,
        attempt=proof.commitment.attempt,
        total_steps=proof.commitment.steps,
        segments=proof.commitment.segments,
        coverage=verdict.steps / proof.commitment.steps,
        policy=type(how.policy).__name__.lower(),
        nonce=how.policy.nonce.hex() if isinstance(how.policy, Sample) else None,
        final_root=proof.statement.root,
        model=proof.statement.model,
    )


def _unwanted(proof: Proof, how: How) -> Difference | None:
    """Whoever wrote the specification chose seed, start, records and learning rate, so it must not be the prover."""
    if how.spec is None or how.spec == proof.spec_name:
        return None
    reason = "the proof is of another training specification than the one that is wanted"
    return Difference("unwanted_spec", reason, expected=how.spec, found=proof.spec_name)


def _check(proof: Proof, segments: list[int], how: How, on_progress: OnProgress) -> Verdict:
    check_listed(proof, m.TRANSCRIPT)
    check_listed(proof, m.SEGMENTS)
    train, initial = read_records(proof, m.TRAIN), read_state(proof, 0)
    test = _test_records(proof)
    difference = false_claim(proof, train, initial, test)
    if difference is not None:
        return _mismatch(_located(proof, train, difference, how), _Found())
    _require_checkpoints(proof, segments)
    training = executed("preparation", lambda: prepare_training(proof.spec, proof.program, train))
    difference = _wrong_exponent(training, initial)
    if difference is not None:
        return _mismatch(difference, _Found())
    del initial
    found = _re_execute(proof, training, segments, how, on_progress)
    if found.difference is not None:
        return _mismatch(_located(proof, train, found.difference, how), found)
    if found.refused is not None:
        return msgspec.structs.replace(_could_not_check(*found.refused), steps=found.steps, checked=found.checked)
    return Verdict(
        outcome="verified",
        code="verified",
        reason=_praise(proof.commitment, found),
        steps=found.steps,
        checked=found.checked,
        detection=detection(proof.commitment, segments, how.policy),
        test_accuracy=_test_accuracy(training, proof, test),
    )


def _located(proof: Proof, train: Tensors, difference: Difference, how: How) -> Difference:
    """Where the file with a segment's end contradicts its line, re-executing the segment tells in which tensor."""
    index = difference.segment
    if difference.code not in {"wrong_final_state", "wrong_checkpoint"} or difference.tensor or index is None:
        return difference
    try:
        _require_few_steps(proof.commitment, [index], how.max_steps)
        training = executed("preparation", lambda: prepare_training(proof.spec, proof.program, train))
    except Refused:
        return difference
    job = next(_jobs(proof, {index}))
    return replay(proof, training, job).difference or difference


def _re_execute(proof: Proof, training: Training, segments: list[int], how: How, on_progress: OnProgress) -> _Found:
    """Re-executes `segments` in order, up to the first that differs or cannot be checked."""
    bounds = [proof.commitment.bounds(index) for index in segments]
    wanted, found = sum(last - first for first, last in bounds), _Found()
    work = _jobs(proof, set(segments))
    if how.ray:
        results = on_ray(proof.places, proof.signature, work)
    elif how.jobs > 1:
        results = in_processes(proof.places, proof.signature, work, how.jobs)
    else:
        results = _here(proof, training, work, lambda done, loss: on_progress(done, wanted, loss))
    with closing(results):
        for result in results:
            found.steps += result.steps
            found.difference, found.refused = result.difference, result.refused
            if found.difference is not None or found.refused is not None:
                break
            found.checked.append(result.index)
            on_progress(found.steps, wanted, None)
    return found


def _here(
    proof: Proof, training: Training, work: Iterator[Job], on_step: Callable[[int, float], None]
) -> Generator[Result, None, None]:
    done = 0

    def count(loss: float) -> None:
        nonlocal done
        done += 1
        on_step(done, loss)

    for job in work:
        yield replay(proof, training, job, count)


def _jobs(proof: Proof, segments: Collection[int]) -> Iterator[Job]:
    before: Segment | None = None
    for index, segment in enumerate(scan_segments(proof)):
        if index in segments:
            yield Job(index, before, segment)
        before = segment


def _require_few_steps(commitment: Commitment, segments: list[int], most: int | None) -> None:
    wanted = sum(last - first for first, last in map(commitment.bounds, segments))
    if most is not None and wanted > most:
        raise Refused("too_many_steps", f"{wanted} steps would be re-executed, at most {most} were asked for")


def _require_checkpoints(proof: Proof, segments: list[int]) -> None:
    """Names all missing checkpoints at once, before any work is done."""
    names = [state_name(proof.commitment, proof.commitment.bounds(index)[0]) for index in segments if index]
    own = proof.places.checkpoints
    missing = [n for n in names if not os.path.lexists(own / n.partition("/")[2] if own else proof.places.proof / n)]
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        way = "ask the prover for them and put them there, or name their folder with --checkpoints"
        raise Refused("missing_checkpoint", f"{', '.join(missing[:NAMED])}{more}: not there; {way}")


def _praise(commitment: Commitment, found: _Found) -> str:
    if found.steps == commitment.steps:
        return f"all {found.steps} steps were re-executed and every state is the same, bit for bit"
    part = f"{len(found.checked)} of {commitment.segments} segments ({found.steps} of {commitment.steps} steps)"
    return f"{part} were re-executed and are the same, bit for bit; the others were not"


def _could_not_check(code: str, reason: str) -> Verdict:
    return Verdict(outcome="could_not_check", code=code, reason=reason)


def _mismatch(difference: Difference, found: _Found) -> Verdict:
    return Verdict(
        outcome="mismatch",
        code=difference.code,
        reason=difference.reason,
        segment=difference.segment,
        step=difference.step,
        tensor=difference.tensor,
        expected=difference.expected,
        found=difference.found,
        steps=found.steps,
        checked=found.checked,
    )


def _wrong_exponent(training: Training, initial: Tensors) -> Difference | None:
    """An exponent that is not that of the first gradient.

    Exponents scale what a step can change, so a prover who chose them could make training stand still.
    """
    parameters = {name: initial[f"parameter/{name}"] for name in training.parameters}
    slots = {name: initial[f"slot/{name}"] for name in training.slots}
    buffers = {name: initial[f"buffer/{name}"] for name in training.buffers}
    try:
        derived = executed("initial state", lambda: initial_state(training, parameters, slots, buffers))
    except NonFiniteError as error:
        return diverged(0, error)
    for name in (f"exponent/{accumulated}" for accumulated in training.accumulated):
        expected, found = int(derived[name]), int(initial[name])
        if expected != found:
            reason = f"initial state: {name} is not that of the first gradient"
            return Difference("wrong_exponent", reason, None, name, str(expected), str(found))
    return None


def _test_records(proof: Proof) -> Tensors | None:
    """None if there are none, or they were not handed over: they are no part of the training."""
    if proof.spec.test is None:
        return None
    try:
        return read_records(proof, m.TEST)
    except Refused as refused:
        if refused.code != "missing_data":
            raise
        return None


def _test_accuracy(training: Training, proof: Proof, test: Tensors | None) -> float | None:
    """None if there is no test set, or none that the program classifies: accuracy is no claim of the proof."""
    if test is None or not _classifies(training, proof):
        return None
    final = read_state(proof, proof.commitment.steps)
    try:
        return executed("test set", lambda: accuracy(training, final, test))
    except (NonFiniteError, Refused):
        return None


def _classifies(training: Training, proof: Proof) -> bool:
    """Whether test records fit the program, its target is a class and its output scores classes."""
    program, test = training.program, proof.spec.test
    if test is None or test.records == 0:
        return False
    fits = [(t.name, t.dtype, t.shape[1:]) for t in test.tensors] == [
        (t.name, t.dtype, t.shape[1:]) for t in program.batch
    ]
    target, graph = program.batch[-1], program.predict
    values = [*graph.inputs, *(node.result for node in graph.nodes)]
    scores = values[graph.outputs[0].index]
    one_row_each = len(scores.shape) == 2 and scores.shape[0] == program.micro_batch_size
    return fits and target.dtype == "int64" and len(target.shape) == 1 and one_row_each

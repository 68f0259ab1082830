"""Checking a record: what can be checked without training, then segments that are run again."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from tallystick.errors import Refused
from tallystick.proof.tolerant.data import DataError, batch_digest, data_root, record_digests
from tallystick.proof.tolerant.distances import Distances, distances
from tallystick.proof.tolerant.files import Read, reader
from tallystick.proof.tolerant.record import Record, read_record
from tallystick.proof.tolerant.replay import (
    GROUPS,
    Different,
    Replayed,
    fresh_run,
    load_checkpoint,
    replay,
    trainable,
)
from tallystick.proof.tolerant.run import Run, Setup, advance
from tallystick.proof.tolerant.sampling import detection, epochs, top_q, uniform
from tallystick.proof.tolerant.seeding import batch_of_step
from tallystick.proof.tolerant.state import StateError, architecture, capture, groups_of_tensors, settings
from tallystick.proof.tolerant.tolerance import Tolerance
from tallystick.proof.tolerant.verdict import Checked, Drawn, Report

OnSegment = Callable[[int, int], None]
"""Called with the number of segments run again, and of those that will be."""


@dataclass(frozen=True)
class Policy:
    """What the verifier, never the prover, decides."""

    tolerance: Tolerance
    nonce: bytes
    """Chosen after the record was handed over."""
    q: int = 2
    """Largest updates per epoch and metric."""
    samples: int = 20
    """Uniform samples."""


def check_record(path: Path, setup: Setup, policy: Policy, on_segment: OnSegment | None = None) -> Report:
    """Checks the record in directory `path`. Whatever is in there, the answer is a report, not an exception.

    Args:
        setup: the verifier's own training code. It runs with all rights of this process: never take it from the record.
    """
    try:
        read = reader(path)
        record = read_record(read)
        report = _check(record, read, setup, policy, on_segment)
    except (Refused, DataError, StateError) as error:
        code = error.code if isinstance(error, Refused) else "bad_data"
        return Report(outcome="could_not_check", code=code, reason=getattr(error, "reason", str(error)))
    samples = min(policy.samples, len(record.segments))
    return msgspec.structs.replace(
        report,
        signed_by=record.signed_by,
        record=record.name,
        steps=len(record.entries),
        segments=len(record.segments),
        nonce=policy.nonce.hex(),
        samples=samples,
        detection=_detection(len(record.segments), samples),
    )


def _check(record: Record, read: Read, setup: Setup, policy: Policy, on_segment: OnSegment | None) -> Report:
    checked: list[Checked] = []
    try:
        run = fresh_run(setup, record.manifest.seed)
        _same_manifest(record, run)
        _same_batches(record, run)
        _same_start(record, read, run)
        drawn = draw(record, read, run, policy)
        for number, why in drawn.items():
            replayed = replay(setup, record, read, record.segments[number])
            checked.append(_checked(replayed, why))
            _within(replayed, policy.tolerance)
            if on_segment is not None:
                on_segment(len(checked), len(drawn))
    except Different as different:
        return Report(outcome="mismatch", code=different.code, reason=different.reason, checked=checked)
    return _consistent(checked, policy.tolerance)


def _consistent(checked: list[Checked], tolerance: Tolerance) -> Report:
    """Consistent, unless the tolerance was so wide that no training at all would have been, too."""
    limit = tolerance.weights.l2
    idle = sum(segment.movement <= limit for segment in checked)
    if idle:
        return Report(
            outcome="could_not_check",
            code="tolerance_too_wide",
            reason=f"in {idle} of {len(checked)} segments a model that stood still would have passed: the smallest "
            f"movement is {min(s.movement for s in checked):.3g}, the l2 threshold {limit:.3g}; "
            "calibrate with a smaller --fraction",
            checked=checked,
        )
    return Report(
        outcome="consistent_within_tolerance",
        code="consistent",
        reason=f"{len(checked)} segments were run again and ended within the tolerance; this is not a proof, "
        "see which attacks it leaves open",
        checked=checked,
    )


def _same_manifest(record: Record, run: Run) -> None:
    manifest = record.manifest
    facts: list[tuple[str, str, object, object]] = [
        ("wrong_architecture", "the architecture", manifest.architecture, architecture(run.model)),
        ("wrong_settings", "the optimizer", manifest.optimizer, type(run.optimizer).__qualname__),
        ("wrong_settings", "the optimizer's settings", manifest.groups, settings(run.optimizer)),
        ("wrong_data", "the number of records", manifest.records, len(run.data)),
    ]
    for code, what, theirs, mine in facts:
        if theirs != mine:
            raise Different(code, f"{what}: {str(theirs)[:200]} in the record, {str(mine)[:200]} in your training file")


def _same_batches(record: Record, run: Run) -> None:
    """Every byte of every record, and which of them each step was given."""
    digests = record_digests(run.data)
    if data_root(digests) != record.manifest.data:
        raise Different("wrong_data", "the records differ from those of your training file")
    size = record.manifest.batch_size
    if size is not None and size > len(digests):
        raise Refused("malformed", f"record: batches of {size} of {len(digests)} records")
    for entry in record.entries:
        if entry.batch != batch_digest(digests, entry.indices):
            raise Different("wrong_batch", f"step {entry.step}: the batch is not that of the recorded indices")
        if size is not None and entry.indices != batch_of_step(record.manifest.seed, entry.step, len(digests), size):
            raise Different("wrong_order", f"step {entry.step}: the indices are not those that follow from the seed")


def _same_start(record: Record, read: Read, run: Run) -> None:
    """The start is built again from the seed and must be the same bits: initializers have no reproduction error."""
    recorded = load_checkpoint(read, run, 0, record.manifest.initial).tensors
    advance(run, 0)
    own = capture(run.model, run.optimizer, 0).tensors
    for name in sorted(recorded.keys() | own.keys()):
        if name not in recorded or name not in own or not torch.equal(recorded[name], own[name]):
            raise Different("wrong_start", f"step 0: {name[:200]} is not what your training file starts from")


def draw(record: Record, read: Read, run: Run, policy: Policy) -> dict[int, list[Drawn]]:
    """The segments to run again, in order, each with the reasons."""
    drawn: dict[int, list[Drawn]] = {0: ["end"], len(record.segments) - 1: ["end"]}
    if policy.q:
        for number in top_q(epochs(record), updates(record, read, run), policy.q):
            drawn.setdefault(number, []).append("top-q")
    for number in uniform(record, policy.nonce, policy.samples):
        drawn.setdefault(number, []).append("uniform")
    return dict(sorted(drawn.items()))


def updates(record: Record, read: Read, run: Run) -> dict[int, Distances]:
    """How far the recorded weights move in each segment. Reads every checkpoint."""
    names, found = trainable(run), {}
    before = groups_of_tensors(load_checkpoint(read, run, 0, record.manifest.initial), names)["weights"]
    for segment in record.segments:
        after = groups_of_tensors(load_checkpoint(read, run, segment.end, segment.after), names)["weights"]
        if {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in after.items()}:
            raise Different(
                "wrong_tensors", f"step {segment.end}: the checkpoint holds other weights than the one before"
            )
        found[segment.number] = distances(before, after)
        before = after
    return found


def _within(replayed: Replayed, tolerance: Tolerance) -> None:
    segment = replayed.segment
    for group in GROUPS:
        error, limits = replayed.error[group], tolerance.limits(group)
        if not error.within(limits):
            raise Different(
                f"wrong_{group}",
                f"steps {segment.start} to {segment.end}: {group} end {_shown(error)} away from the replay, "
                f"the thresholds are {_shown(limits)}",
            )
    if not math.isfinite(replayed.movement.l2):
        raise Refused("not_finite", f"steps {segment.start} to {segment.end}: the replay reaches an infinity or a NaN")


def _shown(distance: Distances) -> str:
    return f"l1 {distance.l1:.3g}, l2 {distance.l2:.3g}, linf {distance.linf:.3g}, cosine {distance.cosine:.3g}"


def _checked(replayed: Replayed, why: list[Drawn]) -> Checked:
    return Checked(
        segment=replayed.segment.number,
        steps=(replayed.segment.start, replayed.segment.end),
        drawn=why,
        weights=replayed.error["weights"],
        buffers=replayed.error["buffers"],
        slots=replayed.error["slots"],
        movement=replayed.movement.l2,
        loss_error=replayed.loss_error,
    )


def _detection(segments: int, samples: int) -> dict[str, float]:
    shares = {"1 segment": 1, "5 % of the segments": -(-segments // 20), "a quarter": -(-segments // 4)}
    return {name: detection(segments, samples, bad) for name, bad in shares.items()}

"""Calibration, as in the 2021 paper: how far independently trained models lie apart, and how far replays stray.

    reproduction error  <<  threshold  <<  d_ref        (and: threshold < movement in a segment)

The second condition is ours: where a segment moves the weights by less than the threshold, standing still passes.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

from tallystick.errors import TallystickError
from tallystick.proof.tolerant.distances import Distances, distances, largest, mean
from tallystick.proof.tolerant.files import Read, reader
from tallystick.proof.tolerant.record import Record, read_record
from tallystick.proof.tolerant.replay import GROUPS, Different, Replayed, fresh_run, load_checkpoint, replay, trainable
from tallystick.proof.tolerant.run import Setup
from tallystick.proof.tolerant.sampling import uniform
from tallystick.proof.tolerant.state import groups_of_tensors
from tallystick.proof.tolerant.tolerance import PAPER_FRACTION, Tolerance

SHARE_OF_MOVEMENT: Final = 0.1
ROOM_ABOVE_ERROR: Final = 3.0
OnReplay = Callable[[int, int], None]


class CalibrationError(TallystickError):
    """Records from which no threshold follows; the message says why and what to do."""


def calibrate(
    paths: Sequence[Path],
    setup: Setup,
    *,
    fraction: float | None = None,
    replays: int = 10,
    nonce: bytes = b"",
    on_replay: OnReplay | None = None,
) -> Tolerance:
    """Thresholds from records of independent runs of the same training, which the caller trusts.

    Args:
        paths: two or more finished records that differ in nothing but the seed.
        fraction: thresholds as a share of d_ref. If not given: 0.008, or as much less as keeps the l2 threshold at a
            tenth of the smallest movement that was replayed.
        replays: how many segments of each record are run again here.
        nonce: chooses them.

    Raises:
        CalibrationError: the records are not comparable, or a replay strays as far as the threshold.
        Refused: a record cannot be read or run.
    """
    records = [_read(path) for path in paths]
    _comparable(records)
    finals, found = [], []
    total = sum(min(replays, len(record.segments)) for record in records)
    for path, record in zip(paths, records, strict=True):
        read = reader(path)
        run = fresh_run(setup, record.manifest.seed)
        last = record.segments[-1]
        finals.append(groups_of_tensors(load_checkpoint(read, run, last.end, last.after), trainable(run)))
        for number in uniform(record, nonce, replays):
            found.append(_replayed(path, setup, record, read, number))
            if on_replay is not None:
                on_replay(len(found), total)
    reference = {
        group: mean([distances(left[group], right[group]) for left, right in combinations(finals, 2)])
        for group in GROUPS
    }
    return _tolerance(reference, found, fraction, len(records))


def _tolerance(
    reference: dict[str, Distances], found: list[Replayed], fraction: float | None, models: int
) -> Tolerance:
    d_ref = reference["weights"]
    if d_ref.l2 <= 0:
        raise CalibrationError("the final weights are the same; train each model from another seed")
    movement = min(replayed.movement.l2 for replayed in found)
    if fraction is None:
        fraction = min(PAPER_FRACTION, SHARE_OF_MOVEMENT * movement / d_ref.l2)
    error = {group: largest([replayed.error[group] for replayed in found]) for group in GROUPS}
    limits = {group: reference[group].scaled(fraction) for group in GROUPS}
    for group in GROUPS:
        if not error[group].scaled(ROOM_ABOVE_ERROR).within(limits[group]):
            raise CalibrationError(
                f"{group}: replays stray by up to {error[group]}, and the thresholds at fraction {fraction:.3g} are "
                f"{limits[group]}: less than {ROOM_ABOVE_ERROR:g} times as much. Use a larger --fraction, a shorter "
                "interval, or find what the training file does not make deterministic"
            )
    return Tolerance(
        fraction=fraction,
        weights=limits["weights"],
        buffers=limits["buffers"],
        slots=limits["slots"],
        reference=d_ref,
        error=error["weights"],
        movement=movement,
        models=models,
        replays=len(found),
    )


def _read(path: Path) -> Record:
    read = reader(path)
    return read_record(read)


def _comparable(records: Sequence[Record]) -> None:
    if len(records) < 2:
        raise CalibrationError("two or more records of independent runs are needed; train again with another seed")
    first = records[0].manifest
    for record in records[1:]:
        for field in ("data", "architecture", "optimizer", "groups", "hyperparameters", "interval", "batch_size"):
            if getattr(record.manifest, field) != getattr(first, field):
                raise CalibrationError(f"the records differ in {field}; only the seed may differ")
        if len(record.entries) != len(records[0].entries):
            raise CalibrationError(f"the records have {len(records[0].entries)} and {len(record.entries)} steps")
    if len({record.manifest.seed for record in records}) < len(records):
        raise CalibrationError("two records have the same seed; independent runs differ in it")


def _replayed(path: Path, setup: Setup, record: Record, read: Read, number: int) -> Replayed:
    try:
        return replay(setup, record, read, record.segments[number])
    except Different as different:
        raise CalibrationError(f"{path}: {different.reason}; the training file does not fit this record") from None

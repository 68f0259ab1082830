"""Records of float32 training: honest ones are consistent on another thread count, dishonest ones are not.

The attacker signs everything anew, so that only what a check is for can find the forgery.
"""

import math
from pathlib import Path

import msgspec
import pytest
import torch

from tallystick.proof.tolerant.calibrate import CalibrationError, calibrate
from tallystick.proof.tolerant.record import checkpoint_name
from tallystick.proof.tolerant.run import Run
from tallystick.proof.tolerant.sampling import uniform
from tallystick.proof.tolerant.tolerance import Tolerance, decode_tolerance, encode_tolerance
from tolerant_samples import (
    INTERVAL,
    PROVER,
    STEPS,
    adam_setup,
    check,
    checkpoint,
    digits,
    edited,
    forge,
    interpolated,
    read,
    run_on,
    setup,
    tolerance_of,
    train,
)

SEGMENTS = STEPS // INTERVAL


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("records")
    paths = [folder / f"run-{seed}" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, start=1):
        train(path, seed)
    return paths


@pytest.fixture(scope="module")
def tolerance(records: list[Path]) -> Tolerance:
    return tolerance_of(records[1:])


def test_an_honest_record_is_consistent_under_another_thread_count(records: list[Path], tolerance: Tolerance) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        report = check(records[0], tolerance, samples=SEGMENTS)
    finally:
        torch.set_num_threads(threads)
    assert (report.outcome, report.exit_code, report.signed_by) == ("consistent_within_tolerance", 3, PROVER.identity)
    assert (report.steps, report.segments, len(report.checked)) == (STEPS, SEGMENTS, SEGMENTS)
    assert report.detection["1 segment"] == 1.0
    assert any(attack.standing == "open" for attack in report.attacks)


def test_adam_with_a_schedule_is_consistent(tmp_path: Path) -> None:
    for seed in (1, 2):
        train(tmp_path / str(seed), seed, adam_setup)
    tolerance = tolerance_of([tmp_path / "1", tmp_path / "2"], adam_setup)
    assert check(tmp_path / "1", tolerance, setup=adam_setup).outcome == "consistent_within_tolerance"


def test_no_outcome_is_ever_called_verified(records: list[Path], tolerance: Tolerance) -> None:
    report = check(records[0], tolerance)
    assert b"verified" not in msgspec.json.encode(report)


def test_the_same_nonce_draws_the_same_segments_and_another_one_others(records: list[Path]) -> None:
    record = read(records[0])
    assert uniform(record, b"1", 4) == uniform(record, b"1", 4)
    assert len({tuple(uniform(record, bytes([nonce]), 4)) for nonce in range(20)}) > 10


def test_swapped_data_are_found(records: list[Path], tolerance: Tolerance) -> None:
    """One label of one record is another; the 2021 code did not look at labels at all."""
    x, y = digits()
    y = y.clone()
    y[17] = (y[17] + 1) % 10
    report = check(records[0], tolerance, setup=lambda seed: run_on(x, y, seed))
    assert (report.outcome, report.code) == ("mismatch", "wrong_data")


def test_one_pixel_in_the_middle_of_a_record_counts(records: list[Path], tolerance: Tolerance) -> None:
    x, y = digits()
    x = x.clone()
    x[5, 0, 4, 4] += 1e-6
    assert check(records[0], tolerance, setup=lambda seed: run_on(x, y, seed)).code == "wrong_data"


def test_another_learning_rate_is_found(records: list[Path], tolerance: Tolerance) -> None:
    report = check(records[0], tolerance, setup=lambda seed: run_on(*digits(), seed, lr=0.02))
    assert (report.outcome, report.code) == ("mismatch", "wrong_settings")
    assert "0.05" in report.reason and "0.02" in report.reason


@pytest.mark.parametrize("step", [0, STEPS])
def test_a_learning_rate_inside_a_checkpoint_is_not_obeyed(
    records: list[Path], tolerance: Tolerance, tmp_path: Path, step: int
) -> None:
    """The way in of the infinitesimal update: the 2021 verifier trains with the prover's settings."""
    state = checkpoint(records[0], step)
    details = msgspec.structs.replace(state.details, groups=[{**state.details.groups[0], "lr": "1e-12"}])
    forged = forge(records[0], tmp_path / "f", checkpoints={step: type(state)(details, state.tensors)})
    report = check(forged, tolerance)
    assert (report.outcome, report.code) == ("mismatch", "wrong_settings")


@pytest.mark.parametrize(
    ("tensor", "code"),
    [
        ("model/6.weight", "wrong_weights"),
        ("model/1.running_mean", "wrong_buffers"),
        ("optimizer/0/momentum_buffer", "wrong_slots"),
        ("model/1.num_batches_tracked", "wrong_counter"),
    ],
)
def test_an_edited_last_checkpoint_is_found(
    records: list[Path], tolerance: Tolerance, tmp_path: Path, tensor: str, code: str
) -> None:
    """Without any sampling: the last segment is always run again. Each kind of state has its own check."""
    state = checkpoint(records[0], STEPS)
    changed = state.tensors[tensor] + torch.ones_like(state.tensors[tensor])
    forged = forge(records[0], tmp_path / "f", checkpoints={STEPS: edited(state, **{tensor: changed})})
    report = check(forged, tolerance, q=0, samples=0)
    assert (report.outcome, report.code) == ("mismatch", code)


def test_a_stitched_record_is_found(records: list[Path], tolerance: Tolerance, tmp_path: Path) -> None:
    """The second half comes from another run: the seam is the largest update of its epoch."""
    other = {step: checkpoint(records[1], step) for step in range(STEPS // 2, STEPS + 1, INTERVAL)}
    forged = forge(records[0], tmp_path / "f", checkpoints=other)
    report = check(forged, tolerance, q=1, samples=0)
    assert (report.outcome, report.code) == ("mismatch", "wrong_weights")


def test_another_start_is_found(records: list[Path], tolerance: Tolerance, tmp_path: Path) -> None:
    """Weights in the rank order of the final ones: the same distribution, so that the 2021 test passes."""
    begin, end = checkpoint(records[0], 0), checkpoint(records[0], STEPS)
    name = "model/6.weight"
    ranked = torch.empty_like(begin.tensors[name]).reshape(-1)
    ranked[end.tensors[name].reshape(-1).argsort()] = begin.tensors[name].reshape(-1).sort().values
    state = edited(begin, **{name: ranked.reshape(begin.tensors[name].shape)})
    report = check(forge(records[0], tmp_path / "f", checkpoints={0: state}), tolerance)
    assert (report.outcome, report.code) == ("mismatch", "wrong_start")


def test_an_order_that_the_seed_does_not_give_is_found(
    records: list[Path], tolerance: Tolerance, tmp_path: Path
) -> None:
    """A batch that is honestly hashed, but not the one that was committed to."""
    x, y = digits()
    from tallystick.proof.tolerant.data import batch_digest, record_digests

    digests = record_digests(run_on(x, y, 1).data)
    swapped = list(range(32))
    forged = forge(
        records[0],
        tmp_path / "f",
        entry=lambda e: (
            msgspec.structs.replace(e, indices=swapped, batch=batch_digest(digests, swapped)) if e.step == 7 else e
        ),
    )
    assert check(forged, tolerance).code == "wrong_order"


def test_wrong_batch_hash_and_wrong_indices_are_found(
    records: list[Path], tolerance: Tolerance, tmp_path: Path
) -> None:
    forged = forge(
        records[0],
        tmp_path / "f",
        entry=lambda e: msgspec.structs.replace(e, indices=e.indices[::-1]) if e.step == 7 else e,
    )
    assert check(forged, tolerance).code == "wrong_batch"


def test_top_q_alone_misses_what_uniform_samples_catch(
    records: list[Path], tolerance: Tolerance, tmp_path: Path
) -> None:
    """Blindfold top-Q: the third epoch's smaller updates are interpolated, its largest and the ends are real."""
    path = records[0]
    inside = {45: checkpoint(path, 45), 50: checkpoint(path, 50)}
    forged = forge(path, tmp_path / "f", checkpoints=interpolated(path, [50], 45, 55))
    assert inside[50].tensors["model/6.weight"].ne(checkpoint(forged, 50).tensors["model/6.weight"]).any()
    assert check(forged, tolerance, q=1, samples=0).outcome == "consistent_within_tolerance"
    nonce = next(bytes([n]) for n in range(256) if {9, 10} & set(uniform(read(forged), bytes([n]), 3)))
    report = check(forged, tolerance, q=1, samples=3, nonce=nonce)
    assert (report.outcome, report.code) == ("mismatch", "wrong_weights")


def test_a_tolerance_in_which_standing_still_passes_gives_no_verdict(
    records: list[Path], tolerance: Tolerance, tmp_path: Path
) -> None:
    groups = {group: tolerance.limits(group).scaled(1e3) for group in ("weights", "buffers", "slots")}
    wide = msgspec.structs.replace(tolerance, **groups)
    report = check(records[0], wide)
    assert (report.outcome, report.code) == ("could_not_check", "tolerance_too_wide")


def test_a_nan_is_near_to_nothing(records: list[Path], tolerance: Tolerance, tmp_path: Path) -> None:
    """`distance > threshold` is false for a NaN, so the 2021 code took it for valid."""
    state = checkpoint(records[0], STEPS)
    poisoned = state.tensors["model/6.weight"].clone()
    poisoned[0, 0] = math.nan
    forged = forge(records[0], tmp_path / "f", checkpoints={STEPS: edited(state, **{"model/6.weight": poisoned})})
    report = check(forged, tolerance)
    assert (report.outcome, report.code) == ("could_not_check", "not_finite")


def test_calibration_puts_the_threshold_between_error_and_movement(tolerance: Tolerance) -> None:
    assert 3 * tolerance.error.l2 <= tolerance.weights.l2 < tolerance.movement < tolerance.reference.l2
    assert tolerance.fraction <= 0.008
    assert decode_tolerance(encode_tolerance(tolerance)) == tolerance


def test_calibration_refuses_runs_that_are_not_independent(records: list[Path]) -> None:
    with pytest.raises(CalibrationError, match="same seed"):
        calibrate([records[0], records[0]], setup, replays=1)
    with pytest.raises(CalibrationError, match="two or more"):
        calibrate(records[:1], setup, replays=1)


def test_calibration_refuses_a_training_file_that_is_not_deterministic(records: list[Path]) -> None:
    def careless(seed: int) -> Run:
        run = setup(seed)

        def step(indices: object) -> float | None:
            torch.seed()
            loss = run.step(indices)  # type: ignore[arg-type]
            return None if loss is None else float(loss.detach()) if isinstance(loss, torch.Tensor) else loss

        return Run(run.model, run.optimizer, run.data, step)

    with pytest.raises(CalibrationError, match="deterministic"):
        calibrate(records[:2], careless, replays=2)


def test_a_checkpoint_that_is_not_due_cannot_choose_the_segments(
    records: list[Path], tolerance: Tolerance, tmp_path: Path
) -> None:
    forged = forge(
        records[0],
        tmp_path / "f",
        entry=lambda e: msgspec.structs.replace(e, checkpoint=None) if e.step == INTERVAL - 1 else e,
    )
    assert check(forged, tolerance).code == "bad_checkpoints"


def test_changed_files_without_the_key_are_refused(records: list[Path], tolerance: Tolerance, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(records[0], tmp_path / "copy"))
    file = copy / checkpoint_name(STEPS)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    report = check(copy, tolerance)
    assert (report.outcome, report.code) == ("could_not_check", "wrong_digest")

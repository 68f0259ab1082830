"""The 2021 verifier accepts honest records, and every forgery that its published breaks exploit; ours finds those."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from scipy import stats

from tallystick.proof.tolerant.baseline2021 import (
    FRACTION_OF_REFERENCE,
    Verdict2021,
    abbreviated_hash,
    kolmogorov,
    uniform_probability,
    verify_2021,
)
from tallystick.proof.tolerant.files import reader
from tallystick.proof.tolerant.record import read_record
from tallystick.proof.tolerant.run import Setup
from tallystick.proof.tolerant.state import Checkpoint
from tallystick.proof.tolerant.tolerance import Tolerance
from tolerant_samples import (
    EPOCHS,
    INTERVAL,
    STEPS,
    check,
    checkpoint,
    digits,
    edited,
    forge,
    run_on,
    setup,
    tolerance_of,
    train,
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("records")
    for seed in (1, 2):
        train(folder / f"run-{seed}", seed)
    return [folder / "run-1", folder / "run-2"]


@pytest.fixture(scope="module")
def tolerance(records: list[Path]) -> Tolerance:
    return tolerance_of(records)


def judged(path: Path, tolerance: Tolerance, setup: Setup = setup, q: int = 2) -> Verdict2021:
    read = reader(path)
    delta = FRACTION_OF_REFERENCE * tolerance.reference.l2
    return verify_2021(read_record(read), read, setup, delta=delta, epochs=EPOCHS, q=q)


def test_an_honest_record_is_valid(records: list[Path], tolerance: Tolerance) -> None:
    verdict = judged(records[0], tolerance)
    assert verdict.valid and len(verdict.replayed) == 2 * EPOCHS
    assert verdict.steps_replayed == 2 * EPOCHS * INTERVAL


def test_a_gross_forgery_is_found(records: list[Path], tolerance: Tolerance, tmp_path: Path) -> None:
    """A seam between two runs is the largest update: what top-Q was made for."""
    other = {step: checkpoint(records[1], step) for step in range(STEPS // 2, STEPS + 1, INTERVAL)}
    verdict = judged(forge(records[0], tmp_path / "f", checkpoints=other), tolerance)
    assert not verdict.valid and STEPS // 2 // INTERVAL - 1 in verdict.replayed


def test_it_replays_with_the_learning_rate_of_the_checkpoint(
    records: list[Path], tolerance: Tolerance, tmp_path: Path
) -> None:
    """Weakness 3, the infinitesimal update: a straight line toward a stolen end, with a learning rate of nothing."""
    begin, end = checkpoint(records[0], 0), checkpoint(records[1], STEPS)
    line: dict[int, Checkpoint] = {}
    for step in range(0, STEPS + 1, INTERVAL):
        own = checkpoint(records[0], step)
        share = 1e-3 * step / STEPS  # short enough for the few checkpoints here; the attack takes thousands
        weights = {n: torch.lerp(t, end.tensors[n], share) for n, t in begin.tensors.items() if t.is_floating_point()}
        tensors = {n: t for n, t in own.tensors.items() if not n.startswith("optimizer/")}
        groups = [{**group, "lr": "1e-12"} for group in own.details.groups]
        line[step] = Checkpoint(msgspec.structs.replace(own.details, groups=groups), {**tensors, **weights})
    forged = forge(records[0], tmp_path / "f", checkpoints=line)
    assert judged(forged, tolerance).valid
    assert check(forged, tolerance).outcome == "mismatch"


def test_it_does_not_look_at_running_statistics_or_slots(
    records: list[Path], tolerance: Tolerance, tmp_path: Path
) -> None:
    """Weakness 4."""
    state = checkpoint(records[0], STEPS)
    for name in ("model/1.running_mean", "optimizer/0/momentum_buffer"):
        changed = edited(state, **{name: state.tensors[name] + 100})
        forged = forge(records[0], tmp_path / name.replace("/", "-"), checkpoints={STEPS: changed})
        assert judged(forged, tolerance, q=STEPS).valid
        assert check(forged, tolerance).outcome == "mismatch"


def test_it_takes_a_nan_for_valid(records: list[Path], tolerance: Tolerance, tmp_path: Path) -> None:
    """Weakness 5."""
    state = checkpoint(records[0], STEPS)
    poisoned = torch.full_like(state.tensors["model/6.weight"], math.nan)
    forged = forge(records[0], tmp_path / "f", checkpoints={STEPS: edited(state, **{"model/6.weight": poisoned})})
    verdict = judged(forged, tolerance)
    assert verdict.valid and math.isnan(verdict.largest)
    assert check(forged, tolerance).code == "not_finite"


def test_a_start_in_the_order_of_the_end_passes(records: list[Path], tolerance: Tolerance, tmp_path: Path) -> None:
    """Weakness 1: sorting weights changes no distribution. (The first segment is not among the replayed with q = 0.)"""
    begin, end = checkpoint(records[0], 0), checkpoint(records[0], STEPS)
    name = "model/6.weight"
    ranked = torch.empty_like(begin.tensors[name]).reshape(-1)
    ranked[end.tensors[name].reshape(-1).argsort()] = begin.tensors[name].reshape(-1).sort().values
    state = edited(begin, **{name: ranked.reshape(begin.tensors[name].shape)})
    forged = forge(records[0], tmp_path / "f", checkpoints={0: state})
    assert judged(forged, tolerance).start_p == judged(records[0], tolerance).start_p
    assert check(forged, tolerance).code == "wrong_start"


def test_a_start_from_another_distribution_fails(records: list[Path], tolerance: Tolerance, tmp_path: Path) -> None:
    begin = checkpoint(records[0], 0)
    forged = forge(
        records[0],
        tmp_path / "f",
        checkpoints={0: edited(begin, **{"model/6.weight": begin.tensors["model/6.weight"] * 0.5})},
    )
    verdict = judged(forged, tolerance)
    assert not verdict.valid and verdict.start_p is not None and verdict.start_p < 0.01


def test_it_does_not_see_labels_or_the_middle_of_an_image(records: list[Path], tolerance: Tolerance) -> None:
    """Weakness 6."""
    images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    changed = images.copy()
    changed[:, 8:24, 8:24] = 255
    assert abbreviated_hash(images) == abbreviated_hash(changed)
    changed[0, 0, 0, 0] = 1
    assert abbreviated_hash(images) != abbreviated_hash(changed)


def test_it_runs_less_than_it_is_told_of_the_training(records: list[Path], tolerance: Tolerance) -> None:
    """Another learning rate in the verifier's own file changes nothing, because the checkpoint's is used."""
    assert judged(records[0], tolerance, lambda seed: run_on(*digits(), seed, lr=123.0)).valid


@pytest.mark.parametrize("count", [64, 640, 100_000])
def test_the_p_value_is_that_of_scipy(count: int) -> None:
    """Where it matters: about the threshold of 0.01 and a decade above it."""
    for statistic in (1.2, 1.4, 1.6, 1.8):
        exact = stats.kstwo.sf(statistic / math.sqrt(count), count)
        assert kolmogorov(statistic / math.sqrt(count), count) == pytest.approx(exact, abs=0.002)


def test_uniform_weights_have_a_high_p_value_and_normal_ones_a_low_one() -> None:
    generator = torch.Generator().manual_seed(1)
    assert uniform_probability(torch.rand(5000, generator=generator) * 0.2 - 0.1, 0.1) > 0.05
    assert uniform_probability(torch.randn(5000, generator=generator) * 0.05, 0.1) < 1e-6

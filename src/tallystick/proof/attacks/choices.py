"""Attacks by choosing what was not the prover's to choose: order, records, noise, attempts, arithmetic. Rows 10 to 13,
17, 23 and 24."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import torch

from tallystick.program.graph import StepProgram
from tallystick.program.optimizers import Tensors
from tallystick.program.training import Training, mean_loss, prepare_training, record_indices, train_step
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks.attempt import Attack
from tallystick.proof.attacks.bench import Bench, between, forge, idle_total
from tallystick.proof.policy import Sample

SEEDS: Final = (6, 7, 8)
OMITTED, INSTEAD = 7, 11
"""A record that is never used, and the one that takes its place; both of one class."""
NOISY_STEP: Final = 22
WITHIN: Final = 1e-4
"""Share of the way to the wanted model: well within what a tolerance of 0.008 d_ref admits."""
TOLERANCE_FILE: Final = "tolerance.json"


def ground_order(bench: Bench, path: Path) -> Path:
    """Row 10: one commitment, several seeds; the run with the lowest last loss is handed in."""
    best = best_seed(bench)
    training = with_seed(bench.training, best)
    return forge(bench, path, lambda step, state: train_step(training, state, step), claimed=training)


def best_seed(bench: Bench) -> int:
    return min(SEEDS, key=lambda seed: _last_loss(with_seed(bench.training, seed), bench.initial))


def with_seed(training: Training, seed: int) -> Training:
    return replace(training, spec=msgspec.structs.replace(training.spec, seed=seed))


def _last_loss(training: Training, initial: Tensors) -> float:
    state = initial
    for step in range(b.STEPS):
        state, total = train_step(training, state, step)
    return mean_loss(int(total["loss"]), b.MICRO_BATCHES)


def relabeled(bench: Bench, path: Path) -> Path:
    """Row 11: one label of one record, in the proof and in training."""
    labels = bench.training.records["y"].clone()
    labels[0] = (labels[0] + 1) % b.CLASSES
    forged = {**bench.training.records, "y": labels}
    training = replace(bench.training, records=forged)
    return forge(bench, path, lambda step, state: train_step(training, state, step), train=forged)


def omitted(bench: Bench, path: Path) -> Path:
    """Row 12: the records are the specified ones, but one is never trained on; another one is, twice."""
    training = replace(bench.training, records=without(bench.training.records))
    return forge(bench, path, lambda step, state: train_step(training, state, step))


def without(records: Tensors) -> Tensors:
    rows = torch.arange(b.RECORDS)
    rows[OMITTED] = INSTEAD
    return {name: value[rows] for name, value in records.items()}


def other_mask(bench: Bench, path: Path) -> Path:
    """Row 13: in one step dropout has the mask of another seed; records and order are the specified ones."""
    training = with_mask_of(bench.training, SEEDS[0], NOISY_STEP)
    return forge(bench, path, lambda step, state: train_step(training if step == NOISY_STEP else bench.training, state,
                                                             step))  # fmt: skip


def with_mask_of(training: Training, seed: int, step: int) -> Training:
    """The same batch at `step` under another seed: the records are moved to where that seed's order looks for them."""
    other = with_seed(training, seed)
    moved = {name: value.clone() for name, value in training.records.items()}
    for part in range(b.MICRO_BATCHES):
        here, there = record_indices(training, step, part), record_indices(other, step, part)
        for name, value in training.records.items():
            moved[name][there] = value[here]
    return replace(other, records=moved)


def best_of_n(bench: Bench, path: Path) -> object:
    """Row 17: several whole trainings, of which only the best is shown: honest, of a specification of its own."""
    training = with_seed(bench.training, best_seed(bench))
    return b.record(path, b.specified(training, bench.run.program, b.begun(training, bench.initial)), b.ATTACKER)


def own_tolerance(bench: Bench, path: Path) -> Path:
    """Row 23: a drift that any tolerance admits, one segment only, and a tolerance in the proof for the verifier."""
    total = idle_total(bench)

    def stepper(step: int, state: Tensors) -> tuple[Tensors, Tensors]:
        after, total_ = train_step(bench.training, state, step)
        return (between(after, bench.wanted, WITHIN), total) if step == b.STEPS - 1 else (after, total_)

    forge(bench, path, stepper, segment=b.STEPS)
    (path / TOLERANCE_FILE).write_text('{"format":"tallystick-tolerance-v1","fraction":1e9,"policy":"none"}')
    return path


def cheap_arithmetic(bench: Bench, path: Path) -> Path:
    """Row 24: the proof says `full`, the machine computes with the 13 bits of `fast`."""
    training = prepare_training(bench.spec, fast(bench.training.program), bench.training.records)
    return forge(bench, path, lambda step, state: train_step(training, state, step))


def fast(program: StepProgram) -> StepProgram:
    return msgspec.structs.replace(program, profile="fast")


ATTACKS: Final = (
    Attack(10, "order of the best of several seeds", ground_order, "wrong_tensor"),
    Attack(11, "one label changed", relabeled, "wrong_train_data"),
    Attack(12, "a record never used", omitted, "wrong_tensor"),
    Attack(13, "another dropout mask in one step", other_mask, "wrong_tensor"),
    Attack(17, "best of several runs", best_of_n, "unwanted_spec"),
    Attack(23, "a tolerance in the proof, one segment", own_tolerance, "wrong_tensor", Sample(b"nonce", 0)),
    Attack(24, "cheaper arithmetic than committed", cheap_arithmetic, "wrong_tensor"),
)

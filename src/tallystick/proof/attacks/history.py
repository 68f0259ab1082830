"""Attacks on what a chain of states must bind: rows 6 to 9, 14, 16, 18 and 19."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import torch

from tallystick.exact.rounding import canonical
from tallystick.program.optimizers import Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.tensors import to_blob
from tallystick.program.training import train_step
from tallystick.proof import manifest as m
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks.attempt import Attack
from tallystick.proof.attacks.bench import Bench, forge, honestly, tampering
from tallystick.proof.commitment import sign_commitment
from tallystick.proof.policy import Sample

SEAM: Final = 20
"""Steps of the first of two runs that are stitched; a boundary of segments."""
BAD_SEGMENT: Final = 3
BAD_STEP: Final = BAD_SEGMENT * b.SEGMENT + 2
OTHER_RATE: Final = "0.001"
WEIGHT: Final = "parameter/4.weight"
MOMENTUM: Final = "slot/momentum/4.weight"
MEAN: Final = "buffer/1.running_mean"


def stitched(bench: Bench, path: Path) -> Path:
    """Row 6: the first half of one honest run, then the second half of another on the same records."""
    return forge(bench, path, honestly(bench), leaps={SEAM: bench.other_run[SEAM]})


def injected_momentum(bench: Bench, path: Path) -> Path:
    """Row 7: at the end of a segment the momentum becomes what drives the weights to the wanted model; all else is
    honest."""

    def push(state: Tensors) -> Tensors:
        way = (state[WEIGHT] - bench.wanted[WEIGHT]) / float(b.RATE)
        return {**state, MOMENTUM: canonical(state[MOMENTUM] + way)}

    return forge(bench, path, tampering(bench, BAD_SEGMENT * b.SEGMENT + b.SEGMENT - 1, push))


def edited_buffer(bench: Bench, path: Path) -> Path:
    """Row 8: the last running mean is another, so that the model fails in use."""
    return forge(bench, path, tampering(bench, b.STEPS - 1, lambda state: {**state, MEAN: canonical(state[MEAN] + 1)}))


def other_rate(bench: Bench, path: Path) -> Path:
    """Row 9: trains with a learning rate that is not the committed one."""
    slow = msgspec.structs.replace(bench.spec, learning_rate=ConstantRate(OTHER_RATE))
    training = replace(bench.training, spec=slow)
    return forge(bench, path, lambda step, state: train_step(training, state, step))


def flipped_bit(bench: Bench, path: Path) -> Path:
    """Row 14: after training, one bit of one weight in the model that is handed over."""
    b.forged_copy(bench, path)
    final = bench.states[-1]
    bits = final[WEIGHT].clone().view(torch.int32)
    bits[0, 0] ^= 1
    return b.resign(path, {m.FINAL: to_blob({**final, WEIGHT: bits.view(torch.float32)})})


def taken_over(bench: Bench, path: Path) -> Path:
    """Row 16: somebody else's proof, handed in again under another key with a commitment of its own."""
    shutil.copytree(bench.honest, path)
    return b.resign(path, {m.COMMITMENT: sign_commitment(b.ATTACKER, bench.commitment())})


def bad_step(bench: Bench, path: Path) -> Path:
    """Row 18: one weight moves to the next float32 in one step, and all later steps go on from there."""
    return forge(bench, path, tampering(bench, BAD_STEP, _nudged))


def _nudged(state: Tensors) -> Tensors:
    value = state[WEIGHT].clone()
    value[0, 0] = torch.nextafter(value[0, 0], torch.tensor(float("inf")))
    return {**state, WEIGHT: value}


def last_step_backdoor(bench: Bench, path: Path) -> Path:
    """Row 19: the last step is one on records with a trigger, all of one class, at a large rate."""
    x, y = bench.training.records["x"].clone(), bench.training.records["y"]
    x[:, 0] = 8.0
    poisoned = msgspec.structs.replace(bench.spec, learning_rate=ConstantRate("0.5"))
    records = {"x": x, "y": torch.zeros_like(y)}
    training = replace(bench.training, spec=poisoned, records=records)
    return forge(
        bench,
        path,
        lambda step, state: train_step(training if step == b.STEPS - 1 else bench.training, state, step),
    )


ATTACKS: Final = (
    Attack(6, "stitching two runs", stitched, "wrong_tensor"),
    Attack(7, "momentum injection", injected_momentum, "wrong_tensor"),
    Attack(8, "running statistics edited", edited_buffer, "wrong_tensor"),
    Attack(9, "learning rate overridden", other_rate, "wrong_tensor"),
    Attack(14, "one bit of the final model", flipped_bit, "wrong_final_state"),
    Attack(16, "old proof under another key", taken_over, "wrong_link"),
    Attack(18, "one bad step", bad_step, "wrong_tensor"),
    Attack(19, "backdoor in the last step", last_step_backdoor, "wrong_tensor", Sample(b"nonce", 0)),
)

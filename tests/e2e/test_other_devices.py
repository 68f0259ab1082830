"""Devices other than the CPU: a step stays where its records are, and a GPU computes the roots of the CPU."""

from dataclasses import replace

import pytest
import torch

from families import FAMILIES, start
from tallystick.exact.selftest import run_selftest
from tallystick.program.graph import Profile
from tallystick.program.optimizers import Tensors
from tallystick.program.training import Training, train_step
from tallystick.proof.roots import state_root

STEPS = 20
NO_GPU = "there is no GPU here that torch can use (torch.cuda.is_available() is false): nothing was compared on one"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)


def placed(training: Training, state: Tensors, device: str) -> tuple[Training, Tensors]:
    records = {name: value.to(device) for name, value in training.records.items()}
    return replace(training, records=records), {name: value.to(device) for name, value in state.items()}


@pytest.mark.parametrize("family", ["cnn", "transformer"])
def test_a_step_makes_every_tensor_where_its_records_are(family: str) -> None:
    """On torch's meta device, which is everywhere: it has no values, and refuses to meet a tensor of the CPU."""
    training, state, _ = start(family)
    state, total = train_step(*placed(training, state, "meta"), 0)
    assert {value.device.type for value in [*state.values(), *total.values()]} == {"meta"}


@on_gpu
def test_a_gpu_computes_the_published_vectors() -> None:
    assert [(found.case, found.found) for found in run_selftest("cuda") if not found.passed] == []


@on_gpu
@pytest.mark.parametrize("arithmetic", ["full", "fast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_computes_the_roots_of_the_cpu(family: str, arithmetic: Profile) -> None:
    training, state, _ = start(family, arithmetic)
    there, moved = placed(training, state, "cuda")
    for step in range(STEPS):
        state, _ = train_step(training, state, step)
        moved, _ = train_step(there, moved, step)
        assert state_root(moved, step + 1) == state_root(state, step + 1), f"step {step}"

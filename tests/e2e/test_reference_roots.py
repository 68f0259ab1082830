"""Every family, trained from its program's JSON by the NumPy reference, comes to the state roots of tallystick.

`test_family_roots` compares those over everything that may differ between two CPUs.
"""

import pytest
import torch
from msgspec.structs import replace

from exact_against_reference import to_numpy
from families import FAMILIES, start
from reference.training import Run, State, first_exponents, read, state_root, train_step
from tallystick.program.graph import Profile, encode_program, program_name
from tallystick.program.optimizers import Tensors
from tallystick.program.spec import encode_spec
from tallystick.program.training import Training, prepare_training
from tallystick.program.training import train_step as tallystick_step
from tallystick.proof.roots import state_root as tallystick_root

STEPS = 3


def arrays(tensors: Tensors) -> State:
    return {name: to_numpy(value) for name, value in tensors.items()}


def tensors(state: State) -> Tensors:
    return {name: torch.from_numpy(value.copy()) for name, value in state.items()}


def as_read(training: Training) -> Run:
    return read(encode_program(training.program), encode_spec(training.spec), arrays(training.records))


def roots(training: Training, state: Tensors) -> list[str]:
    found = []
    for step in range(STEPS):
        state, _ = tallystick_step(training, state, step)
        found.append(tallystick_root(state, step + 1))
    return found


def in_profile(training: Training, profile: Profile) -> Training:
    """The same run, without tracing the model again."""
    program = replace(training.program, profile=profile)
    spec = replace(training.spec, program=program_name(encode_program(program)))
    return prepare_training(spec, program, training.records)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_the_roots_of_the_reference(family: str) -> None:
    traced, before, _ = start(family)
    profiles: dict[Profile, list[str]] = {"full": [], "fast": []}
    for profile, expected in profiles.items():
        training = in_profile(traced, profile)
        run, state = as_read(training), arrays(before)
        state |= first_exponents(run, state)
        initial = tensors(state)
        for step in range(STEPS):
            state = train_step(run, state, step)
            expected.append(state_root(state, step + 1))
        assert roots(training, initial) == expected, profile
    assert first_exponents(as_read(traced), arrays(before)).items() <= arrays(before).items()
    assert len({root for expected in profiles.values() for root in expected}) == 2 * STEPS

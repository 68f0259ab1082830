"""A prover who trained falsely and made everything else fit: the segment, the step and the tensor are named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from proof_samples import STEPS, Tamper, sample
from proof_verdicts import at, mismatch, nudge, verdict_of
from tallystick.program.optimizers import Tensors
from tallystick.program.training import LOSS
from tallystick.proof import manifest as m
from tallystick.proof.policy import Listed
from tallystick.proof.roots import state_root_of, tensor_digests
from tallystick.proof.writer import state_name


def recorded(path: Path, step: int) -> dict[str, bytes]:
    """Digests of the tensors in the file with the state before `step`."""
    return tensor_digests(load_file(path / state_name(sample().commitment(), step)))


def with_loss(loss: int) -> Tamper:
    return lambda step, state, total: (state, {**total, LOSS: torch.tensor(loss)})


@pytest.mark.parametrize("name", ["parameter/0.weight", "slot/momentum/2.bias"])
@pytest.mark.parametrize("step", range(STEPS))
def test_one_ulp_in_any_step_is_named(tmp_path: Path, step: int, name: str) -> None:
    """With a root in each step, the step is exact; the tensor is the first that differs at the segment's end."""
    sample().write(tmp_path / "proof", sample().commitment(roots_every=1), tamper=at(step, nudge(name)))
    verdict = mismatch(tmp_path / "proof")
    assert (verdict.segment, verdict.step, verdict.steps) == (step // 3, step, step)
    assert verdict.found != verdict.expected
    if step not in {2, 5, 7}:  # later steps may round the change of a slot away, and then only links tell of it
        assert verdict.code == "wrong_tensor" or (verdict.code == "wrong_link" and name.startswith("slot/"))
    else:
        assert verdict.code == "wrong_tensor"
        assert verdict.tensor == name
        assert verdict.found == recorded(tmp_path / "proof", step + 1)[name].hex()


@pytest.mark.parametrize("step", range(STEPS))
def test_one_ulp_is_found_with_a_root_for_each_segment_alone(tmp_path: Path, step: int) -> None:
    """The loss of a later step may show it, and the segment's end does: never an earlier step or a later segment."""
    sample().write(tmp_path / "proof", tamper=at(step, nudge("parameter/0.weight")))
    verdict = mismatch(tmp_path / "proof")
    assert (verdict.code, verdict.segment) == ("wrong_tensor", step // 3)
    assert verdict.step is not None and step <= verdict.step <= min(step // 3 * 3 + 2, STEPS - 1)


@pytest.mark.parametrize("replaced", [None, b"", b"x" * 100_000])
def test_without_the_false_state_the_roots_are_named_and_the_file_that_is_needed(
    tmp_path: Path, replaced: bytes | None
) -> None:
    """A prover who hands over the states that segments start from, and not what a false one ends in."""
    sample().write(tmp_path / "proof", tamper=at(4, nudge("parameter/0.bias")))
    file = tmp_path / "proof" / m.CHECKPOINTS / "00000006.safetensors"
    state = recorded(tmp_path / "proof", 6)
    file.unlink()
    if replaced is not None:
        file.write_bytes(replaced)
    verdict = mismatch(tmp_path / "proof", Listed((0, 1)))
    assert (verdict.code, verdict.segment, verdict.tensor) == ("wrong_root", 1, None)
    assert verdict.found == state_root_of(state, 6) and verdict.expected != verdict.found
    assert "checkpoints/00000006.safetensors" in verdict.reason


def test_the_first_of_two_false_segments_is_named(tmp_path: Path) -> None:
    sample().write(
        tmp_path / "proof", tamper=lambda *now: nudge("parameter/0.bias")(*now) if now[0] in {4, 7} else now[1:]
    )
    assert mismatch(tmp_path / "proof").segment == 1
    assert mismatch(tmp_path / "proof", Listed((2,))).segment == 2


def test_a_sample_that_misses_the_false_segment_says_what_it_did_not_do(tmp_path: Path) -> None:
    sample().write(tmp_path / "proof", tamper=at(4, nudge("parameter/0.bias")))
    verdict = verdict_of(tmp_path / "proof", Listed((0, 2)))
    assert (verdict.outcome, verdict.checked) == ("verified", [0, 2]) and verdict.coverage < 1
    assert "the others were not" in verdict.reason


@pytest.mark.parametrize(("step", "code"), [(4, "wrong_loss"), (5, "wrong_total")])
def test_a_false_loss_is_named(tmp_path: Path, step: int, code: str) -> None:
    sample().write(tmp_path / "proof", tamper=at(step, with_loss(12345)))
    verdict = mismatch(tmp_path / "proof")
    assert (verdict.code, verdict.segment, verdict.step) == (code, 1, step)


def test_a_skipped_step_is_named(tmp_path: Path) -> None:
    before: dict[int, Tensors] = {-1: sample().initial}

    def stand_still(step: int, state: Tensors, total: Tensors) -> tuple[Tensors, Tensors]:
        before[step] = before[step - 1] if step == 3 else state
        return before[step], total

    sample().write(tmp_path / "proof", sample().commitment(roots_every=1), tamper=stand_still)
    verdict = mismatch(tmp_path / "proof")
    assert (verdict.segment, verdict.step) == (1, 3)

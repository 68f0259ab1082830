"""A child is verified with its parents and starts where they ended; what was verified is remembered."""

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from proof_samples import Sample, run_sample, sample
from tallystick.proof.commitment import Parent
from tallystick.proof.directory import Places, open_proof, read_state
from tallystick.proof.lineage import Remembered, final_model, parent_of, verify_lineage
from tallystick.proof.policy import FULL
from tallystick.proof.policy import Sample as Drawn
from tallystick.proof.verdict import Verdict
from tallystick.proof.verify import How, verify


def full(places: Places) -> Verdict:
    return verify(places, How(FULL))


class Counted:
    """Verifies, and remembers what was verified."""

    def __init__(self) -> None:
        self.seen: list[Path] = []

    def __call__(self, places: Places) -> Verdict:
        self.seen.append(places.proof)
        return full(places)


def child_of(path: Path, changed: float = 0.0) -> Sample:
    """A run that goes on from the model of the proof at `path`, with one weight changed by `changed`."""
    proof = open_proof(Places(path))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model.load_state_dict(final_model(proof))
    with torch.no_grad():
        next(model.parameters())[0, 0] += changed
    return run_sample(model, dict(sample().training.records), None)


@functools.cache
def family(folder: Path) -> tuple[Places, Places, Places]:
    """Grandparent, parent, child."""
    sample().write(folder / "a")
    generations = [Places(folder / "a")]
    for name in "bc":
        before = open_proof(generations[-1])
        run = child_of(before.places.proof)
        run.write(folder / name, run.commitment(parent=parent_of(before)))
        generations.append(Places(folder / name))
    return generations[0], generations[1], generations[2]


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Places, Places, Places]:
    return family(tmp_path_factory.mktemp("family"))


Generations = tuple[Places, Places, Places]


def test_a_child_is_verified_together_with_all_its_ancestors(generations: Generations) -> None:
    a, b, c = generations
    verdict = verify_lineage(c, [a, b], "full", full)
    assert verdict.outcome == "verified"
    assert [each.proof for each in verdict.parents] == [open_proof(b).signature, open_proof(a).signature]


def test_a_parent_that_was_not_handed_over_is_asked_for(generations: Generations) -> None:
    a, b, c = generations
    verdict = verify_lineage(c, [b], "full", full)
    assert (verdict.outcome, verdict.code) == ("could_not_check", "missing_parent")
    assert open_proof(a).signature in verdict.reason and "--parent" in verdict.reason


def test_what_was_verified_is_not_verified_again(generations: Generations, tmp_path: Path) -> None:
    a, b, c = generations
    memory, first, second = Remembered(tmp_path / "verdicts"), Counted(), Counted()
    assert verify_lineage(c, [a, b], "full", first, memory).outcome == "verified"
    assert verify_lineage(c, [a, b], "full", second, memory).outcome == "verified"
    assert first.seen == [c.proof, b.proof, a.proof]
    assert second.seen == [c.proof], "the proof at hand is always verified, its ancestors once"


def test_a_weaker_or_broken_memory_does_not_count(generations: Generations, tmp_path: Path) -> None:
    a, b, c = generations
    memory, name = Remembered(tmp_path), open_proof(a).signature
    memory.keep(verify(a, How(Drawn(b"nonce", 0))))
    assert memory.find(name, "sample") is not None and memory.find(name, "full") is None
    counted = Counted()
    verify_lineage(c, [a, b], "full", counted, memory)
    assert counted.seen == [c.proof, b.proof, a.proof]
    (tmp_path / f"{name}.json").write_bytes(b"{}")
    assert memory.find(name, "full") is None
    assert memory.find("../" + name, "full") is None


def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    Remembered(tmp_path / "v").keep(Verdict(outcome="mismatch", code="c", reason="r", proof="0" * 64, policy="full"))
    assert not (tmp_path / "v").exists()


def test_a_child_that_starts_one_bit_off_is_a_false_claim(generations: Generations, tmp_path: Path) -> None:
    a, _, _ = generations
    run = child_of(a.proof, changed=2.0**-20)
    run.write(tmp_path / "x", run.commitment(parent=parent_of(open_proof(a))))
    assert full(Places(tmp_path / "x")).outcome == "verified", "alone it is a proof like any other"
    verdict = verify_lineage(Places(tmp_path / "x"), [a], "full", full)
    assert (verdict.outcome, verdict.code) == ("mismatch", "wrong_parent")
    assert "parameter/0.weight" in verdict.reason


def test_a_parent_with_another_end_than_the_commitment_says_is_a_false_claim(
    generations: Generations, tmp_path: Path
) -> None:
    a, _, _ = generations
    run = child_of(a.proof)
    run.write(tmp_path / "x", run.commitment(parent=Parent(open_proof(a).signature, "0" * 64)))
    assert verify_lineage(Places(tmp_path / "x"), [a], "full", full).code == "wrong_parent"


def test_a_bad_parent_makes_a_bad_child(tmp_path: Path) -> None:
    """The parent's prover changed a weight in the middle of its training, and the child was trained on honestly."""

    def tamper(step: int, state: dict[str, torch.Tensor], total: dict[str, torch.Tensor]) -> object:
        if step == 4:
            state = state | {"parameter/0.bias": state["parameter/0.bias"] + 1}
        return state, total

    sample().write(tmp_path / "a", tamper=tamper)  # type: ignore[arg-type]
    run = child_of(tmp_path / "a")
    run.write(tmp_path / "b", run.commitment(parent=parent_of(open_proof(Places(tmp_path / "a")))))
    verdict = verify_lineage(Places(tmp_path / "b"), [Places(tmp_path / "a")], "full", full)
    assert verdict.outcome == "mismatch" and verdict.reason.startswith("its ancestor 1 back: ")


def test_the_model_that_is_handed_on_has_its_own_names(generations: Generations) -> None:
    a, _, _ = generations
    proof = open_proof(a)
    state = read_state(proof, proof.commitment.steps)
    model = final_model(proof)
    assert sorted(model) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert torch.equal(model["0.weight"], state["parameter/0.weight"])

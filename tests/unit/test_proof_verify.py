"""Verdicts: honest proofs are verified, and what cannot be checked says why."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

from proof_samples import (
    ATTACKER,
    PROVER,
    SEGMENTS,
    STEPS,
    Sample,
    run_sample,
    sample,
)
from proof_verdicts import at, mismatch, nudge, verdict_of
from tallystick.canon.hashing import blob_name
from tallystick.exact.kernels import KERNELS
from tallystick.program.optimizers import Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import encode_spec
from tallystick.program.tensors import to_blob
from tallystick.program.training import accuracy, initial_state, prepare_training, train_step
from tallystick.proof import manifest as m
from tallystick.proof.directory import Places
from tallystick.proof.policy import Listed
from tallystick.proof.policy import Sample as Drawn
from tallystick.proof.recorder import Recorder, train
from tallystick.proof.roots import records_root, state_root
from tallystick.proof.verify import How, verify


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    sample().write(tmp_path / "proof")
    return tmp_path / "proof"


# ---- honest proofs


def test_an_honest_proof_is_verified(proof: Path) -> None:
    run, seen = sample(), []
    verdict = verify(Places(proof), How(), lambda done, steps, loss: seen.append((done, steps, loss)))
    assert (verdict.outcome, verdict.code, verdict.exit_code, verdict.steps) == ("verified", "verified", 0, STEPS)
    assert (verdict.prover, verdict.network, verdict.task) == (PROVER.identity, "testnet", "0" * 64)
    assert verdict.spec == blob_name(encode_spec(run.training.spec))
    assert verdict.final_root == state_root(run.final, STEPS)
    assert (verdict.checked, verdict.segments, verdict.coverage) == ([0, 1, 2], SEGMENTS, 1.0)
    assert run.run.test is not None and verdict.test_accuracy == accuracy(run.training, run.final, run.run.test)
    assert [entry[0] for entry in seen if entry[2] is not None] == list(range(1, STEPS + 1))
    assert {entry[1] for entry in seen} == {STEPS}


def test_training_reports_what_verification_reports(proof: Path, tmp_path: Path) -> None:
    recorded: list[float] = []
    verified: list[float] = []
    with Recorder(tmp_path / "again", PROVER, sample().run, sample().commitment()) as recorder:
        assert train(recorder, lambda step, steps, loss: recorded.append(loss))
    verify(Places(proof), How(), lambda done, steps, loss: verified.append(loss) if loss is not None else None)
    assert recorded == verified and len(recorded) == STEPS


@pytest.mark.parametrize("segment", [1, 2, STEPS])
@pytest.mark.parametrize("roots_every", [1, 2])
def test_segments_and_roots_may_be_of_any_length(tmp_path: Path, segment: int, roots_every: int) -> None:
    sample().write(tmp_path / "proof", sample().commitment(segment, min(segment, roots_every)))
    assert verdict_of(tmp_path / "proof").outcome == "verified"


def test_a_verdict_is_json_for_programs(proof: Path) -> None:
    fields = msgspec.json.decode(verdict_of(proof).to_json())
    assert fields["outcome"] == "verified" and fields["steps"] == STEPS and fields["step"] is None


def test_somebody_elses_proof_says_so(tmp_path: Path) -> None:
    sample().write(tmp_path / "proof", key=ATTACKER)
    assert (verdict_of(tmp_path / "proof").outcome, verdict_of(tmp_path / "proof").prover) == (
        "verified",
        ATTACKER.identity,
    )


def test_a_sample_says_how_much_it_was(proof: Path) -> None:
    verdict = verdict_of(proof, Drawn(b"nonce", 0))
    assert (verdict.outcome, verdict.checked, verdict.steps) == ("verified", [0, 2], 5)
    assert verdict.coverage == 5 / STEPS and "2 of 3 segments (5 of 8 steps)" in verdict.reason
    assert [(chance.bad, chance.probability) for chance in verdict.detection] == [(1, 0.0)]
    assert verdict.nonce == b"nonce".hex()


def test_a_model_with_buffers_is_verified(tmp_path: Path) -> None:
    torch.manual_seed(4)
    records = {"x": torch.randn(40, 6), "y": torch.arange(40) % 3}
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    run_sample(model, records, None).write(tmp_path / "proof")
    assert verdict_of(tmp_path / "proof").outcome == "verified"


# ---- starts and specifications that cannot be trained from


def written_with(path: Path, initial: Tensors) -> Path:
    """A proof whose specification has this start, and whose steps go as far as they can."""
    old = sample().training
    spec = msgspec.structs.replace(
        old.spec, initial_state=blob_name(to_blob(initial)), initial_root=state_root(initial, 0)
    )
    training = prepare_training(spec, old.program, old.records)
    run = Sample(replace(sample().run, training=training, initial=initial), sample().final)
    run.write(path)
    return path


def test_a_chosen_exponent_with_which_training_stands_still_is_named(tmp_path: Path) -> None:
    name = "exponent/0.weight"
    initial = {**sample().initial, name: torch.tensor(60, dtype=torch.int32)}
    verdict = mismatch(written_with(tmp_path / "proof", initial))
    assert (verdict.code, verdict.tensor, verdict.found) == ("wrong_exponent", name, "60")
    assert verdict.expected == str(int(sample().initial[name]))


def test_a_proof_from_another_start_is_a_proof_of_another_specification(proof: Path, tmp_path: Path) -> None:
    """Any start can be specified, momentum included; the verdict says which specification was proved."""
    initial = {**sample().initial, "slot/momentum/0.bias": torch.full((8,), 0.5)}
    verdict = verdict_of(written_with(tmp_path / "other", initial))
    assert verdict.outcome == "verified" and verdict.spec != verdict_of(proof).spec


def test_a_run_that_diverges_is_a_mismatch(tmp_path: Path) -> None:
    """The first step of the specified training has a result and the second has none, whatever the transcript says."""
    rate = "999999999"
    old = sample().training
    training = replace(old, spec=msgspec.structs.replace(old.spec, learning_rate=ConstantRate(rate)))
    parameters = {name: sample().initial[f"parameter/{name}"] * 1e15 for name in training.parameters}
    slots = {name: sample().initial[f"slot/{name}"] for name in training.slots}
    initial = initial_state(training, parameters, slots)
    after = train_step(training, initial, 0)
    path = written_with_made_up_steps(tmp_path / "proof", training.spec.learning_rate, initial, after)
    verdict = mismatch(path)
    assert (verdict.code, verdict.step, verdict.steps, verdict.segment) == ("not_finite", 1, 1, 0)
    assert "infinity or a NaN" in verdict.reason


def written_with_made_up_steps(
    path: Path, rate: object, initial: Tensors, first: tuple[Tensors, Tensors] | None
) -> Path:
    """A proof of steps that nobody computed: after `first`, the states of the honest sample."""
    old = sample().training
    root = state_root(initial, 0)
    spec = msgspec.structs.replace(
        old.spec, initial_root=root, initial_state=blob_name(to_blob(initial)), learning_rate=rate
    )
    training = prepare_training(spec, old.program, old.records)
    run = Sample(replace(sample().run, training=training, initial=initial), sample().final)
    _, total = train_step(old, sample().initial, 0)
    with Recorder(path, PROVER, run.run, run.commitment()) as recorder:
        for step in range(STEPS):
            recorder.add(*(first if step == 0 and first else (sample().final, total)))
        recorder.finish()
    return path


def test_a_start_without_a_gradient_is_a_mismatch(tmp_path: Path) -> None:
    initial = {name: value * 1e30 if value.is_floating_point() else value for name, value in sample().initial.items()}
    path = written_with_made_up_steps(tmp_path / "proof", sample().training.spec.learning_rate, initial, None)
    assert (mismatch(path).code, mismatch(path).steps) == ("not_finite", 0)


def test_records_on_which_the_program_cannot_run_are_not_checked(tmp_path: Path) -> None:
    """A label past the last class: torch raises, and the verdict says that the run cannot be executed again."""
    old = sample().training
    records = {**old.records, "y": torch.full((40,), 99)}
    data = msgspec.structs.replace(old.spec.train, root=records_root(records))
    training = replace(old, spec=msgspec.structs.replace(old.spec, train=data), records=records)
    run = Sample(replace(sample().run, training=training), sample().final)
    _, total = train_step(old, sample().initial, 0)
    with Recorder(tmp_path / "proof", PROVER, run.run, run.commitment()) as recorder:
        for _ in range(STEPS):
            recorder.add(sample().final, total)
        recorder.finish()
    verdict = verdict_of(tmp_path / "proof")
    assert (verdict.outcome, verdict.exit_code, verdict.code) == ("could_not_check", 1, "index_out_of_range")
    assert verdict.prover == PROVER.identity


def test_a_machine_on_which_an_operator_fails_cannot_check(proof: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for an allocation that fails in the middle of a step."""

    gather = KERNELS["aten.gather.default"]

    def fail(x: Tensor, *arguments: object) -> Tensor:
        if not x.is_meta:
            raise RuntimeError("DefaultCPUAllocator: not enough memory\nmore")
        return gather(x, *arguments)

    monkeypatch.setitem(KERNELS, "aten.gather.default", fail)
    verdict = verdict_of(proof)
    assert (verdict.outcome, verdict.code, verdict.exit_code) == ("could_not_check", "not_executable", 1)
    assert verdict.reason.endswith("RuntimeError: DefaultCPUAllocator: not enough memory")


def test_a_model_that_does_not_classify_has_no_accuracy(tmp_path: Path) -> None:
    torch.manual_seed(3)
    records = {"x": torch.randn(40, 6), "y": torch.randn(40, 1)}
    run: Sample = run_sample(nn.Sequential(nn.Linear(6, 1)), records, records)
    run.write(tmp_path / "proof")
    verdict = verdict_of(tmp_path / "proof")
    assert (verdict.outcome, verdict.test_accuracy) == ("verified", None)


# ---- what does not lie with the proof


def test_a_missing_checkpoint_is_asked_for(proof: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.move(proof / m.CHECKPOINTS, archive)
    verdict = verdict_of(proof)
    assert (verdict.outcome, verdict.code, verdict.exit_code) == ("could_not_check", "missing_checkpoint", 1)
    assert "checkpoints/00000003.safetensors, checkpoints/00000006.safetensors" in verdict.reason
    assert verdict_of(proof, Listed((0,))).outcome == "verified"
    assert verify(Places(proof, checkpoints=archive), How()).outcome == "verified"


def test_missing_records_are_asked_for(proof: Path, tmp_path: Path) -> None:
    shutil.move(proof / m.TRAIN, tmp_path / "records")
    (proof / m.TEST).unlink()
    verdict = verdict_of(proof)
    assert (verdict.outcome, verdict.code) == ("could_not_check", "missing_data") and "--data" in verdict.reason
    verdict = verify(Places(proof, data=tmp_path / "records"), How())
    assert (verdict.outcome, verdict.test_accuracy) == ("verified", None)


def test_more_work_than_was_agreed_to_is_refused(proof: Path) -> None:
    assert verify(Places(proof), How(max_steps=STEPS)).outcome == "verified"
    verdict = verify(Places(proof), How(max_steps=STEPS - 1))
    assert (verdict.outcome, verdict.code) == ("could_not_check", "too_many_steps")


def test_segments_that_do_not_exist_are_refused(proof: Path) -> None:
    for odd in ((3,), (-1,), ()):
        assert verdict_of(proof, Listed(odd)).code == "no_such_segment"


# ---- processes


def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    sample().write(tmp_path / "proof", sample().commitment(2), tamper=at(3, nudge("parameter/0.bias")))
    one, two = (verify(Places(tmp_path / "proof"), How(jobs=jobs)) for jobs in (1, 2))
    assert one == two and (one.outcome, one.segment) == ("mismatch", 1)

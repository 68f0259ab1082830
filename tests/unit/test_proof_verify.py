"""Verdicts: honest proofs are verified, false ones are named where they are false."""

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
    Tamper,
    nudged,
    resign,
    run_sample,
    sample,
    sample_of,
    segments_of,
)
from tallystick.canon.hashing import blob_name
from tallystick.exact.kernels import KERNELS
from tallystick.program.graph import encode_program
from tallystick.program.optimizers import Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import encode_spec
from tallystick.program.tensors import to_blob
from tallystick.program.training import LOSS, accuracy, initial_state, prepare_training, train_step
from tallystick.proof import manifest as m
from tallystick.proof.commitment import Commitment, open_commitment, sign_commitment
from tallystick.proof.directory import Places
from tallystick.proof.policy import FULL, Listed, Policy
from tallystick.proof.policy import Sample as Drawn
from tallystick.proof.recorder import Recorder, train
from tallystick.proof.roots import records_root, state_root, tensor_digests
from tallystick.proof.segments import encode_segment
from tallystick.proof.transcript import LINK_BYTES, extend
from tallystick.proof.verdict import Verdict
from tallystick.proof.verify import How, verify

OTHER = "f" * 64


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "proof"
    sample().write(path)
    return path


@pytest.fixture
def proof(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "proof"))


def verdict_of(path: Path, policy: Policy = FULL) -> Verdict:
    return verify(Places(path), How(policy))


def mismatch(path: Path, policy: Policy = FULL) -> Verdict:
    verdict = verdict_of(path, policy)
    assert (verdict.outcome, verdict.exit_code, verdict.prover) == ("mismatch", 2, PROVER.identity), verdict
    return verdict


def at(step: int, change: Tamper) -> Tamper:
    """A prover who is dishonest in one step."""
    return lambda now, state, total: change(now, state, total) if now == step else (state, total)


def nudge(name: str) -> Tamper:
    return lambda step, state, total: (nudged(state, name), total)


def with_loss(loss: int) -> Tamper:
    return lambda step, state, total: (state, {**total, LOSS: torch.tensor(loss)})


def relink(path: Path, index: int, **changes: object) -> None:
    """Changes a segment's line, makes the last link of the transcript fit if it is the last, and signs."""
    segments = segments_of(path)
    segments[index] = msgspec.structs.replace(segments[index], **changes)
    links = bytearray((path / m.TRANSCRIPT).read_bytes())
    end = segments[index].step * LINK_BYTES
    before = bytes(links[end - 2 * LINK_BYTES : end - LINK_BYTES])
    links[end - LINK_BYTES : end] = extend(before, segments[index].entry)
    resign(path, {m.TRANSCRIPT: bytes(links), m.SEGMENTS: b"".join(map(encode_segment, segments))})


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


# ---- false training, with everything else made to fit


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
        assert verdict.found == segments_of(tmp_path / "proof")[step // 3].tensors[sorted(sample().initial).index(name)]


@pytest.mark.parametrize("step", range(STEPS))
def test_one_ulp_is_found_with_a_root_for_each_segment_alone(tmp_path: Path, step: int) -> None:
    """The loss of a later step may show it, and the segment's end does: never an earlier step or a later segment."""
    sample().write(tmp_path / "proof", tamper=at(step, nudge("parameter/0.weight")))
    verdict = mismatch(tmp_path / "proof")
    assert (verdict.code, verdict.segment) == ("wrong_tensor", step // 3)
    assert verdict.step is not None and step <= verdict.step <= min(step // 3 * 3 + 2, STEPS - 1)


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


# ---- lines, links and statements that do not fit


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"total": OTHER}, "wrong_total"),
        ({"loss": 12345}, "wrong_loss"),
        ({"batch": OTHER}, "wrong_batch"),
        ({"mean_loss": 12345}, "wrong_loss"),
        ({"update": "1.0e+00"}, "wrong_update"),
        ({"update": None}, "wrong_update"),
        ({"root": OTHER}, "wrong_root"),
        ({"tensors": [OTHER] * 12}, "wrong_root"),
    ],
)
def test_a_field_of_a_line_that_is_false_is_named(proof: Path, changes: dict[str, object], code: str) -> None:
    relink(proof, 1, **changes)
    verdict = mismatch(proof)
    assert (verdict.code, verdict.segment, verdict.step) == (code, 1, 5)
    assert verdict.found != verdict.expected


def test_a_line_that_names_another_file_for_its_state_is_named(proof: Path) -> None:
    relink(proof, 1, state=OTHER)
    verdict = mismatch(proof, Listed((0, 1)))
    assert (verdict.code, verdict.segment, verdict.found) == ("wrong_checkpoint", 1, OTHER)
    assert verdict_of(proof, Listed((2,))).code == "wrong_digest"


def test_a_checkpoint_that_is_not_the_state_of_its_line_is_named(proof: Path) -> None:
    """Both are signed, and they differ."""
    false = to_blob(nudged(sample().final, "parameter/0.bias"))
    (proof / m.CHECKPOINTS / "00000003.safetensors").write_bytes(false)
    relink(proof, 0, state=blob_name(false))
    verdict = mismatch(proof, Listed((1,)))
    assert (verdict.code, verdict.segment, verdict.step) == ("wrong_checkpoint", 1, 3)
    assert verdict.tensor == sorted(sample().initial)[0] and verdict.found != verdict.expected


@pytest.mark.parametrize("step", [0, 1, 3, 6])
def test_a_link_inside_of_a_segment_that_is_false_is_named(proof: Path, step: int) -> None:
    links = bytearray((proof / m.TRANSCRIPT).read_bytes())
    right = bytes(links[step * LINK_BYTES : (step + 1) * LINK_BYTES]).hex()
    links[step * LINK_BYTES : (step + 1) * LINK_BYTES] = bytes(LINK_BYTES)
    resign(proof, {m.TRANSCRIPT: bytes(links)})
    verdict = mismatch(proof)
    if step in {1, 6}:  # the last step of the segment no longer follows from it
        assert (verdict.code, verdict.step) == ("broken_chain", step + 1)
    else:
        assert (verdict.code, verdict.step, verdict.expected, verdict.found) == ("wrong_link", step, right, "0" * 64)


def test_lines_that_are_out_of_order_are_named(proof: Path) -> None:
    lines = (proof / m.SEGMENTS).read_bytes().splitlines(keepends=True)
    resign(proof, {m.SEGMENTS: lines[0] + lines[2] + lines[1]})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.segment, verdict.expected, verdict.found) == ("wrong_step", 1, "6", "8")


def test_a_transcript_of_another_run_is_named(proof: Path, tmp_path: Path) -> None:
    sample_of(seed=2).write(tmp_path / "other")
    resign(proof, {m.TRANSCRIPT: (tmp_path / "other" / m.TRANSCRIPT).read_bytes()})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.segment, verdict.step) == ("broken_chain", 0, 2)


@pytest.mark.parametrize("name", [m.TRANSCRIPT, m.SEGMENTS])
def test_a_half_spliced_from_another_run_is_named(proof: Path, tmp_path: Path, name: m.FileName) -> None:
    sample_of(seed=2).write(tmp_path / "other")
    own, other = (proof / name).read_bytes(), (tmp_path / "other" / name).read_bytes()
    if name == m.SEGMENTS:
        spliced = own.splitlines(keepends=True)[:1] + other.splitlines(keepends=True)[1:]
        resign(proof, {name: b"".join(spliced)})
    else:
        resign(proof, {name: own[: 3 * LINK_BYTES] + other[3 * LINK_BYTES :]})
    assert (mismatch(proof).code, mismatch(proof).segment) == ("broken_chain", 1)


@pytest.mark.parametrize("field", ["link", "root", "model"])
def test_a_statement_that_is_not_the_last_segments_is_named(proof: Path, field: str) -> None:
    resign(proof, statement={field: OTHER})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.found, verdict.segment) == ("wrong_statement", OTHER, SEGMENTS - 1)


@pytest.mark.parametrize("name", ["parameter/0.weight", "slot/momentum/2.bias"])
def test_one_ulp_in_a_final_tensor_is_named(proof: Path, name: str) -> None:
    final = nudged(sample().final, name)
    resign(proof, {m.FINAL: to_blob(final)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.tensor) == ("wrong_final_state", STEPS - 1, name)
    assert verdict.expected == tensor_digests(sample().final)[name].hex()
    assert verdict.found == tensor_digests(final)[name].hex()


# ---- commitments


@pytest.mark.parametrize(
    ("field", "value"),
    [("spec", OTHER), ("program", OTHER), ("profile", "fast"), ("data", OTHER), ("initial", OTHER), ("steps", 9)],
)
def test_a_commitment_to_something_else_is_named(proof: Path, field: str, value: object) -> None:
    changed = msgspec.structs.replace(sample().commitment(), **{field: value})
    links = (proof / m.TRANSCRIPT).read_bytes()
    transcript = links + bytes(LINK_BYTES) if field == "steps" else links
    resign(proof, {m.COMMITMENT: sign_commitment(PROVER, changed), m.TRANSCRIPT: transcript})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.found) == ("wrong_commitment", str(value))


@pytest.mark.parametrize(
    "change",
    [{"attempt": 2}, {"segment": 4}, {"roots_every": 1}, {"network": None}, {"task": "1" * 64}],
)
def test_another_commitment_cannot_be_put_under_a_transcript(proof: Path, change: dict[str, object]) -> None:
    changed: Commitment = msgspec.structs.replace(sample().commitment(), **change)
    resign(proof, {m.COMMITMENT: sign_commitment(PROVER, changed)})
    verdict = verdict_of(proof)
    if "segment" in change:
        assert verdict.code in {"wrong_step", "malformed"}
    else:
        assert (verdict.outcome, verdict.step) == ("mismatch", 0)


def test_a_thief_cannot_sign_the_prover_s_transcript(proof: Path) -> None:
    """It begins with the prover's signature; with another one under it, its first step does not follow."""
    _, commitment = open_commitment((proof / m.COMMITMENT).read_bytes())
    resign(proof, {m.COMMITMENT: sign_commitment(ATTACKER, commitment)}, key=ATTACKER)
    verdict = verdict_of(proof)
    assert (verdict.outcome, verdict.code, verdict.step) == ("mismatch", "wrong_link", 0)


def test_a_commitment_by_somebody_else_is_refused(proof: Path) -> None:
    resign(proof, key=ATTACKER)
    assert (verdict_of(proof).outcome, verdict_of(proof).code) == ("could_not_check", "other_prover")


# ---- files that are not what the specification names


def test_another_program_is_named(proof: Path) -> None:
    """It has one node more, whose result nobody uses: same tensors, other name."""
    program = sample().training.program
    update = program.update
    longer = msgspec.structs.replace(update, nodes=[*update.nodes, update.nodes[-1]])
    encoded = encode_program(msgspec.structs.replace(program, update=longer))
    resign(proof, {m.PROGRAM: encoded})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.found) == ("wrong_program", blob_name(encoded))
    assert verdict.expected == sample().training.spec.program


def test_another_initial_state_is_named(proof: Path) -> None:
    initial = nudged(sample().initial, "parameter/0.weight")
    resign(proof, {m.INITIAL: to_blob(initial)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.expected) == ("wrong_initial_state", sample().training.spec.initial_root)
    assert verdict.found == state_root(initial, 0)


@pytest.mark.parametrize(("name", "code"), [(m.TRAIN, "wrong_train_data"), (m.TEST, "wrong_test_data")])
def test_a_flipped_label_is_named(proof: Path, name: m.FileName, code: str) -> None:
    records = sample().training.records if name == m.TRAIN else sample().run.test
    assert records is not None
    label = (records["y"] + torch.nn.functional.one_hot(torch.tensor(3), len(records["y"]))) % 3
    relabeled = {"x": records["x"], "y": label}
    resign(proof, {name: to_blob(relabeled)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.found) == (code, records_root(relabeled))


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

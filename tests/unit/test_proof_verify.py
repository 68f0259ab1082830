"""Verdicts: honest proofs are verified, false ones are named where they are false."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

from proof_samples import (
    ATTACKER,
    MICRO_BATCHES,
    PROVER,
    STEPS,
    Sample,
    forge,
    nudged,
    rechained,
    run_sample,
    sample,
    sample_of,
)
from tallystick.canon.hashing import blob_name
from tallystick.exact.kernels import KERNELS
from tallystick.program.graph import encode_program
from tallystick.program.optimizers import Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import encode_spec
from tallystick.program.tensors import to_blob
from tallystick.program.training import accuracy, initial_state, mean_loss, train_step
from tallystick.proof import manifest as m
from tallystick.proof.directory import Proof, read_proof
from tallystick.proof.recording import entry_for, record
from tallystick.proof.roots import STATE, records_root, root_from_digests, state_root, tensor_digests
from tallystick.proof.transcript import Entry, encode_transcript
from tallystick.proof.verdict import Verdict
from tallystick.proof.verify import verify

OTHER = "f" * 64


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "proof"
    sample().write(path)
    return path


@pytest.fixture
def proof(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "proof"))


def mismatch(path: Path) -> Verdict:
    verdict = verify(path)
    assert (verdict.outcome, verdict.exit_code, verdict.prover) == ("mismatch", 2, ATTACKER.identity), verdict
    return verdict


def forge_entries(path: Path, change: Callable[[list[Entry]], Sequence[Entry]]) -> Proof:
    """Changes the entries of a proof and makes chain, manifest and signature fit; returns the honest proof."""
    honest = read_proof(path)
    forge(path, {m.TRANSCRIPT: rechained(honest, change([link.entry for link in honest.links]))})
    return honest


def altered(step: int, **changes: object) -> Callable[[list[Entry]], list[Entry]]:
    def change(entries: list[Entry]) -> list[Entry]:
        entries[step] = msgspec.structs.replace(entries[step], **changes)
        return entries

    return change


def with_tensor(entries: list[Entry], step: int, place: int) -> list[str]:
    tensors = list(entries[step].tensors)
    tensors[place] = OTHER
    return tensors


def test_an_honest_proof_is_verified(proof: Path) -> None:
    run, seen = sample(), []
    verdict = verify(proof, lambda step, total, loss: seen.append((step, total, loss)))
    assert (verdict.outcome, verdict.code, verdict.exit_code, verdict.steps) == ("verified", "verified", 0, STEPS)
    assert (verdict.prover, verdict.network, verdict.task) == (PROVER.identity, "testnet", "0" * 64)
    assert verdict.spec == blob_name(encode_spec(run.training.spec))
    assert verdict.final_root == state_root(run.final, STEPS)
    assert run.test is not None and verdict.test_accuracy == accuracy(run.training, run.final, run.test)
    losses = [mean_loss(entry.loss, MICRO_BATCHES) for entry in run.entries]
    assert seen == [(step + 1, STEPS, loss) for step, loss in enumerate(losses)]


def test_recording_reports_what_verification_reports(proof: Path) -> None:
    recorded: list[object] = []
    verified: list[object] = []
    record(sample().training, sample().initial, lambda *report: recorded.append(report))
    verify(proof, lambda *report: verified.append(report))
    assert recorded == verified


def test_a_verdict_is_json_for_programs(proof: Path) -> None:
    fields = msgspec.json.decode(verify(proof).to_json())
    assert fields["outcome"] == "verified" and fields["steps"] == STEPS and fields["step"] is None


def test_a_proof_signed_by_somebody_else_says_so(proof: Path) -> None:
    forge(proof, {})
    assert (verify(proof).outcome, verify(proof).prover) == ("verified", ATTACKER.identity)


@pytest.mark.parametrize("name", ["parameter/0.weight", "slot/momentum/2.bias"])
def test_one_ulp_in_a_final_tensor_is_named(proof: Path, name: str) -> None:
    final = nudged(sample().final, name)
    forge(proof, {m.FINAL: to_blob(final)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.tensor) == ("wrong_final_state", STEPS - 1, name)
    assert verdict.expected == tensor_digests(sample().final)[name].hex()
    assert verdict.found == tensor_digests(final)[name].hex()


def test_one_ulp_in_the_final_state_and_in_the_last_entry_is_named_by_re_execution(proof: Path) -> None:
    name = "parameter/2.bias"
    final = nudged(sample().final, name)
    digests = tensor_digests(final)
    change = altered(STEPS - 1, root=state_root(final, STEPS), tensors=[value.hex() for value in digests.values()])
    honest = forge_entries(proof, change)
    forge(proof, {m.FINAL: to_blob(final)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.tensor) == ("wrong_tensor", STEPS - 1, name)
    assert verdict.found == digests[name].hex()
    assert verdict.expected == honest.links[-1].entry.tensors[list(digests).index(name)]
    assert (verdict.steps, verdict.final_root) == (STEPS - 1, state_root(final, STEPS))


@pytest.mark.parametrize("place", range(12))
def test_a_digest_altered_midway_is_named(proof: Path, place: int) -> None:
    honest = forge_entries(proof, lambda entries: altered(1, tensors=with_tensor(entries, 1, place))(entries))
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.tensor) == ("wrong_tensor", 1, sorted(honest.initial)[place])
    assert (verdict.expected, verdict.found) == (honest.links[1].entry.tensors[place], OTHER)
    assert verdict.steps == 1


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"total": OTHER}, "wrong_total", "total"),
        ({"loss": 12345}, "wrong_loss", "loss"),
        ({"root": OTHER}, "wrong_root", "root"),
    ],
)
def test_a_field_altered_midway_is_named(proof: Path, changes: dict[str, object], code: str, field: str) -> None:
    honest = forge_entries(proof, altered(1, **changes))
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.tensor) == (code, 1, None)
    assert verdict.expected == str(getattr(honest.links[1].entry, field))
    assert verdict.found == str(changes[field])


def test_the_first_of_two_false_steps_is_named(proof: Path) -> None:
    forge_entries(proof, lambda entries: altered(2, loss=1)(altered(1, loss=2)(entries)))
    assert mismatch(proof).step == 1


def test_reordered_entries_are_named(proof: Path) -> None:
    forge_entries(proof, lambda entries: [entries[0], entries[2], entries[1]])
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.expected, verdict.found) == ("wrong_step", 1, "1", "2")


def test_reordered_and_renumbered_entries_are_named(proof: Path) -> None:
    def swap(entries: list[Entry]) -> list[Entry]:
        order = [entries[0], entries[2], entries[1]]
        return [msgspec.structs.replace(entry, step=step) for step, entry in enumerate(order)]

    forge_entries(proof, swap)
    forge(proof, {m.FINAL: to_blob(sample().final)})
    assert mismatch(proof).code == "wrong_final_state"


@pytest.mark.parametrize("count", [0, 1, STEPS - 1])
def test_a_truncated_transcript_is_named(proof: Path, count: int) -> None:
    forge_entries(proof, lambda entries: entries[:count])
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.expected, verdict.found) == (
        "wrong_step_count",
        count,
        str(STEPS),
        str(count),
    )


def test_an_extended_transcript_is_named(proof: Path) -> None:
    forge_entries(proof, lambda entries: [*entries, msgspec.structs.replace(entries[-1], step=STEPS)])
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.found) == ("wrong_step_count", STEPS, str(STEPS + 1))


def test_a_transcript_spliced_from_two_honest_runs_is_named(proof: Path) -> None:
    other = sample_of(seed=2)
    forge_entries(proof, lambda entries: [entries[0], *other.entries[1:]])
    forge(proof, {m.FINAL: to_blob(other.final)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.steps) == ("wrong_tensor", 1, 1)
    assert verdict.tensor is not None and verdict.found != verdict.expected


def test_a_broken_chain_is_named(proof: Path) -> None:
    honest = read_proof(proof)
    links = list(honest.links)
    links[1] = msgspec.structs.replace(links[1], chain=OTHER)
    forge(proof, {m.TRANSCRIPT: encode_transcript(links)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step) == ("broken_chain", 1)
    assert (verdict.expected, verdict.found) == (honest.links[1].chain, OTHER)


def test_a_chain_of_another_specification_is_named(proof: Path, tmp_path: Path) -> None:
    sample_of(seed=2).write(tmp_path / "other")
    forge(proof, {m.TRANSCRIPT: (tmp_path / "other" / m.TRANSCRIPT).read_bytes()})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step) == ("broken_chain", 0)


def test_a_signed_root_that_is_not_the_last_is_named(proof: Path) -> None:
    forge(proof, {}, root=OTHER)
    verdict = mismatch(proof)
    assert (verdict.code, verdict.found, verdict.final_root) == ("wrong_statement", OTHER, OTHER)


def test_a_signed_chain_hash_that_is_not_the_last_is_named(proof: Path) -> None:
    _, statement = m.open_statement((proof / m.SIGNATURE).read_bytes())
    forged = msgspec.structs.replace(statement, chain=OTHER)
    (proof / m.SIGNATURE).write_bytes(m.sign_statement(ATTACKER, forged))
    verdict = mismatch(proof)
    assert (verdict.code, verdict.expected, verdict.found) == ("wrong_statement", statement.chain, OTHER)


def test_a_manifest_that_names_another_specification_is_named(proof: Path) -> None:
    forge(proof, {}, spec=OTHER)
    assert mismatch(proof).code == "wrong_spec"


def test_another_program_is_named(proof: Path) -> None:
    """It has one node more, whose result nobody uses: same tensors, other name."""
    program = sample().training.program
    update = program.update
    longer = msgspec.structs.replace(update, nodes=[*update.nodes, update.nodes[-1]])
    encoded = encode_program(msgspec.structs.replace(program, update=longer))
    forge(proof, {m.PROGRAM: encoded})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.found) == ("wrong_program", blob_name(encoded))
    assert verdict.expected == sample().training.spec.program


def test_another_initial_state_is_named(proof: Path) -> None:
    initial = nudged(sample().initial, "parameter/0.weight")
    forge(proof, {m.INITIAL: to_blob(initial)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.expected) == ("wrong_initial_state", sample().training.spec.initial_root)
    assert verdict.found == state_root(initial, 0)


@pytest.mark.parametrize(("name", "code"), [(m.TRAIN, "wrong_train_data"), (m.TEST, "wrong_test_data")])
def test_a_flipped_label_is_named(proof: Path, name: m.FileName, code: str) -> None:
    honest = read_proof(proof)
    records = honest.train if name == m.TRAIN else honest.test
    assert records is not None
    label = (records["y"] + torch.nn.functional.one_hot(torch.tensor(3), len(records["y"]))) % 3
    relabeled = {"x": records["x"], "y": label}
    forge(proof, {name: to_blob(relabeled)})
    verdict = mismatch(proof)
    assert (verdict.code, verdict.found) == (code, records_root(relabeled))


def forge_start(path: Path, initial: Tensors, final: Tensors, entries: Sequence[Entry], **changes: object) -> None:
    """Specifies another start (and `changes`), claims a run from it and makes everything fit."""
    honest = read_proof(path)
    spec = msgspec.structs.replace(honest.spec, initial_root=state_root(initial, 0), **changes)
    forged = replace(honest, spec=spec, spec_name=blob_name(encode_spec(spec)))
    files: dict[m.FileName, bytes] = {m.SPEC: encode_spec(spec), m.TRANSCRIPT: rechained(forged, entries)}
    forge(path, {**files, m.INITIAL: to_blob(initial), m.FINAL: to_blob(final)})


def test_a_chosen_exponent_with_which_training_stands_still_is_named(proof: Path) -> None:
    name = "exponent/0.weight"
    initial = {**sample().initial, name: torch.tensor(60, dtype=torch.int32)}
    forge_start(proof, initial, *record(sample().training, initial))
    verdict = mismatch(proof)
    assert (verdict.code, verdict.tensor, verdict.found) == ("wrong_exponent", name, "60")
    assert verdict.expected == str(int(sample().initial[name]))


def test_a_proof_from_another_start_is_a_proof_of_another_specification(proof: Path) -> None:
    """Any start can be specified, momentum included; the verdict says which specification was proved."""
    before = verify(proof).spec
    initial = {**sample().initial, "slot/momentum/0.bias": torch.full((8,), 0.5)}
    forge_start(proof, initial, *record(sample().training, initial))
    verdict = verify(proof)
    assert verdict.outcome == "verified" and verdict.spec != before


def test_a_run_that_diverges_is_a_mismatch(proof: Path) -> None:
    """The first step of the specified training has a result and the second has none, whatever the transcript says."""
    rate = ConstantRate("999999999")
    training = sample().training
    training = replace(training, spec=msgspec.structs.replace(training.spec, learning_rate=rate))
    parameters = {name: sample().initial[f"parameter/{name}"] * 1e15 for name in training.parameters}
    slots = {name: sample().initial[f"slot/{name}"] for name in training.slots}
    initial = initial_state(training, parameters, slots)
    entries = [entry_for(0, *train_step(training, initial, 0)), *sample().entries[1:]]
    forge_start(proof, initial, sample().final, entries, learning_rate=rate)
    verdict = mismatch(proof)
    assert (verdict.code, verdict.step, verdict.steps) == ("not_finite", 1, 1)
    assert "infinity or a NaN" in verdict.reason


def test_a_start_without_a_gradient_is_a_mismatch(proof: Path) -> None:
    initial = {name: value * 1e30 if value.is_floating_point() else value for name, value in sample().initial.items()}
    forge_start(proof, initial, sample().final, sample().entries)
    assert (mismatch(proof).code, mismatch(proof).steps) == ("not_finite", 0)


def test_records_on_which_the_program_cannot_run_are_not_checked(proof: Path) -> None:
    """A label past the last class: torch raises, and the verdict says that the run cannot be executed again."""
    records = {**sample().training.records, "y": torch.full((24,), 99)}
    data = msgspec.structs.replace(sample().training.spec.train, root=records_root(records))
    forge_start(proof, sample().initial, sample().final, sample().entries, train=data)
    forge(proof, {m.TRAIN: to_blob(records)})
    verdict = verify(proof)
    assert (verdict.outcome, verdict.exit_code, verdict.prover) == ("could_not_check", 1, ATTACKER.identity)
    assert verdict.code == "index_out_of_range"


def test_a_machine_on_which_an_operator_fails_cannot_check(proof: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for an allocation that fails in the middle of a step."""

    gather = KERNELS["aten.gather.default"]

    def fail(x: Tensor, *arguments: object) -> Tensor:
        if not x.is_meta:
            raise RuntimeError("DefaultCPUAllocator: not enough memory\nmore")
        return gather(x, *arguments)

    monkeypatch.setitem(KERNELS, "aten.gather.default", fail)
    verdict = verify(proof)
    assert (verdict.outcome, verdict.code, verdict.exit_code) == ("could_not_check", "not_executable", 1)
    assert verdict.reason.endswith("RuntimeError: DefaultCPUAllocator: not enough memory")


def test_a_program_that_does_not_fit_its_data_is_not_checked(proof: Path) -> None:
    forge_start(proof, sample().initial, sample().final, sample().entries, micro_batches=4096)
    assert (verify(proof).outcome, verify(proof).code) == ("could_not_check", "bad_spec")


def test_a_root_must_be_that_of_the_digests_beside_it(proof: Path) -> None:
    honest = read_proof(proof)
    entry = honest.links[0].entry
    digests = dict(zip(sorted(honest.initial), map(bytes.fromhex, entry.tensors), strict=True))
    assert entry.root == root_from_digests(STATE, (1).to_bytes(8, "big"), digests)


def test_a_model_that_does_not_classify_has_no_accuracy(tmp_path: Path) -> None:
    torch.manual_seed(3)
    records = {"x": torch.randn(24, 6), "y": torch.randn(24, 1)}
    run: Sample = run_sample(nn.Sequential(nn.Linear(6, 1)), records, records)
    run.write(tmp_path / "proof")
    verdict = verify(tmp_path / "proof")
    assert (verdict.outcome, verdict.test_accuracy) == ("verified", None)

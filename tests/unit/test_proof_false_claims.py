"""Files of a proof that contradict each other, all of them signed: the verdict names the false one."""

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from proof_samples import (
    ATTACKER,
    PROVER,
    SEGMENTS,
    STEPS,
    nudged,
    resign,
    sample,
    sample_of,
    segments_of,
)
from proof_verdicts import mismatch, verdict_of
from tallystick.canon.hashing import blob_name
from tallystick.program.graph import encode_program
from tallystick.program.tensors import to_blob
from tallystick.proof import manifest as m
from tallystick.proof.commitment import Commitment, open_commitment, sign_commitment
from tallystick.proof.policy import Listed
from tallystick.proof.roots import records_root, state_root, tensor_digests
from tallystick.proof.segments import encode_segment
from tallystick.proof.transcript import LINK_BYTES, extend

OTHER = "f" * 64


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    sample().write(tmp_path / "proof")
    return tmp_path / "proof"


def relink(path: Path, index: int, **changes: object) -> None:
    """Changes a segment's line, makes the last link of the transcript fit if it is the last, and signs."""
    segments = segments_of(path)
    segments[index] = msgspec.structs.replace(segments[index], **changes)
    links = bytearray((path / m.TRANSCRIPT).read_bytes())
    end = segments[index].step * LINK_BYTES
    before = bytes(links[end - 2 * LINK_BYTES : end - LINK_BYTES])
    links[end - LINK_BYTES : end] = extend(before, segments[index].entry)
    resign(path, {m.TRANSCRIPT: bytes(links), m.SEGMENTS: b"".join(map(encode_segment, segments))})


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
    """Both are signed, and they differ. The segment that ends there tells in which tensor, if it can be re-executed."""
    for step in (3, 6):
        file = proof / m.CHECKPOINTS / f"{step:08d}.safetensors"
        false = nudged(load_file(file), "parameter/0.bias")
        file.write_bytes(to_blob(false))
        relink(proof, step // 3 - 1, state=blob_name(to_blob(false)))
    verdict = mismatch(proof, Listed((1,)))
    assert (verdict.code, verdict.segment, verdict.step, verdict.checked) == ("wrong_checkpoint", 0, 2, [])
    assert (verdict.tensor, verdict.found != verdict.expected) == ("parameter/0.bias", True)
    assert mismatch(proof, Listed((0,))).found == verdict.found
    (proof / m.CHECKPOINTS / "00000003.safetensors").unlink()
    verdict = mismatch(proof, Listed((2,)))
    assert (verdict.code, verdict.segment, verdict.step, verdict.tensor) == ("wrong_checkpoint", 1, 5, None)
    assert (verdict.expected, verdict.found) == (segments_of(proof)[1].root, state_root(false, 6))


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

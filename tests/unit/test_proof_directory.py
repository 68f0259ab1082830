"""Proof directories: what is written, and what is refused before it can do harm."""

import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch

from proof_samples import ATTACKER, PROVER, STEPS, nudged, resign, sample
from tallystick.canon.encoding import to_json
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import IDENTITY_BYTES
from tallystick.canon.sealed import seal
from tallystick.errors import Refused
from tallystick.program.optimizers import Tensors
from tallystick.program.tensors import to_blob
from tallystick.proof import directory
from tallystick.proof import manifest as m
from tallystick.proof.directory import Places, open_proof, read_records, read_state
from tallystick.proof.manifest import FileName, open_statement, sign_statement
from tallystick.proof.packing import pack
from tallystick.proof.recorder import Recorder
from tallystick.proof.verify import verify
from tallystick.proof.writer import ProofExistsError

FILES: list[str] = sorted([*m.REQUIRED, m.TEST, m.MANIFEST, m.SIGNATURE])
STATES = ["checkpoints/00000003.safetensors", "checkpoints/00000006.safetensors"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "proof"
    sample().write(path)
    return path


@pytest.fixture
def proof(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "proof"))


def refusal(path: Path) -> str:
    """The code for which the proof cannot be checked."""
    verdict = verify(Places(path))
    assert (verdict.outcome, verdict.exit_code) == ("could_not_check", 1), verdict
    return verdict.code


def same(have: Tensors, want: Tensors) -> bool:
    return have.keys() == want.keys() and all(torch.equal(have[name], want[name]) for name in want)


def test_a_proof_round_trips(proof: Path) -> None:
    run, found = sample(), open_proof(Places(proof))
    files = sorted(str(path.relative_to(proof)) for path in proof.rglob("*") if path.is_file())
    assert files == sorted([*FILES, *STATES])
    assert (found.prover, found.commitment) == (PROVER.identity, run.commitment())
    assert (found.spec, found.program) == (run.training.spec, run.training.program)
    assert same(read_state(found, 0), run.initial) and same(read_state(found, STEPS), run.final)
    assert same(read_records(found, m.TRAIN), run.training.records)
    assert (proof / m.TRANSCRIPT).stat().st_size == 32 * STEPS


def test_the_same_run_gives_the_same_bytes(proof: Path, tmp_path: Path) -> None:
    sample().write(tmp_path / "again")
    for name in [*FILES, *STATES]:
        assert (proof / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_proof_needs_no_test_set(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(sample().training.spec, test=None)
    run = replace(sample(), run=replace(sample().run, training=replace(sample().training, spec=spec), test=None))
    run.write(tmp_path / "proof")
    assert verify(Places(tmp_path / "proof")).outcome == "verified"
    assert not (tmp_path / "proof" / m.TEST).exists()


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "proof").mkdir()
    sample().write(tmp_path / "proof")
    assert verify(Places(tmp_path / "proof")).outcome == "verified"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = sorted(os.listdir(tmp_path))
    for name in ("full", "file", "link"):
        with pytest.raises(ProofExistsError, match=f"{name}: is there already and is not an empty directory"):
            sample().write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before and list((tmp_path / "empty").iterdir()) == []


def test_what_its_reader_would_refuse_is_not_begun(tmp_path: Path) -> None:
    minus_zero = {**sample().initial, "parameter/0.bias": torch.full((8,), -0.0)}
    run = replace(sample().run, initial=minus_zero)
    with pytest.raises(Refused) as caught:
        Recorder(tmp_path / "proof", PROVER, run, sample().commitment())
    assert caught.value.code == "not_canonical"
    other = msgspec.structs.replace(sample().commitment(), spec="0" * 64)
    with pytest.raises(Refused) as caught:
        Recorder(tmp_path / "proof", PROVER, sample().run, other)
    assert caught.value.code == "bad_commitment"
    assert list(tmp_path.iterdir()) == []


def test_the_published_part_is_verified_with_what_is_handed_over(proof: Path, tmp_path: Path) -> None:
    size, archive = pack(proof, tmp_path / "core", without_data=True)
    names = {path.name for path in (tmp_path / "core").iterdir()}
    assert names == {*FILES} - {m.TRAIN, m.TEST}
    assert size == sum((proof / name).stat().st_size for name in names)
    assert archive == sum((proof / name).stat().st_size for name in STATES)
    assert refusal(tmp_path / "core") == "missing_data"
    whole = Places(tmp_path / "core", proof / m.TRAIN, proof / m.CHECKPOINTS)
    assert verify(whole).outcome == "verified"
    with pytest.raises(ProofExistsError):
        pack(proof, tmp_path / "core", without_data=False)
    with pytest.raises(Refused):
        pack(tmp_path / "core", tmp_path / "other", without_data=False)


@pytest.mark.parametrize("name", [*FILES, *STATES])
def test_a_flipped_bit_anywhere_is_refused(proof: Path, name: str) -> None:
    data = (proof / name).read_bytes()
    code = "bad_signature" if name == m.SIGNATURE else "wrong_digest"
    for place in {0, 7, 40, len(data) // 2, len(data) - 1}:
        (proof / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert refusal(proof) == code


@pytest.mark.parametrize("name", [*FILES, *STATES])
def test_a_file_that_is_longer_or_shorter_is_refused(proof: Path, name: str) -> None:
    data = (proof / name).read_bytes()
    for changed in (data + b"\0", data[:-1], b""):
        (proof / name).write_bytes(changed)
        assert refusal(proof) in {"wrong_digest", "bad_signature", "too_large", "truncated"}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(proof: Path, name: str) -> None:
    (proof / name).unlink()
    if name == m.TEST:
        assert verify(Places(proof)).outcome == "verified"
    else:
        assert refusal(proof) == ("missing_data" if name == m.TRAIN else "missing")


def test_what_is_not_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "nowhere") == "missing"
    assert refusal(tmp_path / "file") == "unreadable"
    assert refusal(tmp_path / "empty") == "missing"


def as_link(path: Path) -> None:
    """A link to the very same bytes, outside of the proof."""
    outside = path.parents[2] / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)


def as_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", [*FILES, *STATES])
@pytest.mark.parametrize("replace_by", [as_link, as_dangling_link, as_directory, as_pipe])
def test_only_regular_files_are_read(proof: Path, name: str, replace_by: Callable[[Path], None]) -> None:
    replace_by(proof / name)
    assert refusal(proof) == "not_a_file"


@pytest.mark.parametrize("name", FILES)
def test_a_huge_sparse_file_is_refused_without_reading_it(proof: Path, name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.truncate(proof / name, 2**40)
    assert refusal(proof) == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # in KiB


@pytest.mark.parametrize("name", sorted({*m.REQUIRED, m.TEST}))
def test_a_huge_file_that_was_signed_is_refused_without_reading_it(proof: Path, name: FileName) -> None:
    """The attacker signs sizes that fit the files; the limits are the reader's own."""
    manifest = open_proof(Places(proof)).manifest
    os.truncate(proof / name, 2**40)
    files = [msgspec.structs.replace(f, size=2**40) if f.name == name else f for f in manifest.files]
    sign_listing(proof, to_json(msgspec.structs.replace(manifest, files=files)))
    assert refusal(proof) == ("bad_manifest" if name == m.TRANSCRIPT else "too_large")


def sign_listing(proof: Path, listed: bytes) -> None:
    (proof / m.MANIFEST).write_bytes(listed)
    _, before = open_statement((proof / m.SIGNATURE).read_bytes())
    statement = msgspec.structs.replace(before, manifest=blob_name(listed))
    (proof / m.SIGNATURE).write_bytes(sign_statement(PROVER, statement))


def test_another_key_cannot_take_over_a_signature(proof: Path) -> None:
    data = (proof / m.SIGNATURE).read_bytes()
    (proof / m.SIGNATURE).write_bytes(bytes.fromhex(ATTACKER.identity) + data[IDENTITY_BYTES:])
    assert refusal(proof) == "bad_signature"


def test_an_old_signature_does_not_cover_a_new_manifest(proof: Path) -> None:
    signature = (proof / m.SIGNATURE).read_bytes()
    resign(proof, {})
    (proof / m.SIGNATURE).write_bytes(signature)
    listed = (proof / m.MANIFEST).read_bytes().replace(b'"size":256', b'"size":257')
    (proof / m.MANIFEST).write_bytes(listed)
    assert refusal(proof) == "wrong_digest"


def test_a_signature_for_another_purpose_is_refused(proof: Path) -> None:
    _, statement = open_statement((proof / m.SIGNATURE).read_bytes())
    (proof / m.SIGNATURE).write_bytes(seal(PROVER, "tallystick/other", to_json(statement)))
    assert refusal(proof) == "bad_signature"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'"spec.json"', b'"../etc/passwd"', "malformed"),
        (b'"spec.json"', b'"program.json"', "bad_manifest"),
        (b'"test.safetensors"', b'"train.safetensors"', "bad_manifest"),
        (b"tallystick-proof-v3", b"tallystick-proof-v1", "malformed"),
        (b'{"format"', b'{ "format"', "not_canonical"),
        (b'"size"', b'"length"', "malformed"),
    ],
)
def test_a_signed_manifest_is_read_strictly(proof: Path, old: bytes, new: bytes, code: str) -> None:
    listed = (proof / m.MANIFEST).read_bytes()
    assert old in listed
    sign_listing(proof, listed.replace(old, new))
    assert refusal(proof) == code


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files[::-1],
        lambda files: files[1:],
        lambda files: files[:-1],
        lambda files: [],
    ],
)
def test_a_signed_manifest_lists_every_file_once_and_sorted(
    proof: Path, change: Callable[[list[m.File]], list[m.File]]
) -> None:
    manifest = open_proof(Places(proof)).manifest
    sign_listing(proof, to_json(msgspec.structs.replace(manifest, files=change(manifest.files))))
    assert refusal(proof) == "bad_manifest"


def test_a_signed_manifest_lists_no_file_twice(proof: Path) -> None:
    manifest = open_proof(Places(proof)).manifest
    files = [file for file in manifest.files if file.name != m.TEST]
    sign_listing(proof, to_json(msgspec.structs.replace(manifest, files=[files[0], *files])))
    assert refusal(proof) == "bad_manifest"


def test_a_test_file_is_there_exactly_if_the_specification_has_a_test_set(proof: Path) -> None:
    (proof / m.TEST).unlink()
    resign(proof, {})
    assert refusal(proof) == "bad_manifest"


@pytest.mark.parametrize("value", [-0.0, float("nan"), float("inf"), 1e-40])
def test_signed_tensors_outside_of_the_arithmetic_are_refused(proof: Path, value: float) -> None:
    odd = {**sample().final, "parameter/0.bias": torch.full((8,), value)}
    resign(proof, {m.FINAL: to_blob(odd)})
    assert refusal(proof) == "not_canonical"


def test_signed_tensors_of_another_model_are_refused(proof: Path) -> None:
    final = dict(nudged(sample().final, "parameter/0.bias"))
    final["parameter/9.bias"] = final.pop("parameter/0.bias")
    resign(proof, {m.FINAL: to_blob(final)})
    assert refusal(proof) == "wrong_tensors"


def test_files_beside_a_proof_are_ignored(proof: Path) -> None:
    (proof / "README").write_text("how this was made")
    assert verify(Places(proof)).outcome == "verified"


def test_the_initial_file_leaves_out_what_is_zero_throughout(proof: Path) -> None:
    held = safetensors.torch.load_file(proof / m.INITIAL)
    assert not any(name.startswith("slot/") for name in held)
    assert same(read_state(open_proof(Places(proof)), 0), sample().initial)


def test_a_small_file_cannot_stand_for_a_huge_state(proof: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_TENSORS_BYTES", 1000)
    with pytest.raises(Refused, match="stands for"):
        read_state(open_proof(Places(proof)), 0)

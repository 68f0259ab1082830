"""A proven model for other tools: an OpenSSF model signature and a statement about its training."""

import base64
import json
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from proof_samples import sample, sample_of
from tallystick.errors import Refused
from tallystick.proof.attestation import load_signing_key, open_envelope, sign_envelope
from tallystick.proof.directory import Places, open_proof
from tallystick.proof.release import check_release, write_release

SECRET = ec.derive_private_key(7, ec.SECP256R1())


def pem(key: Any) -> bytes:
    encoded: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return encoded


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    sample().write(folder / "proof")
    write_release(Places(folder / "proof"), folder / "out", pem(SECRET), "digits")
    return folder / "out"


def payload_of(envelope: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(envelope["payload"]))


def test_the_weights_are_those_of_the_proof_under_their_names_in_the_model(release: Path) -> None:
    weights = safetensors.torch.load_file(release / "model" / "model.safetensors")
    assert sorted(weights) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert all(torch.equal(value, sample().final[f"parameter/{name}"]) for name, value in weights.items())


def test_the_signature_is_what_open_ssf_model_signing_defines(release: Path) -> None:
    bundle = json.loads((release / "model.sig").read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    assert hint == sha256((release / "signer.pem").read_bytes()).hexdigest()
    statement = payload_of(bundle["dsseEnvelope"])
    digest = sha256((release / "model" / "model.safetensors").read_bytes())
    resource = {"name": "model.safetensors", "algorithm": "sha256", "digest": digest.hexdigest()}
    assert statement["predicate"]["resources"] == [resource]
    assert statement["subject"] == [{"name": "digits", "digest": {"sha256": sha256(digest.digest()).hexdigest()}}]
    # DSSE: the signature is over "DSSEv1", and type and payload with their lengths.
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    public = load_pem_public_key((release / "signer.pem").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]), signed, ec.ECDSA(hashes.SHA256()))


def test_the_statement_names_the_proof_and_the_same_model(release: Path) -> None:
    statement = open_envelope((release / "training.intoto.json").read_bytes(), SECRET.public_key())
    bundle = json.loads((release / "model.sig").read_bytes())
    assert statement["subject"] == payload_of(bundle["dsseEnvelope"])["subject"]
    proof = open_proof(Places(release.parent / "proof"))
    assert statement["predicate"]["proof"] == {"digest": {"sha256": proof.signature}, "prover": proof.prover}
    assert statement["predicate"]["training"]["finalStateRoot"] == proof.statement.root


def test_the_model_signing_package_verifies_it_and_refuses_an_edit(release: Path, tmp_path: Path) -> None:
    program = shutil.which("model_signing")
    if program is None:
        pytest.skip("model_signing is not on the PATH; install the package model-signing to run this")
    shutil.copytree(release, tmp_path / "release")
    folder = tmp_path / "release"
    options = ["--signature", str(folder / "model.sig"), "--public_key", str(folder / "signer.pem")]
    command = [program, "verify", "key", str(folder / "model"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (folder / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_a_release_is_checked_against_its_proof(release: Path, tmp_path: Path) -> None:
    proof, public = Places(release.parent / "proof"), (release / "signer.pem").read_bytes()
    assert check_release(release, proof, public) == "digits"
    with pytest.raises(Refused, match="bad_signature"):
        check_release(release, proof, public_pem(ec.derive_private_key(8, ec.SECP256R1())))
    with pytest.raises(Refused, match="bad_key"):
        check_release(release, proof, b"")
    sample_of(seed=2).write(tmp_path / "other")
    with pytest.raises(Refused, match="wrong_statement"):
        check_release(release, Places(tmp_path / "other"), public)
    folder = Path(shutil.copytree(release, tmp_path / "release"))
    with (folder / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(Refused, match="wrong_weights"):
        check_release(folder, proof, public)
    (folder / "training.intoto.json").unlink()
    with pytest.raises(Refused, match="missing"):
        check_release(folder, proof, public)


@pytest.mark.parametrize("odd", [{}, {"subject": []}, {"subject": 5}, {"subject": [5]}, {"subject": [{"name": 5}]}])
def test_a_signed_statement_of_any_shape_is_refused(release: Path, tmp_path: Path, odd: dict[str, object]) -> None:
    folder = Path(shutil.copytree(release, tmp_path / "release"))
    (folder / "training.intoto.json").write_bytes(msgspec.json.encode(sign_envelope(odd, SECRET)))
    with pytest.raises(Refused, match="wrong_statement"):
        check_release(folder, Places(release.parent / "proof"), (release / "signer.pem").read_bytes())


def test_an_envelope_signed_by_another_key_is_refused(release: Path) -> None:
    other = ec.derive_private_key(8, ec.SECP256R1()).public_key()
    with pytest.raises(Refused, match="bad_signature"):
        open_envelope((release / "training.intoto.json").read_bytes(), other)


def test_an_envelope_whose_payload_was_changed_is_refused(release: Path) -> None:
    envelope = json.loads((release / "training.intoto.json").read_bytes())
    statement = payload_of(envelope)
    statement["predicate"]["training"]["steps"] += 1
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    with pytest.raises(Refused, match="bad_signature"):
        open_envelope(json.dumps(envelope).encode(), SECRET.public_key())


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        open_envelope(data, SECRET.public_key())


@pytest.mark.parametrize(
    "key",
    [b"", b"not a key", pem(ed25519.Ed25519PrivateKey.generate()), pem(ec.derive_private_key(7, ec.SECP256K1()))],
    ids=["empty", "noise", "ed25519", "another curve"],
)
def test_a_key_that_model_signing_does_not_take_is_refused(key: bytes) -> None:
    with pytest.raises(Refused, match="bad_key"):
        load_signing_key(key)

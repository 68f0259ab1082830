"""A proven model as a folder to publish: weights under their names in the model, signed for other tools."""

from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tallystick.canon.hashing import blob_name
from tallystick.program.tensors import to_blob
from tallystick.proof.attestation import (
    bundle,
    load_signing_key,
    model_statement,
    sign_envelope,
    training_statement,
)
from tallystick.proof.directory import Places, open_proof
from tallystick.proof.lineage import final_model

WEIGHTS: Final = "model.safetensors"
MODEL: Final = "model"
MODEL_SIGNATURE: Final = "model.sig"
STATEMENT: Final = "training.intoto.json"
PUBLIC_KEY: Final = "signer.pem"


def write_release(places: Places, out: Path, key: bytes, name: str) -> None:
    """Writes the model that a proof ends in, its OpenSSF signature and a statement that names the proof.

    The proof is authenticated, not verified: whoever reads the statement can do that.

    Args:
        out: a folder that does not exist or is empty.
        key: PEM of an unencrypted elliptic-curve key.

    Raises:
        Refused: the proof cannot be read, or the key cannot sign.
    """
    secret = load_signing_key(key)
    proof = open_proof(places)
    data = to_blob(final_model(proof))
    files = {WEIGHTS: blob_name(data)}
    public = secret.public_key()
    signature = bundle(sign_envelope(model_statement(name, files), secret), public)
    statement = sign_envelope(training_statement(name, files, proof), secret)
    (out / MODEL).mkdir(parents=True)
    (out / MODEL / WEIGHTS).write_bytes(data)
    (out / MODEL_SIGNATURE).write_bytes(signature)
    (out / STATEMENT).write_bytes(msgspec.json.format(msgspec.json.encode(statement), indent=2) + b"\n")
    (out / PUBLIC_KEY).write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

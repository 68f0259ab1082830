"""A proven model as a folder to publish: weights under their names in the model, signed for other tools.

write_release   by whoever has the proof
check_release   by whoever has the folder, the proof and the publisher's key: that they belong together
"""

from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.program.tensors import to_blob
from tallystick.proof import files
from tallystick.proof.attestation import (
    MAX_ENVELOPE_BYTES,
    bundle,
    load_public_key,
    load_signing_key,
    model_statement,
    open_envelope,
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


def check_release(folder: Path, places: Places, key: bytes) -> str:
    """Checks that a published model is the one that a proof ends in, and that its publisher says so; the model's name.

    The proof is authenticated, not verified.

    Args:
        key: PEM of the publisher's public key, from where one trusts it: not from `folder`.

    Raises:
        Refused: `bad_key`, `bad_signature`, `wrong_statement` or `wrong_weights`, or why a file cannot be read.
    """
    statement = open_envelope(files.read(folder, STATEMENT, MAX_ENVELOPE_BYTES), load_public_key(key))
    proof = open_proof(places)
    data = to_blob(final_model(proof))
    name = ""
    match statement.get("subject"):
        case [{"name": str(name)}]:
            pass
    if statement != training_statement(name, {WEIGHTS: blob_name(data)}, proof):
        raise Refused("wrong_statement", f"{STATEMENT}: is signed, and not about the model that this proof ends in")
    found = blob_name(files.read(folder / MODEL, WEIGHTS, len(data)))
    if found != blob_name(data):
        raise Refused("wrong_weights", f"{WEIGHTS}: its SHA-256 is {found}, the proof ends in {blob_name(data)}")
    return name

"""A proven model as supply-chain documents that other tools read.

Two in-toto statements (Statement v1) about one model, each in a DSSE envelope signed with an elliptic-curve key:

- the *model signature* lists the model's files, as OpenSSF Model Signing 1.0 defines it: a Sigstore bundle that the
  `model-signing` package verifies;
- *verifiable training* has the same subject and says which proof shows how the model was made.

The first says who vouches for these bytes, the second how anyone can check where they came from. Neither is itself a
check of the training: that is `tallystick verify` on the proof that the second one names.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tallystick.errors import Refused
from tallystick.proof.directory import Proof

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
MODEL_SIGNATURE: Final = "https://model_signing/signature/v1.0"
VERIFIABLE_TRAINING: Final = "urn:tallystick:verifiable-training:v1"
MAX_ENVELOPE_BYTES: Final = 2**20
HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
"""The curves that OpenSSF Model Signing admits, each with its hash."""
Statement = dict[str, Any]


class Signature(msgspec.Struct, frozen=True):
    sig: str
    keyid: str = ""


class Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """A DSSE envelope (github.com/secure-systems-lab/dsse)."""

    payload: str
    payload_type: str
    signatures: list[Signature]


def model_statement(name: str, files: Mapping[str, str]) -> Statement:
    """What OpenSSF Model Signing signs.

    Args:
        name: of the model.
        files: path relative to the model's folder, with `/`, to SHA-256 in hex.
    """
    resources = [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in sorted(files)]
    predicate = {
        "resources": resources,
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
    }
    return _statement(name, model_digest(files), MODEL_SIGNATURE, predicate)


def training_statement(name: str, files: Mapping[str, str], proof: Proof) -> Statement:
    """That the model `name` with `files` is what the training of a proof ends in."""
    commitment = proof.commitment
    predicate = {
        "proof": {"digest": {"sha256": proof.signature}, "prover": proof.prover},
        "training": {
            "specification": {"digest": {"sha256": commitment.spec}},
            "program": {"digest": {"sha256": commitment.program}},
            "arithmetic": commitment.arithmetic,
            "profile": commitment.profile,
            "steps": commitment.steps,
            "trainDataRoot": commitment.data,
            "initialStateRoot": commitment.initial,
            "finalStateRoot": proof.statement.root,
        },
        "verification": "tallystick verify PROOF, then compare the model's tensors with the proof's final state",
    }
    return _statement(name, model_digest(files), VERIFIABLE_TRAINING, predicate)


def model_digest(files: Mapping[str, str]) -> str:
    """SHA-256 over the files' digests in the order of their names: how both statements name the model."""
    return hashlib.sha256(b"".join(bytes.fromhex(files[path]) for path in sorted(files))).hexdigest()


def _statement(name: str, digest: str, predicate_type: str, predicate: object) -> Statement:
    subject = [{"name": name, "digest": {"sha256": digest}}]
    return {"_type": STATEMENT_TYPE, "subject": subject, "predicateType": predicate_type, "predicate": predicate}


def sign_envelope(statement: Statement, key: ec.EllipticCurvePrivateKey) -> Envelope:
    payload = msgspec.json.encode(statement)
    signature = key.sign(pre_authentication(PAYLOAD_TYPE, payload), ec.ECDSA(_hash_of(key.public_key())))
    return Envelope(_base64(payload), PAYLOAD_TYPE, [Signature(_base64(signature))])


def bundle(envelope: Envelope, key: ec.EllipticCurvePublicKey) -> bytes:
    """A Sigstore bundle of an envelope that was signed with `key`."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    material = {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []}
    document = {"mediaType": BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def open_envelope(data: bytes, key: ec.EllipticCurvePublicKey) -> Statement:
    """The statement in an envelope (JSON) that `key` signed; the signature is checked before it is parsed.

    Raises:
        Refused: `too_large`, `malformed` or `bad_signature`.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise Refused("too_large", f"envelope: {len(data)} bytes, at most {MAX_ENVELOPE_BYTES} are admitted")
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = [base64.b64decode(each.sig, validate=True) for each in envelope.signatures]
    except (msgspec.MsgspecError, ValueError) as error:
        raise Refused("malformed", f"envelope: {error}") from None
    signed = pre_authentication(envelope.payload_type, payload)
    if envelope.payload_type != PAYLOAD_TYPE or not any(_signed_by(key, each, signed) for each in signatures):
        raise Refused("bad_signature", "envelope: not signed with this key; check that it is the publisher's")
    try:
        return msgspec.json.decode(payload, type=Statement)
    except msgspec.MsgspecError as error:
        raise Refused("malformed", f"envelope: its payload is not a statement: {error}") from None


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """The bytes that DSSE signs."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def load_signing_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Reads an unencrypted private key.

    Raises:
        Refused: `bad_key`.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise Refused("bad_key", f"signing key: {error}; it must be an unencrypted PEM file") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in HASHES:
        raise Refused("bad_key", f"signing key: OpenSSF Model Signing takes the curves {', '.join(HASHES)} only")
    return key


def load_public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Reads a public key.

    Raises:
        Refused: `bad_key`.
    """
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused("bad_key", f"public key: {error}; it must be a PEM file") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASHES:
        raise Refused("bad_key", f"public key: OpenSSF Model Signing takes the curves {', '.join(HASHES)} only")
    return key


def _hash_of(key: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    return HASHES[key.curve.name]()


def _signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, ec.ECDSA(_hash_of(key)))
    except InvalidSignature:
        return False
    return True


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

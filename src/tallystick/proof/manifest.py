"""The manifest, which names every file of a proof by its hash, and the signed statement over it.

    signature  = sealed(prover's key, "tallystick/proof", statement)
    statement -> hash of manifest.json, last chain hash, final state root
    manifest  -> hash and size of every other file

So whoever has checked the signature knows, for each byte that follows, who signed it, before parsing it.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.canon.sealed import open_sealed, seal
from tallystick.errors import Refused
from tallystick.proof.transcript import Digest

FORMAT: Final = "tallystick-proof-v1"
DOMAIN: Final = "tallystick/proof"
MAX_SIGNATURE_BYTES: Final = 1024
MAX_MANIFEST_BYTES: Final = 8192

FileName = Literal[
    "final.safetensors",
    "initial.safetensors",
    "program.json",
    "spec.json",
    "test.safetensors",
    "train.safetensors",
    "transcript.jsonl",
]
"""The only names that a proof can name, so none of its bytes ever becomes part of a path."""
SIGNATURE: Final = "signature"
MANIFEST: Final = "manifest.json"
FINAL: Final = "final.safetensors"
INITIAL: Final = "initial.safetensors"
PROGRAM: Final = "program.json"
SPEC: Final = "spec.json"
TEST: Final = "test.safetensors"
TRAIN: Final = "train.safetensors"
TRANSCRIPT: Final = "transcript.jsonl"
REQUIRED: Final[frozenset[FileName]] = frozenset({FINAL, INITIAL, PROGRAM, SPEC, TRAIN, TRANSCRIPT})
Label = Annotated[str, msgspec.Meta(max_length=128)]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: FileName
    sha256: Digest
    size: Annotated[int, msgspec.Meta(ge=0)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["tallystick-proof-v1"]
    network: Label | None
    """The chain that the task was offered on, if any. A claim: nothing in the directory can show it."""
    task: Label | None
    """The task on that chain, if any; a claim as well."""
    spec: Digest
    """The name of the training specification."""
    files: Annotated[list[File], msgspec.Meta(max_length=7)]
    """Sorted by name."""

    def file(self, name: FileName) -> File:
        return next(file for file in self.files if file.name == name)


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a prover signs."""

    manifest: Digest
    """SHA-256 of manifest.json."""
    chain: Digest
    """The transcript's last chain hash."""
    root: Digest
    """The state root after the last step."""


def manifest_of(files: Mapping[FileName, bytes], network: str | None, task: str | None) -> Manifest:
    """The manifest of `files`, which include the training specification."""
    listed = [File(name, blob_name(files[name]), len(files[name])) for name in sorted(files)]
    return Manifest(FORMAT, network, task, blob_name(files[SPEC]), listed)


def decode_manifest(data: bytes) -> Manifest:
    """Reads a manifest from untrusted bytes.

    Raises:
        Refused: `too_large`, `malformed`, `not_canonical` or `bad_manifest`.
    """
    manifest = from_json(data, Manifest, limit=MAX_MANIFEST_BYTES, what=MANIFEST)
    names = [file.name for file in manifest.files]
    if names != sorted(set(names)) or not set(names) >= REQUIRED:
        raise Refused("bad_manifest", f"{MANIFEST}: its files are not the files of a proof, each once and sorted")
    return manifest


def sign_statement(key: Key, statement: Statement) -> bytes:
    return seal(key, DOMAIN, to_json(statement))


def open_statement(data: bytes) -> tuple[str, Statement]:
    """Who signed, and what; the signature is checked before the statement is parsed.

    Raises:
        Refused: `too_large`, `truncated`, `bad_signature`, `malformed` or `not_canonical`.
    """
    opened = open_sealed(data, DOMAIN, limit=MAX_SIGNATURE_BYTES, what=SIGNATURE)
    return opened.sender, from_json(opened.payload, Statement, limit=MAX_SIGNATURE_BYTES, what=SIGNATURE)


def check_digest(name: str, data: bytes, expected: str) -> None:
    """Refuses bytes that are not the signed ones.

    Raises:
        Refused: `wrong_digest`.
    """
    found = blob_name(data)
    if found != expected:
        raise Refused("wrong_digest", f"{name}: its SHA-256 is {found}, {expected} was signed; fetch the file again")

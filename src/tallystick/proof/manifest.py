"""The manifest, which names every file of a proof by its hash, and the signed statement over it.

    signature  = sealed(prover's key, "tallystick/proof", statement)
    statement -> hash of manifest.json, of the commitment, last link, final state root, the model's digest
    manifest  -> hash and size of every other file
    segments.jsonl -> hash of each state between initial and final

So whoever has checked the signature knows, for each byte that follows, who signed it, before parsing it. Checkpoints
are not in the manifest, so that its size does not grow with the training.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.identity import Key
from tallystick.canon.sealed import open_sealed, seal
from tallystick.errors import Refused
from tallystick.proof.commitment import FORMAT, Digest

DOMAIN: Final = "tallystick/proof"
MAX_SIGNATURE_BYTES: Final = 1024
MAX_MANIFEST_BYTES: Final = 8192

FileName = Literal[
    "commitment",
    "final.safetensors",
    "initial.safetensors",
    "program.json",
    "segments.jsonl",
    "spec.json",
    "test.safetensors",
    "train.safetensors",
    "transcript.bin",
]
"""The only names that a proof can name, so none of its bytes ever becomes part of a path."""
SIGNATURE: Final = "signature"
MANIFEST: Final = "manifest.json"
COMMITMENT: Final = "commitment"
FINAL: Final = "final.safetensors"
INITIAL: Final = "initial.safetensors"
PROGRAM: Final = "program.json"
SEGMENTS: Final = "segments.jsonl"
SPEC: Final = "spec.json"
TEST: Final = "test.safetensors"
TRAIN: Final = "train.safetensors"
TRANSCRIPT: Final = "transcript.bin"
CHECKPOINTS: Final = "checkpoints"
REQUIRED: Final[frozenset[FileName]] = frozenset(
    {COMMITMENT, FINAL, INITIAL, PROGRAM, SEGMENTS, SPEC, TRAIN, TRANSCRIPT}
)


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: FileName
    sha256: Digest
    size: Annotated[int, msgspec.Meta(ge=0)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["tallystick-proof-v3"]
    files: Annotated[list[File], msgspec.Meta(max_length=9)]
    """Sorted by name."""

    def file(self, name: FileName) -> File:
        return next(file for file in self.files if file.name == name)

    @property
    def names(self) -> list[str]:
        return [file.name for file in self.files]


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a prover signs at the end."""

    manifest: Digest
    """SHA-256 of manifest.json."""
    commitment: Digest
    """SHA-256 of the file `commitment`."""
    link: Digest
    """The transcript's last link."""
    root: Digest
    """The state root after the last step."""
    model: Digest
    """The root over the final parameters and buffers alone: the model without its optimizer."""


def manifest_of(files: Mapping[FileName, tuple[str, int]]) -> Manifest:
    """The manifest of files with these SHA-256 digests and sizes."""
    return Manifest(FORMAT, [File(name, *files[name]) for name in sorted(files)])


def decode_manifest(data: bytes) -> Manifest:
    """Reads a manifest from untrusted bytes.

    Raises:
        Refused: `too_large`, `malformed`, `not_canonical` or `bad_manifest`.
    """
    manifest = from_json(data, Manifest, limit=MAX_MANIFEST_BYTES, what=MANIFEST)
    if manifest.names != sorted(set(manifest.names)) or not set(manifest.names) >= REQUIRED:
        raise Refused("bad_manifest", f"{MANIFEST}: its files are not the files of a proof, each once and sorted")
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    return to_json(manifest)


def sign_statement(key: Key, statement: Statement) -> bytes:
    return seal(key, DOMAIN, to_json(statement))


def open_statement(data: bytes) -> tuple[str, Statement]:
    """Who signed, and what; the signature is checked before the statement is parsed.

    Raises:
        Refused: `too_large`, `truncated`, `bad_signature`, `malformed` or `not_canonical`.
    """
    opened = open_sealed(data, DOMAIN, limit=MAX_SIGNATURE_BYTES, what=SIGNATURE)
    return opened.sender, from_json(opened.payload, Statement, limit=MAX_SIGNATURE_BYTES, what=SIGNATURE)

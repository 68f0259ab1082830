"""A proof as a reader sees it: authenticated at once, opened file by file.

`open_proof` reads only what is small (signature, manifest, commitment, specification, program). Tensors are read when
they are asked for, one file at a time, and transcript and segments in slices: what is in memory does not grow with the
length of the training. Records and checkpoints may lie elsewhere (`Places`), because they need not be published.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.program.graph import MAX_PROGRAM_BYTES, StepProgram, TensorSpec, decode_program
from tallystick.program.optimizers import Tensors
from tallystick.program.spec import MAX_SPEC_BYTES, TrainingSpec, decode_spec
from tallystick.program.tensors import blob_limit, from_blob
from tallystick.program.training import state_specs
from tallystick.proof import files
from tallystick.proof import manifest as m
from tallystick.proof.commitment import MAX_COMMITMENT_BYTES, Commitment, open_commitment
from tallystick.proof.manifest import FileName, Manifest, Statement
from tallystick.proof.segments import MAX_LINE_BYTES, Segment, decode_segment
from tallystick.proof.transcript import LINK_BYTES, start
from tallystick.proof.writer import state_name

MAX_TENSORS_BYTES: Final = 2 * 2**30
"""Largest file of tensors that is read into memory."""


@dataclass(frozen=True)
class Places:
    """Where a proof lies, and what does not lie with it."""

    proof: Path
    data: Path | None = None
    """The file with the training records, if it is not in the proof."""
    checkpoints: Path | None = None
    """The folder with the states between segments, if it is not in the proof."""


@dataclass(frozen=True)
class Proof:
    """A proof whose signatures and form are in order. That its claims are true is for `verify` to say."""

    places: Places
    prover: str
    statement: Statement
    signature: str
    """SHA-256 of the file `signature`: the one name of this proof."""
    manifest: Manifest
    sealed: bytes
    """The file `commitment`."""
    commitment: Commitment
    spec_name: str
    spec: TrainingSpec
    program_name: str
    program: StepProgram

    @property
    def state_specs(self) -> list[TensorSpec]:
        return state_specs(self.program)

    @property
    def first_link(self) -> bytes:
        return start(self.sealed)

    def has(self, name: FileName) -> bool:
        return name in self.manifest.names


def open_proof(places: Places) -> Proof:
    """Authenticates a proof and reads its small files.

    Raises:
        Refused: with the reason it cannot be read, authenticated or parsed.
    """
    signed = files.read(places.proof, m.SIGNATURE, m.MAX_SIGNATURE_BYTES)
    prover, statement = m.open_statement(signed)
    listed = files.read(places.proof, m.MANIFEST, m.MAX_MANIFEST_BYTES)
    check_digest(m.MANIFEST, listed, statement.manifest)
    manifest = m.decode_manifest(listed)

    def small(name: FileName, limit: int) -> bytes:
        return _read_listed(places.proof, name, manifest, limit)

    sealed = small(m.COMMITMENT, MAX_COMMITMENT_BYTES)
    committed_by, commitment = open_commitment(sealed)
    if committed_by != prover:
        raise Refused("other_prover", f"{m.COMMITMENT}: was signed by {committed_by}, the proof by {prover}")
    check_digest(m.COMMITMENT, sealed, statement.commitment)
    encoded_spec, encoded_program = small(m.SPEC, MAX_SPEC_BYTES), small(m.PROGRAM, MAX_PROGRAM_BYTES)
    spec, program = decode_spec(encoded_spec), decode_program(encoded_program)
    if (spec.test is None) != (m.TEST not in manifest.names):
        raise Refused("bad_manifest", f"{m.MANIFEST}: {m.TEST} belongs to a proof exactly if the specification has one")
    _require_sizes(manifest, commitment)
    return Proof(
        places,
        prover,
        statement,
        blob_name(signed),
        manifest,
        sealed,
        commitment,
        blob_name(encoded_spec),
        spec,
        blob_name(encoded_program),
        program,
    )


def read_state(proof: Proof, step: int, sha256: str | None = None) -> Tensors:
    """The state before `step`, a boundary of segments.

    Args:
        sha256: of the file, for a state between the first and the last.

    Raises:
        Refused: `missing_checkpoint`, or why it cannot be read.
    """
    name, specs = state_name(proof.commitment, step), proof.state_specs
    if name == m.INITIAL:
        return _tensors(proof, proof.places.proof, name, m.INITIAL, specs, zeros_left_out=True)
    if name == m.FINAL:
        return _tensors(proof, proof.places.proof, name, m.FINAL, specs)
    assert sha256 is not None
    folder, inner = proof.places.checkpoints, name.removeprefix(f"{m.CHECKPOINTS}/")
    try:
        limit = min(blob_limit(specs), MAX_TENSORS_BYTES)
        data = files.read(folder, inner, limit) if folder else files.read(proof.places.proof, name, limit)
    except Refused as refused:
        if refused.code != "missing":
            raise
        way = "ask the prover for that file and put it there, or name its folder with --checkpoints"
        raise Refused("missing_checkpoint", f"{name}: is not there; {way}") from None
    check_digest(name, data, sha256)
    return from_blob(data, specs, name)


def read_records(proof: Proof, name: FileName) -> Tensors:
    """The records of the training (`TRAIN`) or of its test (`TEST`).

    Raises:
        Refused: `missing_data`, or why they cannot be read.
    """
    data_set = proof.spec.test if name == m.TEST else proof.spec.train
    assert data_set is not None
    given = proof.places.data if name == m.TRAIN else None
    folder, file = (given.parent, given.name) if given else (proof.places.proof, str(name))
    try:
        return _tensors(proof, folder, file, name, data_set.tensors)
    except Refused as refused:
        if refused.code != "missing":
            raise
        way = f"get the file with SHA-256 {proof.manifest.file(name).sha256} and name it with --data"
        raise Refused("missing_data", f"{name}: the records are not in {folder}; {way}") from None


@contextmanager
def opened_transcript(proof: Proof) -> Iterator[BinaryIO]:
    """The transcript, for reading in slices; `check_listed` says whether it is the signed one."""
    with files.opened(proof.places.proof, m.TRANSCRIPT, proof.manifest.file(m.TRANSCRIPT).size) as file:
        yield file


def links(transcript: BinaryIO, first: int, last: int) -> list[bytes]:
    """The links after `first` steps up to that after `last` steps; `first` is at least 1.

    Raises:
        Refused: `truncated`.
    """
    transcript.seek((first - 1) * LINK_BYTES)
    data = transcript.read((last - first + 1) * LINK_BYTES)
    if len(data) != (last - first + 1) * LINK_BYTES:
        raise Refused("truncated", f"{m.TRANSCRIPT}: ends before step {last}")
    return [data[at : at + LINK_BYTES] for at in range(0, len(data), LINK_BYTES)]


def scan_segments(proof: Proof) -> Iterator[Segment]:
    """All segments in order, read line by line.

    Raises:
        Refused: a line cannot be parsed, or there are more or fewer than the commitment has.
    """
    limit = proof.manifest.file(m.SEGMENTS).size
    with files.opened(proof.places.proof, m.SEGMENTS, limit) as file:
        for index in range(proof.commitment.segments):
            yield decode_segment(file.readline(MAX_LINE_BYTES), f"{m.SEGMENTS}: line {index + 1}")
        if file.read(1):
            raise Refused("malformed", f"{m.SEGMENTS}: has more lines than the commitment has segments")


def check_listed(proof: Proof, name: FileName) -> None:
    """Compares a file with the manifest, piece by piece.

    Raises:
        Refused: `wrong_digest`, or why it cannot be read.
    """
    entry = proof.manifest.file(name)
    with files.opened(proof.places.proof, name, entry.size) as file:
        _compare(name, files.hash_of(file), entry.sha256)


def check_digest(name: str, data: bytes, expected: str) -> None:
    """Refuses bytes that are not the signed ones.

    Raises:
        Refused: `wrong_digest`.
    """
    _compare(name, blob_name(data), expected)


def _compare(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise Refused("wrong_digest", f"{name}: its SHA-256 is {found}, {expected} was signed; fetch the file again")


def _tensors(
    proof: Proof, folder: Path, file: str, name: FileName, specs: Sequence[TensorSpec], *, zeros_left_out: bool = False
) -> Tensors:
    limit = blob_limit(specs)
    if zeros_left_out and limit > MAX_TENSORS_BYTES:  # a small file could make us fill a large state with zeros
        raise Refused("too_large", f"{name}: stands for {limit} bytes, at most {MAX_TENSORS_BYTES} are admitted")
    limit = min(limit, MAX_TENSORS_BYTES)
    data = _read_listed(folder, name, proof.manifest, limit, file)
    return from_blob(data, specs, name, zeros_left_out=zeros_left_out)


def _read_listed(folder: Path, name: FileName, manifest: Manifest, limit: int, file: str | None = None) -> bytes:
    entry = manifest.file(name)
    if entry.size > limit:
        raise Refused("too_large", f"{name}: {entry.size} bytes, at most {limit} are admitted")
    data = files.read(folder, file or name, entry.size)
    check_digest(name, data, entry.sha256)
    return data


def _require_sizes(manifest: Manifest, commitment: Commitment) -> None:
    """Files that are read in slices must be as long as the commitment makes them, before any of it is hashed."""
    found, expected = manifest.file(m.TRANSCRIPT).size, commitment.steps * LINK_BYTES
    if found != expected:
        raise Refused("bad_manifest", f"{m.TRANSCRIPT}: {found} bytes, {commitment.steps} steps make {expected}")
    limit = commitment.segments * MAX_LINE_BYTES
    if manifest.file(m.SEGMENTS).size > limit:
        raise Refused(
            "too_large", f"{m.SEGMENTS}: {manifest.file(m.SEGMENTS).size} bytes, at most {limit} are admitted"
        )

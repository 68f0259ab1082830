"""A proof as a directory: written in one piece, read back strictly.

File names are the constants of `manifest`. A file is opened relative to the directory, never through a symbolic link,
must be a regular file, and its size is checked before it is read.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tallystick.canon.encoding import to_json
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.errors import Refused, TallystickError
from tallystick.program.graph import MAX_PROGRAM_BYTES, StepProgram, TensorSpec, decode_program
from tallystick.program.optimizers import Tensors
from tallystick.program.spec import MAX_SPEC_BYTES, TrainingSpec, decode_spec, encode_spec
from tallystick.program.tensors import blob_limit, from_blob, to_blob
from tallystick.program.training import state_specs
from tallystick.proof import manifest as m
from tallystick.proof.manifest import FileName, Manifest, Statement
from tallystick.proof.transcript import (
    MAX_TRANSCRIPT_BYTES,
    Entry,
    Link,
    chained,
    decode_transcript,
    encode_transcript,
    start,
)

MAX_TENSORS_BYTES: Final = 2 * 2**30
"""Largest file of tensors that is read into memory."""
RANDOM_SUFFIX_BYTES: Final = 8
Read = Callable[[str, int], bytes]
"""Reads the file of that name, of at most that many bytes; Refused if it is not there, not a file or larger."""


class ProofExistsError(TallystickError):
    """A proof would overwrite something."""


@dataclass(frozen=True)
class Proof:
    """A proof whose signature and form are in order. That its claims are true is for `verify` to say."""

    prover: str
    manifest: Manifest
    statement: Statement
    spec_name: str
    spec: TrainingSpec
    program_name: str
    program: StepProgram
    links: tuple[Link, ...]
    initial: Tensors
    final: Tensors
    train: Tensors
    test: Tensors | None


def write_proof(
    path: Path,
    *,
    key: Key,
    spec: TrainingSpec,
    program: bytes,
    initial: Tensors,
    final: Tensors,
    train: Tensors,
    test: Tensors | None,
    entries: Sequence[Entry],
    network: str | None = None,
    task: str | None = None,
) -> Proof:
    """Writes a signed proof and returns it as a reader will see it.

    It is written beside `path`, read back, and only then given its name, so there is never half a proof at `path` nor
    one that its own reader refuses.

    Args:
        program: the encoded program that `spec` names.
        test: the records of `spec.test`.

    Raises:
        ProofExistsError: `path` is there and is not an empty directory.
        Refused: the parts do not fit together or are over a limit.
    """
    encoded = encode_spec(spec)
    links = tuple(chained(start(blob_name(encoded), spec.initial_root), entries))
    if not links:
        raise Refused("malformed", "proof: there is no step to prove")
    files: dict[FileName, bytes] = {
        m.SPEC: encoded,
        m.PROGRAM: program,
        m.TRANSCRIPT: encode_transcript(links),
        m.INITIAL: to_blob(initial),
        m.FINAL: to_blob(final),
        m.TRAIN: to_blob(train),
    }
    if test is not None:
        files[m.TEST] = to_blob(test)
    listed = to_json(m.manifest_of(files, network, task))
    statement = Statement(blob_name(listed), links[-1].chain, links[-1].entry.root)
    signature = m.sign_statement(key, statement)
    return _publish(path.absolute(), [*files.items(), (m.MANIFEST, listed), (m.SIGNATURE, signature)])


def read_proof(path: Path) -> Proof:
    """Reads a proof from an untrusted directory.

    Raises:
        Refused: with the reason it cannot be read, authenticated or parsed.
    """
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        code = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        raise Refused(code, f"{path}: {error.strerror}; a proof is a directory") from None
    try:
        return decode_proof(lambda name, limit: _read(directory, name, limit))
    finally:
        os.close(directory)


def decode_proof(read: Read) -> Proof:
    """Authenticates and then parses a proof whose files come from `read`.

    Raises:
        Refused: with the reason.
    """
    prover, statement = m.open_statement(read(m.SIGNATURE, m.MAX_SIGNATURE_BYTES))
    listed = read(m.MANIFEST, m.MAX_MANIFEST_BYTES)
    m.check_digest(m.MANIFEST, listed, statement.manifest)
    manifest = m.decode_manifest(listed)

    def signed(name: FileName, limit: int) -> bytes:
        return _read_signed(read, manifest, name, limit)

    encoded_spec, encoded_program = signed(m.SPEC, MAX_SPEC_BYTES), signed(m.PROGRAM, MAX_PROGRAM_BYTES)
    spec, program = decode_spec(encoded_spec), decode_program(encoded_program)
    if (spec.test is None) != all(file.name != m.TEST for file in manifest.files):
        raise Refused("bad_manifest", f"{m.MANIFEST}: {m.TEST} belongs to a proof exactly if the specification has one")
    state = state_specs(program)

    def tensors(name: FileName, expected: list[TensorSpec]) -> Tensors:
        return from_blob(signed(name, min(blob_limit(expected), MAX_TENSORS_BYTES)), expected, name)

    return Proof(
        prover,
        manifest,
        statement,
        blob_name(encoded_spec),
        spec,
        blob_name(encoded_program),
        program,
        decode_transcript(signed(m.TRANSCRIPT, MAX_TRANSCRIPT_BYTES), len(state)),
        tensors(m.INITIAL, state),
        tensors(m.FINAL, state),
        tensors(m.TRAIN, spec.train.tensors),
        tensors(m.TEST, spec.test.tensors) if spec.test else None,
    )


def _read_signed(read: Read, manifest: Manifest, name: FileName, limit: int) -> bytes:
    entry = manifest.file(name)
    if entry.size > limit:
        raise Refused("too_large", f"{name}: {entry.size} bytes, at most {limit} are admitted")
    data = read(name, entry.size)
    m.check_digest(name, data, entry.sha256)
    return data


def _read(directory: int, name: str, limit: int) -> bytes:
    """Non-blocking, because a named pipe would otherwise hold up `open` before anything can be checked."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise Refused("missing", f"{name}: is not in the proof; fetch the proof again") from None
    except OSError as error:
        code = "not_a_file" if error.errno in {errno.ELOOP, errno.ENXIO} else "unreadable"
        raise Refused(code, f"{name}: {error.strerror}") from None
    try:
        return _read_regular(descriptor, name, limit)
    except OSError as error:
        raise Refused("unreadable", f"{name}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _read_regular(descriptor: int, name: str, limit: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not_a_file", f"{name}: is not a regular file")
    if status.st_size > limit:
        raise Refused("too_large", f"{name}: {status.st_size} bytes, at most {limit} are admitted")
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(status.st_size)


def _publish(path: Path, files: Iterable[tuple[str, bytes]]) -> Proof:
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
        raise ProofExistsError(f"{path}: is there already and is not an empty directory; choose another place")
    draft = path.with_name(f".{path.name}.{os.urandom(RANDOM_SUFFIX_BYTES).hex()}")
    draft.mkdir(parents=True)
    try:
        for name, data in files:
            _write(draft / name, data)
        _sync(draft)
        proof = read_proof(draft)
        _rename(draft, path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(path.parent)
    return proof


def _rename(draft: Path, path: Path) -> None:
    """Replaces nothing but an empty directory; that is the system's own rule, so there is no race to lose."""
    try:
        draft.rename(path)
    except OSError as error:
        raise ProofExistsError(f"{path}: {error.strerror}; choose another place") from None


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Makes the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

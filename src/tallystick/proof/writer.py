"""Writing a proof while the training runs: append-only, safe against a crash at any moment, resumable.

The directory appears under its name with everything that is fixed before step 0, the signed commitment included. Then,
for each finished segment and in this order, each forced to disk before the next begins:

    1. the state at its end, written beside its place and renamed
    2. its links, appended to transcript.bin
    3. its line, appended to segments.jsonl

So whatever a line says is there, and what a crash leaves after the last whole line is cut off on resuming. At the end
come manifest.json and then signature, each renamed into place. A lock on the directory, which the system lets go of
when the process dies, keeps a second training out.
"""

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.errors import TallystickError
from tallystick.proof import files
from tallystick.proof import manifest as m
from tallystick.proof.commitment import Commitment
from tallystick.proof.durable import append, sync, write_whole
from tallystick.proof.manifest import FileName, Statement
from tallystick.proof.recording import Closed
from tallystick.proof.segments import encode_segment
from tallystick.proof.transcript import LINK_BYTES

RANDOM_SUFFIX_BYTES: Final = 8
MAX_FILE_BYTES: Final = 2**40
"""Of our own files, when they are hashed."""


class ProofExistsError(TallystickError):
    """A proof would overwrite something, or somebody else is writing it."""


def state_name(commitment: Commitment, step: int) -> str:
    """The file with the state before `step`, which is a boundary of segments."""
    if step == 0:
        return m.INITIAL
    return m.FINAL if step == commitment.steps else f"{m.CHECKPOINTS}/{step:08d}.safetensors"


def create(path: Path, contents: Mapping[FileName, bytes]) -> None:
    """Makes the directory of a proof with everything that is there before step 0, or makes nothing.

    Raises:
        ProofExistsError: `path` is there and is not an empty directory.
    """
    path = path.absolute()
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
        raise ProofExistsError(f"{path}: is there already and is not an empty directory; choose another place")
    draft = path.with_name(f".{path.name}.{os.urandom(RANDOM_SUFFIX_BYTES).hex()}")
    (draft / m.CHECKPOINTS).mkdir(parents=True)
    try:
        empty: dict[FileName, bytes] = {m.TRANSCRIPT: b"", m.SEGMENTS: b""}
        for name, data in {**contents, **empty}.items():
            write_whole(draft / name, data)
        _rename(draft, path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync(path.parent)


class Writer:
    """Appends to the proof at `path`; locked from its making to the end of its context.

    Raises:
        ProofExistsError: another process is writing this proof.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._directory)
            raise ProofExistsError(f"{path}: another process is writing this proof; wait for it or stop it") from None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._directory)

    def cut(self, links: int, lines_bytes: int) -> None:
        """Cuts off what a crash left behind `links` links and the first `lines_bytes` of segments.jsonl."""
        for name, size in ((m.TRANSCRIPT, links * LINK_BYTES), (m.SEGMENTS, lines_bytes)):
            with (self.path / name).open("r+b") as file:
                file.truncate(size)
                os.fsync(file.fileno())

    def append(self, commitment: Commitment, closed: Closed, links: bytes) -> None:
        """Makes a finished segment durable."""
        write_whole(self.path / state_name(commitment, closed.segment.step), closed.state)
        append(self.path / m.TRANSCRIPT, links)
        append(self.path / m.SEGMENTS, encode_segment(closed.segment))

    def finish(self, key: Key, link: bytes, root: str, model: str) -> None:
        """Lists every file and signs the list."""
        names = [name for name in sorted({*m.REQUIRED, m.TEST}) if (self.path / name).exists()]
        listed = m.encode_manifest(m.manifest_of({name: _digest_and_size(self.path, name) for name in names}))
        commitment = _digest_and_size(self.path, m.COMMITMENT)[0]
        write_whole(self.path / m.MANIFEST, listed)
        statement = Statement(blob_name(listed), commitment, link.hex(), root, model)
        write_whole(self.path / m.SIGNATURE, m.sign_statement(key, statement))


def _digest_and_size(folder: Path, name: str) -> tuple[str, int]:
    with files.opened(folder, name, MAX_FILE_BYTES) as file:
        return files.hash_of(file), os.fstat(file.fileno()).st_size


def _rename(draft: Path, path: Path) -> None:
    """Replaces nothing but an empty directory; that is the system's own rule, so there is no race to lose."""
    try:
        draft.rename(path)
    except OSError as error:
        raise ProofExistsError(f"{path}: {error.strerror}; choose another place") from None

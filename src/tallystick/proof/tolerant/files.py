"""Files of a record: a reader for one untrusted directory, and writing so that a kill leaves whole files."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

from tallystick.proof import files

Read = Callable[[str, int], bytes]
"""Reads the file of that name, of at most that many bytes; Refused if it is not there, not a file or larger."""


def reader(path: Path) -> Read:
    """A reader of the directory `path` (see `proof.files`)."""
    return functools.partial(files.read, path)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is there either whole or not at all, also after a kill or a power cut."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync(path.parent)


def append(path: Path, data: bytes) -> None:
    """Appends and forces to disk. A kill can leave part of `data`, which the reader of the file must notice."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

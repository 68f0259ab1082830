"""Writing so that a kill or a power cut leaves whole files."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is there in full or, after a crash, not at all."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def append(path: Path, data: bytes) -> None:
    """Appends and forces to disk. A crash can leave part of `data`, which the reader of the file must notice."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(directory: Path) -> None:
    """Makes the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files of a record: read from an untrusted directory, written so that a kill leaves whole files.

A file is opened relative to the directory, never through a symbolic link, must be a regular file, and its size is
checked before it is read. File names are constants of the format, or a constant and a number.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tallystick.errors import Refused

Read = Callable[[str, int], bytes]
"""Reads the file of that name, of at most that many bytes; Refused if it is not there, not a file or larger."""


@contextmanager
def reading(path: Path) -> Iterator[Read]:
    """A reader of the directory `path`.

    Raises:
        Refused: `missing` or `unreadable`.
    """
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        code = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        raise Refused(code, f"{path}: {error.strerror}; a record is a directory") from None
    try:
        yield lambda name, limit: _read(directory, name, limit)
    finally:
        os.close(directory)


def _read(directory: int, name: str, limit: int) -> bytes:
    """Non-blocking, because a named pipe would otherwise hold up `open` before anything can be checked."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise Refused("missing", f"{name}: is not in the record; fetch the record again") from None
    except OSError as error:
        code = "not_a_file" if error.errno in {errno.ELOOP, errno.ENXIO} else "unreadable"
        raise Refused(code, f"{name}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("not_a_file", f"{name}: is not a regular file")
        if status.st_size > limit:
            raise Refused("too_large", f"{name}: {status.st_size} bytes, at most {limit} are admitted")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size)
    except OSError as error:
        raise Refused("unreadable", f"{name}: {error.strerror}") from None
    finally:
        os.close(descriptor)


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

"""Reading from a directory that a stranger may have filled.

A file is opened relative to its directory, never through a symbolic link, must be a regular file, and its size is
checked before it is read. Names come from this package, never from a file.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from tallystick.errors import Refused

PIECE_BYTES: Final = 2**20
"""How much of a file is in memory while it is hashed."""


@contextmanager
def opened(folder: Path, name: str, limit: int) -> Iterator[BinaryIO]:
    """The regular file `name` of `folder`, of at most `limit` bytes; errors while it is read are refusals, too.

    Raises:
        Refused: `missing`, `not_a_file`, `too_large` or `unreadable`.
    """
    descriptor = _open(folder, name)
    try:
        _require_regular(descriptor, name, limit)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    except OSError as error:
        raise Refused("unreadable", f"{name}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def read(folder: Path, name: str, limit: int) -> bytes:
    """All of a file of at most `limit` bytes.

    Raises:
        Refused: as `opened`.
    """
    with opened(folder, name, limit) as file:
        return file.read(limit)


def hash_of(file: BinaryIO) -> str:
    """SHA-256 of the rest of `file`, read piece by piece."""
    state = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        state.update(piece)
    return state.hexdigest()


def _open(folder: Path, name: str) -> int:
    """Opens `name`, which may be "folder/file". No part of it may be a link; `folder` itself is the caller's choice.

    Non-blocking, because a named pipe would otherwise hold up `open` before anything can be checked.
    """
    *inner, last = name.split("/")
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        code = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        raise Refused(code, f"{folder}: {error.strerror}; a proof is a directory") from None
    try:
        for part in inner:
            outer = directory
            directory = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=outer)
            os.close(outer)
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise Refused("missing", f"{name}: is not in {folder}; fetch it from the prover") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused("not_a_file", f"{name}: is a symbolic link, and none is followed; copy the file") from None
        code = "not_a_file" if error.errno in {errno.ENXIO, errno.ENOTDIR} else "unreadable"
        raise Refused(code, f"{name}: {error.strerror}") from None
    finally:
        os.close(directory)


def _require_regular(descriptor: int, name: str, limit: int) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not_a_file", f"{name}: is not a regular file")
    if status.st_size > limit:
        raise Refused("too_large", f"{name}: {status.st_size} bytes, at most {limit} are admitted")

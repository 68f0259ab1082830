"""A reader for one untrusted directory, which a record is read through."""

import functools
from collections.abc import Callable
from pathlib import Path

from tallystick.proof import files

Read = Callable[[str, int], bytes]
"""Reads the file of that name, of at most that many bytes; Refused if it is not there, not a file or larger."""


def reader(path: Path) -> Read:
    """A reader of the directory `path` (see `proof.files`)."""
    return functools.partial(files.read, path)

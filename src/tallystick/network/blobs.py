"""Blobs by hash in any place that fsspec can reach: a local folder by default, S3 or another store by its URL.

The name of a blob is the SHA-256 of its bytes, so whoever keeps the store can lose blobs but not change one.
"""

import os
from typing import Any, Final

import fsspec

from tallystick.canon.hashing import blob_name, is_name
from tallystick.errors import Refused, TallystickError

RANDOM_SUFFIX_BYTES: Final = 8


class BlobMissingError(TallystickError):
    """A blob is not in the store, or the store cannot be reached."""


class BlobStore:
    """A folder of blobs at an fsspec URL.

    Args:
        url: such as "file:///var/lib/tallystick/blobs" or "s3://bucket/prefix".

    Raises:
        BlobMissingError: there is no such kind of store here, or no folder.
    """

    def __init__(self, url: str) -> None:
        if not url:  # fsspec takes that for the folder we are in
            raise BlobMissingError("blob store: its URL is empty; name the one that the network uses")
        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BlobMissingError(f"blob store {url}: {error}") from None
        self._filesystem: Any = filesystem
        self._root: str = root.rstrip("/")
        self._local = "file" in filesystem.protocol
        if self._local and not os.path.isdir(self._root):  # a mistyped one would be empty, and wait for blobs forever
            raise BlobMissingError(f"blob store {url}: no such folder; make it, or name the one that the network uses")

    def put(self, data: bytes) -> str:
        """Stores `data` and returns its name. A blob that is there already is not written again."""
        name = blob_name(data)
        path = self._path(name)
        try:
            if not self._filesystem.exists(path):
                self._write(path, data)
        except OSError as error:
            raise BlobMissingError(f"blob store {self._root}: cannot write {name}: {error}") from error
        return name

    def get(self, name: str, limit: int) -> bytes:
        """The bytes named `name`.

        Args:
            limit: largest size admitted, bytes; checked before anything is read.

        Raises:
            BlobMissingError: it is not there.
            Refused: `too_large`, `bad_name` or `wrong_blob` (the bytes do not have that name).
        """
        if not is_name(name):
            raise Refused("bad_name", f"blob: a name is 64 lower-case hex characters, got {name[:80]!r}")
        path = self._path(name)
        try:
            size = self._filesystem.size(path)
            if size is not None and size > limit:
                raise Refused("too_large", f"blob {name}: {size} bytes, at most {limit} are admitted")
            data: bytes = self._filesystem.cat_file(path, 0, limit + 1)
        except OSError as error:
            raise BlobMissingError(f"blob {name}: not in {self._root}: {error}") from error
        if blob_name(data) != name:
            raise Refused("wrong_blob", f"blob {name}: the stored bytes have another hash")
        return data

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write(self, path: str, data: bytes) -> None:
        """Object stores write in one piece; on a local disk a reader must not see half a blob."""
        if not self._local:
            self._filesystem.pipe_file(path, data)
            return
        draft = f"{path}.{os.urandom(RANDOM_SUFFIX_BYTES).hex()}"
        self._filesystem.pipe_file(draft, data)
        os.replace(draft, path)

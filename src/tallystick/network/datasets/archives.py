"""Named members out of an archive that a stranger made.

The archive is read as one forward stream, never unpacked: nothing in it decides where anything is written, only members
asked for by their full name are looked at, and both the whole stream and each member have a bound before anything is
held in memory.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Sequence
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Final

from tallystick.errors import Refused
from tallystick.network.datasets.catalog import Member

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_STREAM_BYTES: Final = 256 * 2**20
"""Unpacked bytes of a whole archive: over four times the largest one in the catalog."""
BROKEN: Final = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError)


class _Bounded(io.RawIOBase):
    """Passes a stream on until more than `limit` bytes have come out of it."""

    def __init__(self, source: IO[bytes] | gzip.GzipFile, limit: int, what: str) -> None:
        self._source, self._left, self._limit, self._what = source, limit, limit, what

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        data = self._source.read(min(len(view), self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise Refused("too_large", f"{self._what}: unpacks to more than {self._limit} bytes")
        view[: len(data)] = data
        return len(data)


def read_members(
    archive: IO[bytes], wanted: Sequence[Member], what: str, *, gzipped: bool, limit: int = MAX_STREAM_BYTES
) -> list[bytes]:
    """The contents of the `wanted` members of a tar archive, in that order.

    Args:
        what: how messages name the archive.
        gzipped: whether the tar stream is compressed.
        limit: most bytes of the uncompressed stream.

    Raises:
        Refused: `malformed`, `too_large`, `missing_member`, `not_a_file`, `repeated_member`, `wrong_size` or
            `digest_mismatch`.
    """
    names = {member.path: member for member in wanted}
    found: dict[str, bytes] = {}
    try:
        bounded = io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=archive) if gzipped else archive, limit, what))
        with tarfile.open(fileobj=bounded, mode="r|") as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                if name in names:
                    _refuse_unusual(info, name in found, what)
                    found[name] = _read(tar, info, names[name], what)
    except BROKEN as error:
        raise Refused("malformed", f"{what}: not a readable archive: {str(error)[:200]}") from None
    missing = [member.path for member in wanted if member.path not in found]
    if missing:
        raise Refused("missing_member", f"{what}: has no {missing[0]}; is it another version?")
    return [found[member.path] for member in wanted]


def _refuse_unusual(info: tarfile.TarInfo, repeated: bool, what: str) -> None:
    if not info.isreg() or info.issparse():
        raise Refused("not_a_file", f"{what}: {info.name} is not an ordinary file")
    if repeated:
        raise Refused("repeated_member", f"{what}: {info.name} is in it twice")


def _read(tar: tarfile.TarFile, info: tarfile.TarInfo, member: Member, what: str) -> bytes:
    if info.size != member.size:
        raise Refused("wrong_size", f"{what}: {member.path} has {info.size} bytes, expected {member.size}")
    file = tar.extractfile(info)
    assert file is not None  # it is an ordinary file
    data = file.read(member.size)
    require_digest(data, member.sha256, f"{what}: {member.path}")
    return data


def unzip(data: bytes, limit: int, what: str) -> bytes:
    """Uncompresses gzip `data` to at most `limit` bytes.

    Raises:
        Refused: `malformed` or `too_large`.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unzipped = file.read(limit + 1)
    except BROKEN as error:
        raise Refused("malformed", f"{what}: not a gzip file: {str(error)[:200]}") from None
    if len(unzipped) > limit:
        raise Refused("too_large", f"{what}: unpacks to more than {limit} bytes")
    return unzipped


def require_digest(data: bytes, expected: str, what: str) -> None:
    """Refuses bytes that are not those that were pinned.

    Raises:
        Refused: `digest_mismatch`, with both digests.
    """
    found = sha256(data).hexdigest()
    if found != expected:
        raise Refused("digest_mismatch", f"{what}: SHA-256 is {found}, expected {expected}")

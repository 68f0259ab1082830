"""Merkle openings: that an element is in the tensor a root names. The trees are those of docs/proof-format.md.

A tensor is cut into chunks of 4096 bytes, whose tree has a root; the *lines* of a step are a tree over those roots.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from tallystick.canon.hashing import DIGEST_BYTES, digest
from tallystick.canon.merkle import climb, leaf_hash, root_of
from tallystick.proof.dispute.referee.numbers import BYTES, Value, decoded

CHUNK_BYTES: Final = 4096
Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Path = Annotated[list[Digest], msgspec.Meta(max_length=40)]


class MissingError(Exception):
    """An opening is wrong, or one that is needed is not there."""


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shows a chunk of a line under the root of a step's lines."""

    line: Annotated[int, msgspec.Meta(ge=0)]
    line_path: Path
    chunk: Annotated[int, msgspec.Meta(ge=0)]
    data: Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES)]
    chunk_path: Path


def chunk_count(nbytes: int) -> int:
    return -(-nbytes // CHUNK_BYTES)


def data_root(data: bytes | memoryview) -> bytes:
    """The root over the chunks of a tensor's bytes."""
    return root_of(chunk_leaves(data))


def chunk_leaves(data: bytes | memoryview) -> list[bytes]:
    return [leaf_hash(data[start : start + CHUNK_BYTES]) for start in range(0, len(data), CHUNK_BYTES)]


def tensor_leaf(name: str, dtype: str, shape: Sequence[int], chunks: bytes) -> bytes:
    """A tensor as a leaf under a state, contribution or records root, from the root over its chunks."""
    sizes = b"".join(size.to_bytes(8, "big") for size in shape)
    return leaf_hash(digest("tallystick/tensor", name.encode(), dtype.encode(), sizes, chunks))


def named_root(role: str, context: bytes, count: int, top: bytes) -> bytes:
    """A state, contribution or records root, from the root over its tensors."""
    return digest(f"tallystick/{role}", context, count.to_bytes(8, "big"), top)


def height(count: int) -> int:
    """The level of the root of a tree with `count` leaves, which are level 0."""
    return max(count - 1, 0).bit_length()


def width(count: int, level: int) -> int:
    """How many nodes a level has."""
    return -(-count >> level) if level else count


class Opened:
    """The elements that openings show, for the rules to read.

    Raises:
        MissingError: from `read`, if the element is not shown or not as it must be.
    """

    def __init__(self, root: bytes, lines: int, below: int, openings: Sequence[Opening]) -> None:
        """`root` is over `lines` lines; only lines before `below` are agreed."""
        self._root, self._lines, self._below = root, lines, below
        self._openings = {(opening.line, opening.chunk): opening for opening in openings}
        self._checked: dict[tuple[int, int], bytes] = {}

    def element(self, line: int, dtype: str, elements: int, place: int) -> Value:
        """Element `place` of a line with so many elements."""
        if not 0 <= place < elements:
            raise MissingError(f"element {place} of line {line}, which has {elements}")
        size = BYTES[dtype]
        chunk, start = divmod(place * size, CHUNK_BYTES)
        data = self._chunk(line, chunk, elements * size)
        return decoded(dtype, data[start : start + size])

    def _chunk(self, line: int, chunk: int, nbytes: int) -> bytes:
        key = (line, chunk)
        if key not in self._checked:
            opening = self._openings.get(key)
            if opening is None or line >= self._below:
                raise MissingError(f"chunk {chunk} of line {line} is not opened")
            if len(opening.data) != min(CHUNK_BYTES, nbytes - chunk * CHUNK_BYTES):
                raise MissingError(f"chunk {chunk} of line {line} has {len(opening.data)} bytes")
            tensor = climb(leaf_hash(opening.data), chunk, chunk_count(nbytes), opening.chunk_path)
            if tensor is None or climb(tensor, line, self._lines, opening.line_path) != self._root:
                raise MissingError(f"chunk {chunk} of line {line} does not lead to the root")
            self._checked[key] = opening.data
        return self._checked[key]

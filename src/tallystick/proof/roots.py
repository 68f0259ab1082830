"""State roots: 32 bytes that name a set of tensors, of which any 4 KiB can be opened.

    chunk  = leaf(4 KiB of the tensor's little-endian bytes)
    tensor = digest("tallystick/tensor", name, dtype, shape, merkle root over its chunks)
    root   = digest("tallystick/" + role, context, number of tensors, merkle root over its tensors sorted by name)

The role keeps a state, a contribution and a data set apart even when they hold the same tensors; the context binds
what belongs to the tensors but is not one, such as the number of the step. Counts are bound by shape and by number,
so no tree can be read as one of another size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from tallystick.canon.hashing import digest
from tallystick.canon.merkle import climb, leaf_hash, path_to, root_of
from tallystick.program.graph import BYTES_PER_ELEMENT, MAX_ELEMENTS, MAX_TENSORS
from tallystick.program.interpreter import DTYPE_NAMES
from tallystick.program.tensors import tensor_bytes

CHUNK_BYTES: Final = 4096
MAX_STATE_TENSORS: Final = 3 * MAX_TENSORS
"""Parameters, slots and exponents."""
STATE, CONTRIBUTION, RECORDS, MODEL = "state", "contribution", "records", "model"
MODEL_PARTS: Final = ("parameter/", "buffer/")


@dataclass(frozen=True)
class ChunkOpening:
    """Shows that `data` is chunk `index` of tensor `name` under a root."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    index: int
    data: bytes
    chunk_path: tuple[bytes, ...]
    tensor_index: int
    tensors: int
    tensor_path: tuple[bytes, ...]


def state_root(state: Mapping[str, Tensor], step: int) -> str:
    """Names the training state before `step` (so step 0 names the initial state), as hex."""
    return _root(STATE, step.to_bytes(8, "big"), state)


def contribution_root(contribution: Mapping[str, Tensor]) -> str:
    """Names a contribution or a sum of contributions, as hex. What it contributes to is bound by its commitment."""
    return _root(CONTRIBUTION, b"", contribution)


def records_root(records: Mapping[str, Tensor]) -> str:
    """Names a data set, as hex: order, contents and labels of its records."""
    return _root(RECORDS, b"", records)


def model_root(digests: Mapping[str, bytes]) -> str:
    """Names the model in a state with these tensor digests, as hex: parameters and buffers, without the optimizer."""
    return root_from_digests(
        MODEL, b"", {name: value for name, value in digests.items() if name.startswith(MODEL_PARTS)}
    )


def state_root_of(digests: Mapping[str, bytes], step: int) -> str:
    """`state_root` of a state with these tensor digests."""
    return root_from_digests(STATE, step.to_bytes(8, "big"), digests)


def tensor_digests(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The digest of each tensor, by name in sorted order; these are the leaves under a root."""
    return {name: _tensor_digest(name, tensors[name]) for name in sorted(tensors)}


def root_from_digests(role: str, context: bytes, digests: Mapping[str, bytes]) -> str:
    """The root over tensor digests, which must be in the order of their sorted names."""
    assert list(digests) == sorted(digests)
    return _combine(role, context, len(digests), root_of([leaf_hash(value) for value in digests.values()]))


def open_chunk(role: str, context: bytes, tensors: Mapping[str, Tensor], name: str, index: int) -> ChunkOpening:
    """The opening of one chunk, for a referee who holds only the root of (`role`, `context`, `tensors`)."""
    digests = tensor_digests(tensors)
    place = list(digests).index(name)
    value = tensors[name]
    chunks = _chunks(value)
    data = bytes(tensor_bytes(value)[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    return ChunkOpening(
        name,
        DTYPE_NAMES[value.dtype],
        tuple(value.shape),
        index,
        data,
        tuple(path_to(chunks, index)),
        place,
        len(digests),
        tuple(path_to([leaf_hash(d) for d in digests.values()], place)),
    )


def opening_holds(role: str, context: bytes, root: str, opening: ChunkOpening) -> bool:
    """Whether `opening` is what it says, under `root`. No opening makes this raise."""
    if opening.tensors > MAX_STATE_TENSORS or any(not 0 <= size <= MAX_ELEMENTS for size in opening.shape):
        return False
    size = BYTES_PER_ELEMENT.get(opening.dtype, 0) * math.prod(opening.shape)
    if len(opening.data) != min(CHUNK_BYTES, size - opening.index * CHUNK_BYTES):
        return False
    chunks = climb(leaf_hash(opening.data), opening.index, -(-size // CHUNK_BYTES), opening.chunk_path)
    if chunks is None:
        return False
    tensor = _header_digest(opening.name, opening.dtype, opening.shape, chunks)
    top = climb(leaf_hash(tensor), opening.tensor_index, opening.tensors, opening.tensor_path)
    return top is not None and _combine(role, context, opening.tensors, top) == root


def _root(role: str, context: bytes, tensors: Mapping[str, Tensor]) -> str:
    return root_from_digests(role, context, tensor_digests(tensors))


def _combine(role: str, context: bytes, count: int, top: bytes) -> str:
    return digest(f"tallystick/{role}", context, count.to_bytes(8, "big"), top).hex()


def _chunks(value: Tensor) -> list[bytes]:
    data = tensor_bytes(value)
    return [leaf_hash(data[start : start + CHUNK_BYTES]) for start in range(0, data.nbytes, CHUNK_BYTES)]


def _tensor_digest(name: str, value: Tensor) -> bytes:
    return _header_digest(name, DTYPE_NAMES[value.dtype], tuple(value.shape), root_of(_chunks(value)))


def _header_digest(name: str, dtype: str, shape: tuple[int, ...], chunks: bytes) -> bytes:
    sizes = b"".join(size.to_bytes(8, "big") for size in shape)
    return digest("tallystick/tensor", name.encode(), dtype.encode(), sizes, chunks)

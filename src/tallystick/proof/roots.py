"""State roots: 32 bytes that name a set of tensors, of which any 4 KiB can be opened (`dispute/referee/openings`).

    chunk  = leaf(4 KiB of the tensor's little-endian bytes)
    tensor = digest("tallystick/tensor", name, dtype, shape, merkle root over its chunks)
    root   = digest("tallystick/" + role, context, number of tensors, merkle root over its tensors sorted by name)

The role keeps a state, a contribution and a data set apart even when they hold the same tensors; the context binds
what belongs to the tensors but is not one, such as the number of the step. Counts are bound by shape and by number,
so no tree can be read as one of another size.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from tallystick.canon.hashing import digest
from tallystick.canon.merkle import leaf_hash, root_of
from tallystick.program.interpreter import DTYPE_NAMES
from tallystick.program.tensors import tensor_bytes

CHUNK_BYTES: Final = 4096
STATE, CONTRIBUTION, RECORDS, MODEL = "state", "contribution", "records", "model"
MODEL_PARTS: Final = ("parameter/", "buffer/")


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


def _root(role: str, context: bytes, tensors: Mapping[str, Tensor]) -> str:
    return root_from_digests(role, context, tensor_digests(tensors))


def _combine(role: str, context: bytes, count: int, top: bytes) -> str:
    return digest(f"tallystick/{role}", context, count.to_bytes(8, "big"), top).hex()


def _chunks(value: Tensor) -> list[bytes]:
    data = tensor_bytes(value)
    return [leaf_hash(data[start : start + CHUNK_BYTES]) for start in range(0, data.nbytes, CHUNK_BYTES)]


def _tensor_digest(name: str, value: Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(8, "big") for size in value.shape)
    dtype = DTYPE_NAMES[value.dtype]
    return digest("tallystick/tensor", name.encode(), dtype.encode(), sizes, root_of(_chunks(value)))

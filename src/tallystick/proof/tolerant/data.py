"""Records of any map-style data set as bytes: every byte of every record counts.

The 2021 code hashed the printed form of each array, which NumPy abbreviates: 3.5 % of a CIFAR image and no label.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tallystick.canon.hashing import digest
from tallystick.canon.merkle import leaf_hash, root_of
from tallystick.errors import TallystickError
from tallystick.proof.tolerant.run import Dataset

SAMPLE_DRAWS: Final = 3
MAX_NESTING: Final = 16


class DataError(TallystickError):
    """A data set that cannot be named: its records have no bytes, or different ones each time."""


def record_digest(record: Any) -> bytes:
    """Names one record by type, shape and every byte of everything in it.

    Raises:
        DataError: something in it is neither tensor, array, number, text nor bytes, nor a collection of these.
    """
    return digest("tallystick/tolerant/record", *_parts(record, 0))


def _parts(value: Any, depth: int) -> Iterator[bytes]:
    """Each value as its kind and its bytes; collections as their kind, their length and their parts."""
    if depth > MAX_NESTING:
        raise DataError(f"a record is nested more than {MAX_NESTING} deep; pass a data set of plain tensors")
    if isinstance(value, Tensor):
        yield f"tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield f"array {value.dtype.newbyteorder('<').str} {list(value.shape)}".encode()
        yield np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"))).tobytes()
    elif isinstance(value, np.generic):
        yield from _parts(np.asarray(value), depth)
    elif isinstance(value, bool | int | None):
        yield f"{type(value).__name__} {value}".encode()
    elif isinstance(value, float):
        yield f"float {value.hex()}".encode()
    elif isinstance(value, str | bytes):
        yield type(value).__name__.encode()
        yield value.encode() if isinstance(value, str) else value
    elif isinstance(value, dict):
        yield f"dict {len(value)}".encode()
        for key in sorted(value, key=str):
            yield from _parts(key, depth + 1)
            yield from _parts(value[key], depth + 1)
    elif isinstance(value, list | tuple):
        yield f"sequence {len(value)}".encode()
        for part in value:
            yield from _parts(part, depth + 1)
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise DataError(f"a record holds a {kind}, whose bytes are not known; let the data set return tensors")


def record_digests(data: Dataset) -> list[bytes]:
    """The digest of each record, without disturbing the global generators.

    Raises:
        DataError: also if a record is not the same when read again, as with random augmentation.
    """
    count = len(data)
    if not count:
        raise DataError("the data set is empty; there is nothing to train on")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        digests = [record_digest(data[index]) for index in range(count)]
        again = {record_digest(data[0]) for _ in range(SAMPLE_DRAWS)}
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    if again != {digests[0]}:
        raise DataError(
            "record 0 of the data set is different each time it is read; "
            "pass the records as they are stored, and augment inside the training step"
        )
    return digests


def data_root(digests: Sequence[bytes]) -> str:
    """The Merkle root over all records, in order, bound to their number."""
    return digest(
        "tallystick/tolerant/data", len(digests).to_bytes(8, "big"), root_of([leaf_hash(d) for d in digests])
    ).hex()


def batch_digest(digests: Sequence[bytes], indices: Sequence[int]) -> str:
    """Names the records of one step, in their order."""
    return digest("tallystick/tolerant/batch", *(digests[index] for index in indices)).hex()

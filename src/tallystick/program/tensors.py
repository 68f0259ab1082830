"""Named tensors as blobs: written as safetensors with one possible spelling, read back strictly.

The writer orders tensors by name and pads the header the same way everywhere, so equal tensors give equal bytes and
one blob name, whichever version of a library is installed. The reader accepts exactly the tensors it was told to
expect. Bytes are little-endian.

Sums of gradients, which travel in every step, have a shorter spelling: their entries and nothing else, tensor by tensor
in the order of names. Both sides know names, shapes and dtypes from the program.
"""

import json
from collections.abc import Iterable
from typing import Final

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.rounding import canonical
from tallystick.program.dtypes import DTYPE_NAMES, DTYPES
from tallystick.program.graph import TensorSpec
from tallystick.program.optimizers import Tensors

HEADER_BYTES_PER_TENSOR: Final = 1024
"""More than a header entry can take: names are at most 512 characters."""
SAFETENSORS_DTYPES: Final = {"float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The entries of `tensor` in row-major order, little-endian, without copying where that is possible."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def blob_limit(specs: Iterable[TensorSpec]) -> int:
    """The largest size of a blob that holds tensors of these specs."""
    return sum(spec.nbytes + HEADER_BYTES_PER_TENSOR for spec in specs) + HEADER_BYTES_PER_TENSOR


def to_blob(tensors: Tensors) -> bytes:
    """`tensors` as a safetensors file, tensors sorted by name, header padded with spaces to a multiple of 8."""
    header: dict[str, object] = {}
    chunks: list[memoryview] = []
    offset = 0
    for name in sorted(tensors):
        data = tensor_bytes(tensors[name])
        dtype = SAFETENSORS_DTYPES[DTYPE_NAMES[tensors[name].dtype]]
        end = offset + data.nbytes
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [offset, end]}
        chunks.append(data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def without_zeros(tensors: Tensors) -> Tensors:
    """`tensors` without those of nothing but zero bytes, such as an optimizer's slots before the first step."""
    return {name: value for name, value in tensors.items() if np.frombuffer(tensor_bytes(value), np.uint8).any()}


def from_blob(data: bytes, expected: Iterable[TensorSpec], what: str, *, zeros_left_out: bool = False) -> Tensors:
    """Reads exactly the `expected` tensors from untrusted bytes.

    Args:
        zeros_left_out: the file was written by `without_zeros`.

    Raises:
        Refused: `too_large`, `malformed`, `wrong_tensors`, or `not_canonical` for a float32 that is subnormal, negative
            zero or not finite.
    """
    specs = {spec.name: spec for spec in expected}
    limit = blob_limit(specs.values())
    if len(data) > limit:
        raise Refused("too_large", f"{what}: {len(data)} bytes, at most {limit} are admitted")
    try:
        found = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError, OverflowError) as error:
        raise Refused("malformed", f"{what}: not a safetensors file: {str(error)[:200]}") from None
    if zeros_left_out:
        found |= {name: torch.zeros(s.shape, dtype=DTYPES[s.dtype]) for name, s in specs.items() if name not in found}
    if set(found) != set(specs):
        odd = sorted(set(found) ^ set(specs))[0]
        raise Refused("wrong_tensors", f"{what}: tensor {odd[:80]!r} is missing or was not expected")
    for name, spec in specs.items():
        _check(spec, found[name], what)
    return {name: found[name] for name in specs}


def entries_size(specs: Iterable[TensorSpec]) -> int:
    """Bytes that tensors of these specs take as `to_entries` writes them."""
    return sum(spec.nbytes for spec in specs)


def to_entries(tensors: Tensors) -> bytes:
    """The entries of all `tensors`, sorted by name, without a header."""
    return b"".join(tensor_bytes(tensors[name]) for name in sorted(tensors))


def from_entries(data: bytes, expected: Iterable[TensorSpec], what: str) -> Tensors:
    """Reads the `expected` tensors, written by `to_entries`, from untrusted bytes.

    Raises:
        Refused: `wrong_tensors` for another number of bytes, `not_canonical` as `from_blob`.
    """
    specs = {spec.name: spec for spec in expected}
    wanted = entries_size(specs.values())
    if len(data) != wanted:
        raise Refused("wrong_tensors", f"{what}: {len(data)} bytes, expected {wanted} for {len(specs)} tensors")
    found, start = {}, 0
    for name in sorted(specs):
        spec = specs[name]
        part = np.array(memoryview(data)[start : start + spec.nbytes])  # torch may write to it
        found[name] = torch.from_numpy(part).view(DTYPES[spec.dtype]).reshape(spec.shape)
        start += spec.nbytes
        _check(spec, found[name], what)
    return {name: found[name] for name in specs}


def _check(spec: TensorSpec, value: Tensor, what: str) -> None:
    if DTYPE_NAMES.get(value.dtype) != spec.dtype or tuple(value.shape) != spec.shape:
        got = f"{value.dtype} {tuple(value.shape)}"
        raise Refused("wrong_tensors", f"{what}: {spec.name}: expected {spec.dtype} {spec.shape}, got {got}")
    if value.dtype == torch.float32:
        plain = torch.isfinite(value).all() and torch.equal(canonical(value).view(torch.int32), value.view(torch.int32))
        if not plain:
            raise Refused("not_canonical", f"{what}: {spec.name}: holds a NaN, an infinity, -0 or a subnormal number")
    if value.dtype == torch.bool and bool((value.view(torch.uint8) > 1).any()):
        raise Refused("not_canonical", f"{what}: {spec.name}: holds a bool that is neither 0 nor 1")

"""Roots name tensors: values, shapes, dtypes, names and number."""

from hashlib import sha256

import pytest
import torch

from tallystick.program.optimizers import Tensors
from tallystick.proof.roots import (
    STATE,
    contribution_root,
    records_root,
    root_from_digests,
    state_root,
    tensor_digests,
)

STEP = 7
CONTEXT = STEP.to_bytes(8, "big")
GOLDEN = "762850c4b98ad872fcfb02e0a770b9d6319830d538784060bdeeb5f2abe3232d"


def tensors() -> Tensors:
    """One tensor of three chunks, one of exactly one, a scalar and an empty one."""
    return {
        "weight": torch.arange(2100, dtype=torch.float32).reshape(3, 700),
        "bytes": torch.arange(4096).to(torch.uint8),
        "exponent": torch.tensor(-3, dtype=torch.int32),
        "empty": torch.zeros(0, 4),
    }


def parts(domain: bytes, *values: bytes) -> bytes:
    """A domain-separated digest, spelled out with hashlib alone."""
    return sha256(b"".join(len(v).to_bytes(8, "big") + v for v in (domain, *values))).digest()


def leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def sizes(*shape: int) -> bytes:
    return b"".join(size.to_bytes(8, "big") for size in shape)


def golden_root() -> str:
    weight = b"".join(float_bytes(value) for value in range(2100))
    a, b, c = (leaf(weight[start : start + 4096]) for start in (0, 4096, 8192))
    digests = [
        parts(b"tallystick/tensor", b"bytes", b"uint8", sizes(4096), leaf(bytes(i % 256 for i in range(4096)))),
        parts(b"tallystick/tensor", b"empty", b"float32", sizes(0, 4), sha256(b"").digest()),
        parts(b"tallystick/tensor", b"exponent", b"int32", b"", leaf(b"\xfd\xff\xff\xff")),
        parts(b"tallystick/tensor", b"weight", b"float32", sizes(3, 700), node(node(a, b), c)),
    ]
    w, x, y, z = map(leaf, digests)
    return parts(b"tallystick/state", CONTEXT, sizes(4), node(node(w, x), node(y, z))).hex()


def float_bytes(value: int) -> bytes:
    """A small non-negative integer as IEEE 754 binary32, little-endian, from its bits."""
    if value == 0:
        return bytes(4)
    exponent = value.bit_length() - 1
    return (((exponent + 127) << 23) | ((value << (23 - exponent)) & 0x7FFFFF)).to_bytes(4, "little")


def test_a_state_root_is_what_its_description_gives_with_hashlib_alone() -> None:
    assert state_root(tensors(), STEP) == golden_root() == GOLDEN


def test_the_order_of_the_mapping_does_not_matter() -> None:
    shuffled = dict(reversed(tensors().items()))
    assert state_root(shuffled, STEP) == state_root(tensors(), STEP)


def test_a_root_from_digests_is_the_root_of_the_tensors() -> None:
    assert root_from_digests(STATE, CONTEXT, tensor_digests(tensors())) == state_root(tensors(), STEP)


def test_step_and_role_are_bound() -> None:
    values = tensors()
    roots = {state_root(values, 0), state_root(values, 1), contribution_root(values), records_root(values)}
    assert len(roots) == 4


@pytest.mark.parametrize(
    "changed",
    [
        {"weight": torch.arange(2100, dtype=torch.float32).reshape(700, 3)},
        {"weight": torch.arange(2100, dtype=torch.int32).reshape(3, 700)},
        {"empty": torch.zeros(4, 0)},
        {"other": torch.zeros(0)},
    ],
)
def test_shape_dtype_and_presence_are_bound(changed: Tensors) -> None:
    assert state_root({**tensors(), **changed}, STEP) != state_root(tensors(), STEP)


def test_a_view_with_strides_has_the_root_of_its_values() -> None:
    wide = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    assert state_root({"w": wide.t()}, 0) == state_root({"w": wide.t().contiguous()}, 0)

"""Merkle trees over lists of byte strings, shaped as in RFC 6962 (Certificate Transparency), section 2.1.

Leaves and inner nodes are hashed in different domains, so a node cannot be passed off as a leaf. A list of n > 1
entries splits at the largest power of two below n, so no entry is ever duplicated to fill a row, and the number of
leaves is bound by the caller (see `proof/roots.py`), who hashes it beside the root.
"""

from collections.abc import Sequence
from hashlib import sha256

from tallystick.canon.hashing import DIGEST_BYTES

LEAF, NODE = b"\x00", b"\x01"
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes | memoryview) -> bytes:
    state = sha256(LEAF)
    state.update(data)
    return state.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(NODE + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes.

    Built row by row: pairing neighbors and carrying an odd last node up unchanged gives RFC 6962's tree.
    """
    if not leaves:
        return EMPTY_ROOT
    row = list(leaves)
    while len(row) > 1:
        paired = [node_hash(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
        row = paired + row[len(paired) * 2 :]
    return row[0]


def path_to(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The sibling hashes that open leaf `index`, from the leaf upward (RFC 6962, section 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of a tree with {len(leaves)} leaves")
    path, row = [], list(leaves)
    while len(row) > 1:
        sibling = index ^ 1
        if sibling < len(row):
            path.append(row[sibling])
        paired = [node_hash(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
        row = paired + row[len(paired) * 2 :]
        index //= 2
    return path


def climb(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root that `path` leads to from `leaf` (a leaf hash) as entry `index` of `count`; None if it cannot fit."""
    if not 0 <= index < count or any(len(node) != DIGEST_BYTES for node in path):
        return None
    value, width, steps = leaf, count, iter(path)
    while width > 1:
        if index ^ 1 < width:
            sibling = next(steps, None)
            if sibling is None:
                return None
            value = node_hash(sibling, value) if index & 1 else node_hash(value, sibling)
        index, width = index // 2, (width + 1) // 2
    return value if next(steps, None) is None else None


def opens(root: bytes, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """Whether `path` shows that `leaf` (a leaf hash) is entry `index` of the `count` entries under `root`."""
    return climb(leaf, index, count, path) == root

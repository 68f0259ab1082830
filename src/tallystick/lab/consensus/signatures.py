"""Signatures for a cluster in one process: a keyed hash in place of Ed25519, or the real thing.

A keyed hash takes 2 microseconds where Ed25519 takes 130. It is no signature: who verifies could sign. That weakens no
test, because nothing in the lab signs for an identity but its own node; what is checked is *that* every rule asks.
"""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b, sha256
from typing import Final
from unittest.mock import patch

from nacl.signing import SigningKey

from tallystick.canon import chunks, sealed, votes
from tallystick.canon.identity import SIGNATURE_BYTES, Key
from tallystick.consensus.pbft import normal, pool, replica, state
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.messages import OnChannel, open_message
from tallystick.ledger import transactions


class FastKey(Key):
    """Signs with a keyed hash under the identity of a real key."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(SigningKey(seed))

    def sign(self, message: bytes) -> bytes:
        return _keyed(self.identity, message)


def _keyed(identity: str, message: bytes) -> bytes:
    return blake2b(message, key=bytes.fromhex(identity), digest_size=SIGNATURE_BYTES).digest()


def _verifies(identity: str, message: bytes, signature: bytes) -> bool:
    return signature == _keyed(identity, message)


@functools.cache
def key_of(name: str, *, real: bool) -> Key:
    """The key of `name` in every run: the same identity, whichever way it signs."""
    seed = sha256(f"tallystick lab {name}".encode()).digest()
    return Key.from_seed(seed) if real else FastKey(seed)


def chain_of(*, real: bool) -> str:
    """Two chains, so that what one way of signing has verified is never taken for the other's."""
    return "lab-ed25519" if real else "lab"


_opened: dict[bytes, tuple[str, OnChannel]] = {}
"""The messages of one run, by frame."""
MOST_OPENED: Final = 32_768
EARLY_FRAMES: Final = 48
"""Few enough that a short flood fills them."""


def _open_once(group: Group, data: bytes) -> tuple[str, OnChannel]:
    """What `open_message` says, which depends on nothing but chain and bytes: all replicas of the one chain are in this
    process, and one frame goes to all of them."""
    known = _opened.get(data)
    if known is None:
        if len(_opened) >= MOST_OPENED:
            _opened.clear()
        known = _opened[data] = open_message(group, data)
    return known


def forget_verified() -> None:
    """For when what counts as verified changes."""
    _opened.clear()
    votes._open_small.cache_clear()


@contextmanager
def laboratory(*, real: bool, chunk_bytes: int, block_requests: int) -> Iterator[None]:
    """Real or fast signatures, snapshots in small chunks and small blocks, while inside.

    A few dozen requests shall fill several blocks in flight and take several chunks to transfer.
    """
    settings: list[tuple[object, str, object]] = [
        (chunks, "CHUNK_BYTES", chunk_bytes),
        (pool, "MAX_BLOCK_TRANSACTIONS", block_requests),
        (state, "MAX_BLOCK_TRANSACTIONS", block_requests),
        (normal, "PIPELINE_TRANSACTIONS", 1),
        (state, "MAX_EARLY_FRAMES", EARLY_FRAMES),
        (replica, "open_message", _open_once),
    ]
    if not real:
        settings += [(sealed, "verifies", _verifies), (transactions, "verifies", _verifies)]
    _opened.clear()
    with ExitStack() as stack:
        for module, name, value in settings:
            stack.enter_context(patch.object(module, name, value))
        yield

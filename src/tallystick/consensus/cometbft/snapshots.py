"""A state in chunks, and a state from chunks that strangers send.

A snapshot is cut into chunks of CHUNK_BYTES. Its metadata lists the SHA-256 of each, and its hash covers height and
list, so a wrong chunk is found when it comes, and whoever sent it is known. The list itself is only a stranger's word
until the whole state has the digest that CometBFT's light client vouches for. Until then nothing of ours is replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from tallystick.canon.hashing import DIGEST_BYTES, digest
from tallystick.consensus.cometbft.messages import (
    Applied,
    Offer,
    RequestApplySnapshotChunk,
    RequestOfferSnapshot,
    ResponseApplySnapshotChunk,
    Snapshot,
)
from tallystick.errors import Refused

FORMAT: Final = 1
CHUNK_BYTES: Final = 2**20
"""CometBFT carries up to 16 MB; a smaller one is fetched again at less cost when it is wrong."""
MAX_CHUNKS: Final = 1024


def describe(height: int, data: bytes) -> Snapshot:
    """How a snapshot is offered to others."""
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    if not 1 <= len(chunks) <= MAX_CHUNKS:
        raise ValueError(f"a snapshot of {len(data)} bytes cannot be offered; at most {MAX_CHUNKS * CHUNK_BYTES}")
    metadata = b"".join(sha256(chunk).digest() for chunk in chunks)
    return Snapshot(height, FORMAT, len(chunks), _name(height, metadata), metadata)


def chunk_of(data: bytes, index: int) -> bytes:
    """One chunk; empty if there is none of that number."""
    return data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def judge(request: RequestOfferSnapshot) -> Offer:
    """Whether an offer can be what it says. All that can be wrong here was made up, so its senders go."""
    offered = request.snapshot
    if offered is None or len(request.app_hash) != DIGEST_BYTES:
        return Offer.REJECT
    if offered.format != FORMAT:
        return Offer.REJECT_FORMAT
    honest = (
        1 <= offered.chunks <= MAX_CHUNKS
        and 1 <= offered.height < 2**63
        and len(offered.metadata) == offered.chunks * DIGEST_BYTES
        and offered.hash == _name(offered.height, offered.metadata)
    )
    return Offer.ACCEPT if honest else Offer.REJECT_SENDER


@dataclass
class Restoration:
    """A snapshot that was accepted, and what has come of it so far."""

    snapshot: Snapshot
    app_hash: bytes
    restore: Callable[[bytes, int, bytes], None]
    """`Ledger.restore`"""
    chunks: list[bytes] = field(default_factory=list)
    senders: set[str] = field(default_factory=set)
    """Who sent the chunks that fitted the list."""

    @property
    def finished(self) -> bool:
        return len(self.chunks) == self.snapshot.chunks

    def apply(self, request: RequestApplySnapshotChunk) -> ResponseApplySnapshotChunk:
        """Takes one chunk. CometBFT hands them over in order, and one again after asking for it again."""
        index, expected = request.index, len(self.chunks)
        if self.finished or index != expected:
            return ResponseApplySnapshotChunk(Applied.RETRY_SNAPSHOT if index > expected else Applied.ACCEPT)
        if sha256(request.chunk).digest() != self.snapshot.metadata[index * DIGEST_BYTES :][:DIGEST_BYTES]:
            return ResponseApplySnapshotChunk(Applied.RETRY, (index,), _named(request.sender))
        if len(request.chunk) > CHUNK_BYTES:  # of a list that was made to fill our memory
            return ResponseApplySnapshotChunk(Applied.REJECT_SNAPSHOT, (), _named(request.sender, *self.senders))
        self.chunks.append(request.chunk)
        self.senders.add(request.sender)
        return self._finish() if self.finished else ResponseApplySnapshotChunk(Applied.ACCEPT)

    def _finish(self) -> ResponseApplySnapshotChunk:
        """Whoever served chunks of a list that does not lead to the state that was agreed on, served a lie."""
        try:
            self.restore(b"".join(self.chunks), self.snapshot.height, self.app_hash)
        except Refused:
            return ResponseApplySnapshotChunk(Applied.REJECT_SNAPSHOT, (), _named(*self.senders))
        return ResponseApplySnapshotChunk(Applied.ACCEPT)


def _named(*senders: str) -> tuple[str, ...]:
    return tuple(sorted(sender for sender in senders if sender))


def _name(height: int, metadata: bytes) -> bytes:
    return digest("tallystick/snapshot", FORMAT.to_bytes(4, "big"), height.to_bytes(8, "big"), metadata)

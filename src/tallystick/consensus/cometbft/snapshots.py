"""A state in chunks for nodes that join, and a state from chunks that strangers send.

The app hash of a block is the root of the state after it, cut into chunks (`canon/chunks.py`); the metadata of an offer
is the manifest under that root. CometBFT's light client vouches for the app hash, so an offer is known to be true
before anything is fetched, a wrong chunk is found when it comes, and whoever sent it is known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tallystick.canon import chunks
from tallystick.consensus.cometbft.messages import (
    Applied,
    Offer,
    RequestApplySnapshotChunk,
    RequestOfferSnapshot,
    ResponseApplySnapshotChunk,
)
from tallystick.consensus.cometbft.values import Snapshot
from tallystick.errors import Refused

FORMAT: Final = 1


def app_hash(state: bytes) -> bytes:
    """What validators agree on after each block."""
    return chunks.root_of(chunks.manifest_of(state))


def describe(height: int, state: bytes) -> Snapshot:
    """How a snapshot is offered to others."""
    manifest = chunks.manifest_of(state)
    root = chunks.root_of(manifest)
    return Snapshot(height, FORMAT, chunks.check_manifest(manifest, root), root, manifest)


def judge(request: RequestOfferSnapshot) -> Offer:
    """Whether an offer is of the state that was agreed on. If it is not, its senders made it up."""
    offered = request.snapshot
    if offered is None:
        return Offer.REJECT
    if offered.format != FORMAT:
        return Offer.REJECT_FORMAT
    try:
        count = chunks.check_manifest(offered.metadata, request.app_hash)
    except Refused:
        return Offer.REJECT_SENDER
    return Offer.ACCEPT if offered.chunks == count > 0 else Offer.REJECT_SENDER


@dataclass
class Restoration:
    """A snapshot that was accepted, and the chunks that have come so far."""

    manifest: bytes
    count: int
    restore: Callable[[bytes], None]
    """`Ledger.restore`"""
    parts: list[bytes] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.parts) == self.count

    def apply(self, request: RequestApplySnapshotChunk) -> ResponseApplySnapshotChunk:
        """Takes one chunk. CometBFT hands them over in order, and one again after fetching it again."""
        index, expected = request.index, len(self.parts)
        if index != expected:
            return ResponseApplySnapshotChunk(Applied.RETRY_SNAPSHOT if index > expected else Applied.ACCEPT)
        try:
            chunks.check_chunk(self.manifest, index, request.chunk)
        except Refused:
            senders = (request.sender,) if request.sender else ()
            return ResponseApplySnapshotChunk(Applied.RETRY, (index,), senders)
        self.parts.append(request.chunk)
        return self._finish() if self.finished else ResponseApplySnapshotChunk(Applied.ACCEPT)

    def _finish(self) -> ResponseApplySnapshotChunk:
        """Nobody is to blame if this fails: the network agreed on a state that this version cannot read."""
        try:
            self.restore(b"".join(self.parts))
        except Refused:
            return ResponseApplySnapshotChunk(Applied.REJECT_SNAPSHOT)
        return ResponseApplySnapshotChunk(Applied.ACCEPT)

"""What a simulated node's disk and application answer when its replica asks."""

from tallystick.canon import chunks
from tallystick.consensus.pbft.io import (
    BlocksRead,
    BodyRead,
    ChunkRead,
    Outcome,
    Persist,
    ReadBlocks,
    ReadBody,
    ReadChunk,
    VoteRecord,
)
from tallystick.lab.consensus.disk import Disk
from tallystick.lab.consensus.replicated import Replicated


def read_blocks(disk: Disk, asked: ReadBlocks) -> BlocksRead:
    disk.sync()
    found, room = [], asked.max_bytes
    for height in range(asked.first, asked.last + 1):
        row = disk.rows.get(height)
        if row is None:
            break
        room -= len(row.encoded) + len(row.block.certificate)
        if room < 0:
            break
        found.append((row.encoded, row.block.certificate))
    return BlocksRead(asked.peer, tuple(found))


def read_chunk(disk: Disk, asked: ReadChunk) -> ChunkRead:
    disk.sync()
    height, index = asked.height, asked.index
    snapshot = disk.snapshots.get(height)
    if snapshot is None:
        return ChunkRead(asked.peer, height, index, b"", b"")
    manifest = chunks.manifest_of(snapshot) if index == 0 else b""
    return ChunkRead(asked.peer, height, index, manifest, chunks.chunk(snapshot, index))


def read_body(disk: Disk, asked: ReadBody) -> BodyRead:
    staged = (write.record for write in disk.staged if isinstance(write, Persist))
    votes = [*disk.votes.values(), *(record for record in staged if isinstance(record, VoteRecord))]
    found = (vote.block for vote in votes if vote.height == asked.height and vote.digest == asked.digest)
    return BodyRead(asked.peer, asked.digest, max(found, default=b""))


def outcome_of(app: Replicated, snapshot: bytes) -> Outcome:
    return Outcome(chunks.root_of(chunks.manifest_of(snapshot)), app.validators())

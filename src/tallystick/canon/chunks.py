"""A large value as chunks that can be fetched from anybody and checked one by one.

    manifest = size (8 bytes) | SHA-256 of chunk 0 | SHA-256 of chunk 1 | ...
    root     = digest(domain, manifest)

The root is what is agreed on and certified. Who knows it can check the manifest, and with it each chunk.
"""

from hashlib import sha256
from typing import Final

from tallystick.canon.hashing import DIGEST_BYTES, digest
from tallystick.errors import Refused

CHUNK_BYTES: Final = 256 * 1024
SIZE_BYTES: Final = 8
MAX_CHUNKS: Final = 4096
"""1 GiB in all; the manifest is then 128 KiB."""
MAX_MANIFEST_BYTES: Final = SIZE_BYTES + MAX_CHUNKS * DIGEST_BYTES


def manifest_of(data: bytes) -> bytes:
    """The manifest of `data`; of empty data too, which has no chunk."""
    parts = [sha256(data[i : i + CHUNK_BYTES]).digest() for i in range(0, len(data), CHUNK_BYTES)]
    if len(parts) > MAX_CHUNKS:
        raise ValueError(f"{len(data)} bytes are more than {MAX_CHUNKS} chunks of {CHUNK_BYTES}")
    return len(data).to_bytes(SIZE_BYTES, "big") + b"".join(parts)


def root_of(manifest: bytes) -> bytes:
    return digest("tallystick/snapshot", manifest)


def chunk(data: bytes, index: int) -> bytes:
    return data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def check_manifest(manifest: bytes, root: bytes) -> int:
    """Returns the number of chunks.

    Raises:
        Refused: `bad_manifest`.
    """
    size = int.from_bytes(manifest[:SIZE_BYTES], "big")
    count = (len(manifest) - SIZE_BYTES) // DIGEST_BYTES
    whole = len(manifest) == SIZE_BYTES + count * DIGEST_BYTES and count == -(-size // CHUNK_BYTES)
    if not whole or count > MAX_CHUNKS or root_of(manifest) != root:
        raise Refused("bad_manifest", "snapshot: the list of chunks is not the one that was certified")
    return count


def check_chunk(manifest: bytes, index: int, data: bytes) -> None:
    """Checks a chunk against a manifest that has been checked.

    Raises:
        Refused: `bad_chunk`.
    """
    at = SIZE_BYTES + index * DIGEST_BYTES
    if sha256(data).digest() != manifest[at : at + DIGEST_BYTES]:
        raise Refused("bad_chunk", f"snapshot: chunk {index} is not what the manifest says")

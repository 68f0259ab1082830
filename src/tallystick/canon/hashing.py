"""SHA-256 with domain separation: the same bytes in two roles never have the same name."""

import functools
import hashlib
from typing import Final

DIGEST_BYTES: Final = 32


def digest(domain: str, *parts: bytes) -> bytes:
    """Names `parts` in the role `domain`.

    The domain and each part are prefixed with their length (8 bytes, big-endian), so that no two different lists
    of parts give one input: `digest("x", b"ab", b"c") != digest("x", b"a", b"bc")`.
    """
    prefixed = [_prefixed(domain)]
    for part in parts:
        prefixed += len(part).to_bytes(8, "big"), part
    return hashlib.sha256(b"".join(prefixed)).digest()


@functools.lru_cache(256)
def _prefixed(domain: str) -> bytes:
    encoded = domain.encode()
    return len(encoded).to_bytes(8, "big") + encoded


def blob_name(data: bytes) -> str:
    """The name of a blob: plain SHA-256 in hex, as any other tool computes it."""
    return hashlib.sha256(data).hexdigest()


def is_name(text: str) -> bool:
    """Whether `text` is a 32-byte digest in lower-case hex, and so is safe in a path.

    >>> is_name("../../etc/passwd"), is_name("0" * 64)
    (False, True)
    """
    return len(text) == 2 * DIGEST_BYTES and not text.strip("0123456789abcdef")

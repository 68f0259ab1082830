"""The signed envelope: everything that is signed, on a wire or in a file, is sealed in this one form.

    sender (32 bytes) | signature (64 bytes) | payload

The signature is over `digest(domain, payload)`, where the domain names the chain and the kind of message, so a
signature for one purpose says nothing for another. The signature is checked on the received bytes before anything
parses the payload, and those bytes are what is hashed and stored: nothing is re-encoded to be checked.
"""

import msgspec

from tallystick.canon.hashing import digest
from tallystick.canon.identity import IDENTITY_BYTES, SIGNATURE_BYTES, Key, verifies
from tallystick.errors import Refused

HEADER_BYTES = IDENTITY_BYTES + SIGNATURE_BYTES


class Opened(msgspec.Struct, frozen=True):
    """What a checked envelope holds: who signed, and what."""

    sender: str
    payload: bytes


def seal(key: Key, domain: str, payload: bytes) -> bytes:
    """Signs `payload` for `domain` and returns the envelope."""
    return bytes.fromhex(key.identity) + key.sign(digest(domain, payload)) + payload


def open_sealed(data: bytes, domain: str, *, limit: int, what: str) -> Opened:
    """Checks an envelope's size and signature; the payload is still unparsed bytes.

    Raises:
        Refused: `too_large`, `truncated` or `bad_signature`.
    """
    opened = read_sealed(data, limit=limit, what=what)
    if not verifies(opened.sender, digest(domain, opened.payload), data[IDENTITY_BYTES:HEADER_BYTES]):
        raise Refused("bad_signature", f"{what}: the signature is not {opened.sender[:12]}'s for {domain!r}")
    return opened


def read_sealed(data: bytes, *, limit: int, what: str) -> Opened:
    """Takes an envelope apart without checking its signature: for one that was checked before.

    Raises:
        Refused: `too_large` or `truncated`.
    """
    if len(data) > limit:
        raise Refused("too_large", f"{what}: {len(data)} bytes, at most {limit} are admitted")
    if len(data) <= HEADER_BYTES:
        raise Refused("truncated", f"{what}: {len(data)} bytes are too few for a signed envelope")
    return Opened(data[:IDENTITY_BYTES].hex(), data[HEADER_BYTES:])

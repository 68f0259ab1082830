"""Identities: an Ed25519 public key is who you are; the secret key lives in a file with mode 0600.

Signing is libsodium's. Checking is ed25519-dalek's, which takes two thirds of libsodium's time, and checking signatures
is most of what a validator does; both have the equation without cofactor and a canonical `S`. Libsodium also refuses
keys of small order, for which anybody can sign, so we do.
"""

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ed25519_zebra import ed_verify
from nacl.signing import SigningKey

from tallystick.canon.hashing import is_name
from tallystick.errors import Refused, TallystickError

IDENTITY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SMALL_ORDER: Final = frozenset(
    (y[:31] + bytes([y[31] | sign])).hex()
    for y in (
        bytes(32),
        bytes([1]) + bytes(31),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        (2**255 - 20).to_bytes(32, "little"),
        (2**255 - 19).to_bytes(32, "little"),
        (2**255 - 18).to_bytes(32, "little"),
    )
    for sign in (0, 0x80)
)
"""All encodings of the eight points whose order divides the cofactor: `y`, also above p, with either sign of x."""
KEY_FILE: Final = re.compile(rb"tallystick-ed25519-v1 ([0-9a-f]{64})\n")


class KeyFileError(TallystickError):
    """A key file that cannot be used: missing, readable by others, or not a key file."""


@dataclass(frozen=True)
class Key:
    """A secret key. Its `identity` is public; nothing here prints the rest."""

    _signing: SigningKey

    @classmethod
    def generate(cls) -> "Key":
        return cls(SigningKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> "Key":
        """A key from 32 secret bytes; for tests and simulations, whose keys must be the same in every run."""
        return cls(SigningKey(seed))

    @functools.cached_property
    def identity(self) -> str:
        """The public key, 64 hex characters."""
        return bytes(self._signing.verify_key).hex()

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for building the TLS key of the same identity."""
        return bytes(self._signing)

    def sign(self, message: bytes) -> bytes:
        return self._signing.sign(message).signature

    def __repr__(self) -> str:
        return f"Key({self.identity})"


def verifies(identity: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `identity`'s over `message`."""
    if not is_name(identity) or len(signature) != SIGNATURE_BYTES or identity in SMALL_ORDER:
        return False
    return bool(ed_verify(signature, message, bytes.fromhex(identity)))


def save_key(key: Key, path: Path) -> None:
    """Writes `key` to a new file with mode 0600.

    Raises:
        FileExistsError: a key is never overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"tallystick-ed25519-v1 " + key.seed.hex().encode() + b"\n")


def load_key(path: Path) -> Key:
    """Reads a key file, refusing one that others can read.

    Raises:
        KeyFileError: with the way out in its message.
    """
    try:
        mode = path.stat().st_mode & 0o777
        data = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}; make a key with `tallystick keygen {path}`") from None
    if mode & 0o077:
        raise KeyFileError(f"{path}: mode {mode:04o} lets others read the key; run `chmod 600 {path}`")
    match = KEY_FILE.fullmatch(data)
    if match is None:
        raise KeyFileError(f"{path}: not a tallystick key file; make one with `tallystick keygen`, under another name")
    return Key.from_seed(bytes.fromhex(match[1].decode()))


def parse_identity(text: str, what: str) -> str:
    """Returns `text` if it has the form of an identity.

    Raises:
        Refused: `bad_identity`.
    """
    if not is_name(text):
        raise Refused("bad_identity", f"{what}: an identity is 64 lower-case hex characters, got {text[:80]!r}")
    return text

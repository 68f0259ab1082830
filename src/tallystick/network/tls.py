"""TLS 1.3 whose identities are Ed25519 keys. There is no certificate authority.

Between validators it is mutual, with pinned certificates. Each validator's self-signed certificate is in the genesis
file; those are the only trust anchors, and after the handshake the peer's certificate must be, byte for byte, one of
them. Where whoever listens knows only the keys of those who may dial in (disputes), the dialing side proves its key
within the channel.
"""

import datetime
import hashlib
import os
import secrets
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from tallystick.canon.identity import Key
from tallystick.errors import Refused

MAX_CERTIFICATE_BYTES: Final = 4096
NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""RFC 5280's way to say that a certificate has no good expiry date: membership is what ends, not the certificate."""


def make_certificate(key: Key) -> str:
    """A self-signed X.509 certificate (PEM) for `key`: the same bytes each time."""
    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, key.identity)])
    serial = int.from_bytes(hashlib.sha256(bytes.fromhex(key.identity)).digest()[:16]) | 1
    builder = x509.CertificateBuilder(name, name, private.public_key(), serial, NOT_BEFORE, NOT_AFTER)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(private, algorithm=None).public_bytes(Encoding.PEM).decode()


def pinned_form(identity: str, certificate: str) -> bytes:
    """The DER bytes of `certificate` (PEM), after checking that it is `identity`'s.

    Raises:
        Refused: `bad_certificate`.
    """
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise Refused("bad_certificate", f"{identity[:12]}: certificate of {len(certificate)} characters")
    try:
        parsed = x509.load_pem_x509_certificate(certificate.encode())
        public = parsed.public_key()
    except Exception as error:  # the parser raises many kinds, also new ones, and the bytes are anybody's
        raise Refused("bad_certificate", f"{identity[:12]}: not a PEM certificate: {error}") from None
    _check_holder(identity, public)
    return parsed.public_bytes(Encoding.DER)


def check_shown(identity: str, certificate: bytes) -> None:
    """Checks that a certificate (DER) that was shown in a handshake is of `identity`'s key.

    Raises:
        Refused: `bad_certificate`.
    """
    try:
        public = x509.load_der_x509_certificate(certificate).public_key()
    except Exception as error:  # as in `pinned_form`
        raise Refused("bad_certificate", f"{identity[:12]}: not a certificate: {error}") from None
    _check_holder(identity, public)


def _check_holder(identity: str, public: object) -> None:
    if not isinstance(public, Ed25519PublicKey):
        raise Refused("bad_certificate", f"{identity[:12]}: not a certificate of an Ed25519 key")
    holder = public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    if holder != identity:
        raise Refused("bad_certificate", f"{identity[:12]}: the certificate is of another key, {holder}")


def server_context(key: Key, certificates: Iterable[str] = ()) -> ssl.SSLContext:
    """For accepting channels from the holders of `certificates`."""
    return _context(ssl.PROTOCOL_TLS_SERVER, key, certificates)


def client_context(key: Key, certificates: Iterable[str] = ()) -> ssl.SSLContext:
    """For opening channels to the holders of `certificates`. Host names are not compared: keys are."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, key, certificates)


def open_server_context(key: Key) -> ssl.SSLContext:
    """For accepting channels from anybody: who dialed is not known until it proves that within the channel."""
    context = _bare(ssl.PROTOCOL_TLS_SERVER)
    _load_identity(context, key)
    return context


def unpinned_client_context() -> ssl.SSLContext:
    """For opening a channel to a holder of any key, which the caller must compare then with `check_shown`.

    The handshake proves even so that the other side holds the key of the certificate that it shows.
    """
    context = _bare(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int, key: Key, certificates: Iterable[str]) -> ssl.SSLContext:
    context = _bare(protocol)
    context.verify_mode = ssl.CERT_REQUIRED
    for certificate in certificates:
        context.load_verify_locations(cadata=certificate)
    _load_identity(context, key)
    return context


def _bare(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _load_identity(context: ssl.SSLContext, key: Key) -> None:
    """Hands the key to OpenSSL, which takes it only from a file.

    The file is encrypted with a password that exists nowhere else, in a directory of mode 0700, and gone on return.
    """
    password = secrets.token_bytes(32).hex().encode()
    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
    with tempfile.TemporaryDirectory(prefix="tallystick-") as directory:
        path = Path(directory) / "identity.pem"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem + make_certificate(key).encode())
        context.load_cert_chain(path, password=password)

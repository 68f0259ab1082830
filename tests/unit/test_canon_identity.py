"""Ed25519 as published in RFC 8032, and key files that nobody else can read."""

import os
import stat
from pathlib import Path

import pytest

from tallystick.canon.identity import Key, KeyFileError, load_key, parse_identity, save_key, verifies
from tallystick.errors import Refused

# RFC 8032, section 7.1, tests 1 and 2: seed, public key, message, signature.
VECTORS = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
)
ORDER = 2**252 + 27742317777372353535851937790883648493
KEY = Key.from_seed(b"k" * 32)


@pytest.mark.parametrize(("seed", "public", "message", "signature"), VECTORS)
def test_signatures_are_those_of_the_rfc(seed: str, public: str, message: str, signature: str) -> None:
    key = Key.from_seed(bytes.fromhex(seed))
    assert key.identity == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verifies(public, bytes.fromhex(message), bytes.fromhex(signature))


def test_a_signature_has_no_second_form() -> None:
    """S + L satisfies the same equation; were it admitted, anyone could give a transaction a second hash."""
    signature = KEY.sign(b"m")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    assert verifies(KEY.identity, b"m", signature)
    assert not verifies(KEY.identity, b"m", signature[:32] + scalar.to_bytes(32, "little"))


P = 2**255 - 19
ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
SMALL = [y.to_bytes(32, "little") for y in (0, 1, P - 1, P, P + 1)]
SMALL += [bytes.fromhex(ORDER_8), (P - int.from_bytes(bytes.fromhex(ORDER_8), "little")).to_bytes(32, "little")]


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("point", SMALL)
def test_a_key_of_small_order_signs_nothing(point: bytes, sign: int) -> None:
    """For these points a fixed signature holds for many messages: every eighth one, if not each."""
    key = point[:31] + bytes([point[31] | sign])
    forgeries = [(first + bytes(32), b"%d" % i) for first in SMALL for i in range(64)]
    assert not any(verifies(key.hex(), message, signature) for signature, message in forgeries)


def test_what_is_not_a_signature_or_identity_does_not_verify() -> None:
    signature = KEY.sign(b"m")
    assert not verifies(KEY.identity, b"m", signature[:-1])
    assert not verifies(KEY.identity, b"m", signature + b"\0")
    assert not verifies(KEY.identity.upper(), b"m", signature)
    assert not verifies(Key.from_seed(b"l" * 32).identity, b"m", signature)


def test_printing_a_key_shows_only_its_identity() -> None:
    assert KEY.identity in repr(KEY)
    assert KEY.seed.hex() not in repr(KEY)
    assert repr(KEY.seed)[2:-1] not in repr(KEY)


def test_generated_keys_differ() -> None:
    assert Key.generate().identity != Key.generate().identity


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_saved_key_is_private_whatever_the_umask_and_loads_again(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "keys" / "worker.key"
    before = os.umask(umask)
    try:
        save_key(KEY, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).seed == KEY.seed


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    save_key(KEY, path)
    with pytest.raises(FileExistsError):
        save_key(Key.generate(), path)
    assert load_key(path).seed == KEY.seed


def test_a_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        save_key(KEY, tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_a_key_file_that_others_can_touch_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    save_key(KEY, path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"mode {mode:04o}.*chmod 600"):
        load_key(path)


GOOD = b"tallystick-ed25519-v1 " + b"0a" * 32 + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[:-1], id="no newline"),
        pytest.param(GOOD + b"\n", id="newline twice"),
        pytest.param(b" " + GOOD, id="space before"),
        pytest.param(GOOD * 2, id="two keys"),
        pytest.param(GOOD.replace(b"v1", b"v2"), id="other version"),
        pytest.param(GOOD.upper(), id="upper case"),
        pytest.param(GOOD.replace(b"0a0a", b"0a0", 1), id="a digit short"),
        pytest.param(GOOD.replace(b"0a0a", b"0g0a", 1), id="not hex"),
        pytest.param(GOOD.replace(b"\n", b"\r\n"), id="carriage return"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\n", id="PEM"),
        pytest.param(b"\xff" * 87, id="binary"),
    ],
)
def test_garbage_is_not_a_key_and_is_not_shown(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="not a tallystick key file") as refused:
        load_key(path)
    assert "0a0a" not in str(refused.value)


def test_a_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="tallystick keygen"):
        load_key(tmp_path / "key")


def test_a_directory_is_not_a_key(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        load_key(tmp_path)


def test_parse_identity_returns_an_identity_and_refuses_the_rest_briefly() -> None:
    assert parse_identity(KEY.identity, "worker") == KEY.identity
    with pytest.raises(Refused) as refused:
        parse_identity("z" * 10_000, "worker")
    assert refused.value.code == "bad_identity"
    assert len(refused.value.reason) < 200

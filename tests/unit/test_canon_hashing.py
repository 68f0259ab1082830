"""Names: one value in one role has one name."""

from hashlib import sha256

import pytest

from tallystick.canon.hashing import blob_name, digest, is_name


def test_digest_is_sha256_over_lengths_and_parts() -> None:
    framed = bytes(7) + b"\x01d" + bytes(7) + b"\x02ab" + bytes(8)
    assert digest("d", b"ab", b"") == sha256(framed).digest()


def test_moving_bytes_between_parts_changes_the_digest() -> None:
    lists = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc")]
    assert len({digest("d", *parts) for parts in lists}) == len(lists)


def test_roles_and_parts_do_not_mix() -> None:
    assert digest("d", b"x") != digest("e", b"x")
    assert digest("da", b"b") != digest("d", b"ab")


def test_blob_names_are_what_sha256sum_prints() -> None:
    assert blob_name(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "text", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "../" * 21 + "a", "\u0660" * 64, "0" * 63 + "\n"]
)
def test_only_64_lower_case_hex_characters_are_a_name(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize("place", [0, 31, 63])
def test_a_name_has_no_other_character_anywhere(place: int) -> None:
    good = "0a" * 32
    assert is_name(good) and not is_name(good[:place] + "/" + good[place + 1 :])


def test_a_digest_in_hex_is_a_name() -> None:
    assert is_name(digest("d").hex())

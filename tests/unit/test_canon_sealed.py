"""The signed envelope: what was signed opens, and nothing else does."""

import pytest

from tallystick.canon.identity import Key
from tallystick.canon.sealed import HEADER_BYTES, Opened, open_sealed, seal
from tallystick.errors import Refused

KEY, OTHER = Key.from_seed(b"a" * 32), Key.from_seed(b"b" * 32)
SEALED = seal(KEY, "chain/kind", b"payload")


def refusal_of(data: bytes, domain: str = "chain/kind", limit: int = 1000) -> str:
    with pytest.raises(Refused) as refused:
        open_sealed(data, domain, limit=limit, what="message")
    return refused.value.code


def test_an_envelope_opens_to_its_sender_and_payload() -> None:
    assert open_sealed(SEALED, "chain/kind", limit=len(SEALED), what="message") == Opened(KEY.identity, b"payload")


def test_each_flipped_bit_is_refused() -> None:
    for bit in range(8 * len(SEALED)):
        flipped = bytearray(SEALED)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refusal_of(bytes(flipped)) == "bad_signature", f"bit {bit}"


def test_each_truncation_is_refused() -> None:
    for size in range(len(SEALED)):
        assert refusal_of(SEALED[:size]) == ("truncated" if size <= HEADER_BYTES else "bad_signature"), f"{size} bytes"


def test_bytes_added_at_either_end_are_refused() -> None:
    assert refusal_of(SEALED + b"\0") == "bad_signature"
    assert refusal_of(b"\0" + SEALED) == "bad_signature"


@pytest.mark.parametrize("domain", ["", "chain", "chain/kin", "chain/kind2", "Chain/kind", "other/kind"])
def test_a_signature_for_one_domain_says_nothing_in_another(domain: str) -> None:
    assert refusal_of(SEALED, domain) == "bad_signature"


def test_bytes_cannot_move_between_domain_and_payload() -> None:
    assert refusal_of(seal(KEY, "chain/", b"kindpayload"), "chain/kind") == "bad_signature"
    assert refusal_of(SEALED[:HEADER_BYTES] + b"kindpayload", "chain/") == "bad_signature"


def test_nobody_can_put_their_name_on_anothers_signature() -> None:
    assert refusal_of(bytes.fromhex(OTHER.identity) + SEALED[32:]) == "bad_signature"


def test_an_envelope_without_payload_is_refused() -> None:
    assert refusal_of(seal(KEY, "chain/kind", b"")) == "truncated"


def test_the_size_limit_comes_before_the_signature() -> None:
    assert refusal_of(bytes(len(SEALED)), limit=len(SEALED) - 1) == "too_large"
    assert refusal_of(SEALED, limit=len(SEALED) - 1) == "too_large"

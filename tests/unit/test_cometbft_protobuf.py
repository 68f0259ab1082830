"""The wire codec: the bytes that another implementation writes, and a refusal for everything else."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cometbft_vectors import REQUESTS, RESPONSES
from ledger_network import key
from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft import protobuf
from tallystick.consensus.cometbft import values as v
from tallystick.consensus.cometbft.chain import MAX_BLOCK_BYTES
from tallystick.consensus.cometbft.connection import MAX_FRAME_BYTES, Frames, frame
from tallystick.consensus.cometbft.protobuf import Kind, decode, encode, fields_of, varint
from tallystick.errors import Refused
from tallystick.ledger.transactions import Deposit, sign_transaction

VECTORS = [(m.REQUESTS, *vector) for vector in REQUESTS] + [(m.RESPONSES, *vector) for vector in RESPONSES]
NAMES = [type(message).__name__ for _, message, _ in VECTORS]


@pytest.mark.parametrize(("table", "message", "wire"), VECTORS, ids=NAMES)
def test_the_bytes_of_another_implementation(table: dict[int, type[Any]], message: Any, wire: str) -> None:
    assert frame(message).hex() == wire
    frames = Frames()
    frames.feed(bytes.fromhex(wire))
    content = frames.next()
    assert content is not None and m.unwrap(table, content) == message


def test_every_message_has_a_vector() -> None:
    assert {type(message) for _, message, _ in VECTORS} == {*m.REQUESTS.values(), *m.RESPONSES.values()}


# ---- what is skipped, and what is refused


def test_unknown_fields_are_skipped() -> None:
    known = encode(m.RequestEcho("hi"))
    unknown = ["7805", "7a03616263", "790102030405060708", "7d01020304", "c2bb0800"]  # of all four wire types
    for data in map(bytes.fromhex, unknown):
        assert decode(m.RequestEcho, data + known) == decode(m.RequestEcho, known + data) == m.RequestEcho("hi")


def test_repeated_numbers_are_read_packed_and_unpacked() -> None:
    both = m.ResponseApplySnapshotChunk(refetch_chunks=(1, 300, 2))
    assert encode(both).hex() == "120401ac0202"
    for wire in ("120401ac0202", "100110ac021002", "10011203ac0202"):
        assert decode(m.ResponseApplySnapshotChunk, bytes.fromhex(wire)) == both


@pytest.mark.parametrize(
    ("kind", "wire", "why"),
    [
        (m.RequestEcho, "0a05616263", "text that ends after its message"),
        (m.RequestEcho, "0a", "no length"),
        (m.RequestEcho, "0a8080808080808080808001", "a length of 11 bytes"),
        (m.RequestEcho, "0a80808080808080808002", "a length of 65 bits"),
        (m.RequestEcho, "0affffffffffffffffff01", "a length of 2**64 - 1"),
        (m.RequestEcho, "0801", "a number where text is expected"),
        (m.RequestEcho, "0a01ff", "text that is not UTF-8"),
        (m.RequestEcho, "0a01610a0162", "there twice"),
        (m.RequestEcho, "0001", "field number 0"),
        (m.RequestEcho, "808080801001", "field number 2**29"),
        (m.RequestEcho, "7880808080808080808002", "an unknown number of 65 bits"),
        (m.RequestEcho, "78" + "80" * 10 + "00", "an unknown number of 11 bytes"),
        (m.RequestEcho, "0b0c", "a group"),
        (m.RequestEcho, "7901020304050607", "a fixed field of 7 bytes"),
        (m.RequestCheckTx, "10fffffffff7ffffffff01", "-2**31 - 1 for 32 bits"),
        (m.RequestLoadSnapshotChunk, "10808080808001", "2**35 for 32 bits"),
        (m.RequestQuery, "2002", "2 for a truth value"),
        (m.RequestOfferSnapshot, "0a020a00", "text where a number is expected, one level down"),
        (m.RequestOfferSnapshot, "0a0308e8", "a number that ends after its message, one level down"),
        (m.ResponseApplySnapshotChunk, "1202ac82", "packed numbers of which the last does not end"),
        (m.ResponseApplySnapshotChunk, "1501020304", "fixed numbers where others are expected"),
    ],
)
def test_refused(kind: type[Any], wire: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        decode(kind, bytes.fromhex(wire))
    assert refused.value.code == "malformed", why


@pytest.mark.parametrize("wire", ["", "0a000a00", "0801", "0a016100", "0a02"])
def test_an_envelope_holds_exactly_one_message(wire: str) -> None:
    with pytest.raises(Refused) as refused:
        m.unwrap(m.REQUESTS, bytes.fromhex(wire))
    assert refused.value.code == "malformed"


@pytest.mark.parametrize("number", [4, 7, 9, 10, 21, 22, 1000])
def test_messages_of_other_versions_are_unknown(number: int) -> None:
    with pytest.raises(Refused) as refused:
        m.unwrap(m.REQUESTS, protobuf.delimited(number, b""))
    assert refused.value.code == "unknown_message"


def test_empty_entries_cannot_fill_the_memory() -> None:
    few, many = protobuf.MAX_ELEMENTS, protobuf.MAX_ELEMENTS + 1
    assert len(decode(m.RequestFinalizeBlock, b"\x0a\x00" * few).txs) == few
    votes = protobuf.delimited(2, b"\x12\x00" * many)
    packed = protobuf.delimited(2, b"\x01" * many)
    for kind, data in [
        (m.RequestFinalizeBlock, b"\x0a\x00" * many),
        (m.RequestFinalizeBlock, votes),
        (m.ResponseApplySnapshotChunk, packed),
    ]:
        with pytest.raises(Refused) as refused:
            decode(kind, data)
        assert refused.value.code == "too_many_elements"


def test_the_largest_block_of_the_smallest_transactions_can_be_read() -> None:
    smallest = sign_transaction(key("ann"), "c", 1, Deposit(0))
    field = protobuf.delimited(1, smallest)
    assert MAX_BLOCK_BYTES // len(field) < protobuf.MAX_ELEMENTS and MAX_BLOCK_BYTES < MAX_FRAME_BYTES // 2


def test_a_number_out_of_range_is_never_written() -> None:
    with pytest.raises(ValueError, match="power"):
        encode(v.ValidatorUpdate(power=2**63))


# ---- properties


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any message of this kind. Of a oneof at most one member is set."""
    made = st.builds(kind, **{field.name: contents(field) for field in fields_of(kind)})
    return made.filter(lambda key: key.ed25519 is None or key.secp256k1 is None) if kind is v.PublicKey else made


def contents(field: protobuf.Field) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    if field.message is not None:
        one = values(field.message)
    elif field.kind is Kind.BOOL:
        one = st.booleans()
    elif field.kind.is_number:
        one = st.integers(*field.kind.value)
    elif field.kind is Kind.STRING:
        one = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    else:
        one = st.binary(max_size=8)
    if field.repeated:
        return st.lists(one, max_size=3).map(tuple)
    return st.none() | one if field.present else one


KINDS = [kind for kind in (vars(v) | vars(m)).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]
MESSAGES = st.sampled_from(KINDS).flatmap(values)


@settings(max_examples=200, deadline=None)
@given(MESSAGES)
def test_what_is_written_is_read(message: Any) -> None:
    data = encode(message)
    assert decode(type(message), data) == message
    kind: Any = type(message)
    numbers = [field.number for field in fields_of(kind)]
    assert numbers == sorted(set(numbers))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_refusal(kind: type[Any], data: bytes) -> None:
    try:
        message = decode(kind, data)
    except Refused:
        return
    assert decode(kind, encode(message)) == message


@settings(max_examples=200, deadline=None)
@given(MESSAGES, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 1), st.binary(max_size=2)), max_size=4))
def test_spoiled_messages_are_read_or_refused(message: Any, edits: list[tuple[int, int, bytes]]) -> None:
    data = encode(message)
    for place, cut, insert in edits:
        at = place % (len(data) + 1)
        data = data[:at] + insert + data[at + cut :]
    try:
        other = decode(type(message), data)
    except Refused:
        return
    assert decode(type(message), encode(other)) == other


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_varints_take_seven_bits_a_byte(value: int) -> None:
    data = varint(value)
    assert len(data) == max(1, -(-value.bit_length() // 7))
    assert sum((byte & 0x7F) << 7 * index for index, byte in enumerate(data)) == value
    assert all(byte & 0x80 for byte in data[:-1]) and not data[-1] & 0x80

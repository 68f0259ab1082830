"""Whatever bytes arrive, a decoder returns a value of its kind or refuses; it never fails in another way."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.canon.encoding import from_bytes, from_json, to_bytes, to_json
from tallystick.canon.hashing import digest
from tallystick.canon.identity import Key
from tallystick.canon.sealed import open_sealed, seal
from tallystick.errors import Refused

LIMIT = 300
KEY = Key.from_seed(b"h" * 32)


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="leaf"):
    text: str
    data: bytes = b""


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="branch"):
    children: list["Leaf | Branch"]
    sizes: dict[str, int]


Tree = Leaf | Branch


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tree: Tree


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NODES: st.SearchStrategy[Tree] = st.recursive(
    st.builds(Leaf, TEXT, st.binary(max_size=8)),
    lambda trees: st.builds(Branch, st.lists(trees, max_size=3), st.dictionaries(TEXT, st.integers(-9, 2**63 - 1))),
    max_leaves=5,
)
DOCUMENTS = st.builds(Document, NODES)
EDITS = st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, 1), st.binary(max_size=2)), min_size=1, max_size=4)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """`data` with bytes cut out and put in: close enough to valid to reach deep into a decoder."""
    for place, cut, insert in edits:
        at = place % (len(data) + 1)
        data = data[:at] + insert + data[at + cut :]
    return data


def json_or_none(data: bytes) -> Document | None:
    try:
        return from_json(data, Document, limit=LIMIT, what="document")
    except Refused:
        return None


def message_or_none(data: bytes) -> Document | None:
    try:
        value: Document = from_bytes(data, Document, limit=LIMIT, what="document")
    except Refused:
        return None
    return value


@settings(deadline=None)
@given(DOCUMENTS)
def test_values_round_trip_through_both_codecs(document: Document) -> None:
    size = max(len(to_json(document)), len(to_bytes(document)))
    assert from_json(to_json(document), Document, limit=size, what="document") == document
    assert from_bytes(to_bytes(document), Document, limit=size, what="document") == document


@settings(deadline=None)
@given(st.binary(max_size=LIMIT + 9))
def test_arbitrary_bytes_are_decoded_or_refused(data: bytes) -> None:
    for value in (json_or_none(data), message_or_none(data)):
        assert value is None or (isinstance(value, Document) and len(data) <= LIMIT)


@settings(deadline=None, max_examples=300)
@given(DOCUMENTS, EDITS)
def test_an_edited_document_is_refused_or_is_the_one_spelling_of_its_value(
    document: Document, edits: list[tuple[int, int, bytes]]
) -> None:
    data = edited(to_json(document), edits)
    value = json_or_none(data)
    assert value is None or to_json(value) == data


@settings(deadline=None, max_examples=300)
@given(DOCUMENTS, EDITS)
def test_an_edited_message_is_decoded_or_refused(document: Document, edits: list[tuple[int, int, bytes]]) -> None:
    value = message_or_none(edited(to_bytes(document), edits))
    assert value is None or isinstance(value, Document)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=50), EDITS)
def test_an_edited_envelope_is_refused(payload: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    sealed = seal(KEY, "domain", payload)
    data = edited(sealed, edits)
    try:
        opened = open_sealed(data, "domain", limit=LIMIT, what="message")
    except Refused:
        assert data != sealed
    else:
        assert data == sealed
        assert opened.payload == payload


@settings(deadline=None)
@given(st.binary(max_size=LIMIT + 9))
def test_arbitrary_bytes_are_no_envelope(data: bytes) -> None:
    try:
        open_sealed(data, "domain", limit=LIMIT, what="message")
    except Refused as refused:
        assert refused.code in {"too_large", "truncated", "bad_signature"}
    else:
        raise AssertionError("a signature was forged")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_two_lists_of_parts_have_one_digest_only_if_they_are_equal(one: list[bytes], two: list[bytes]) -> None:
    assert (digest("d", *one) == digest("d", *two)) == (one == two)

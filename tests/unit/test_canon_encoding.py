"""Canonical JSON has one spelling for each value; every other spelling is refused, by name."""

import msgspec
import pytest

from tallystick.canon.encoding import from_bytes, from_json, to_bytes, to_json
from tallystick.errors import Refused


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    sizes: dict[str, int]
    tag: int | None = None


class Nest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inner: list["Nest"]


ITEM = Item("a", {"x": 1, "y": 2})
CANONICAL = b'{"name":"a","sizes":{"x":1,"y":2},"tag":null}'


def refusal_of(data: bytes, limit: int = 1000) -> Refused:
    with pytest.raises(Refused) as refused:
        from_json(data, Item, limit=limit, what="item")
    return refused.value


def test_the_canonical_spelling_round_trips() -> None:
    assert to_json(ITEM) == CANONICAL
    assert from_json(CANONICAL, Item, limit=len(CANONICAL), what="item") == ITEM


def test_mapping_keys_are_sorted_whatever_the_insertion_order() -> None:
    assert to_json(Item("a", {"y": 2, "x": 1})) == CANONICAL
    assert to_bytes(Item("a", {"y": 2, "x": 1})) == to_bytes(ITEM)


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param(b' {"name":"a","sizes":{"x":1,"y":2},"tag":null}', id="space before"),
        pytest.param(b'{"name":"a","sizes":{"x":1,"y":2},"tag":null}\n', id="newline after"),
        pytest.param(b'{"name": "a","sizes":{"x":1,"y":2},"tag":null}', id="space inside"),
        pytest.param(b'{"name":"b","name":"a","sizes":{"x":1,"y":2},"tag":null}', id="field twice"),
        pytest.param(b'{"name":"a","sizes":{"x":1,"x":1,"y":2},"tag":null}', id="key twice"),
        pytest.param(b'{"name":"a","sizes":{"y":2,"x":1},"tag":null}', id="keys unsorted"),
        pytest.param(b'{"sizes":{"x":1,"y":2},"name":"a","tag":null}', id="fields out of order"),
        pytest.param(b'{"name":"a","sizes":{"x":1,"y":2}}', id="default left out"),
        pytest.param(b'{"name":"\\u0061","sizes":{"x":1,"y":2},"tag":null}', id="needless escape"),
        pytest.param(b'{"name":"a","sizes":{"x":1,"y":2},"tag":-0}', id="minus zero"),
    ],
)
def test_a_second_spelling_is_refused(spelling: bytes) -> None:
    assert refusal_of(spelling).code == "not_canonical"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(CANONICAL[:-1], id="cut short"),
        pytest.param(CANONICAL + b"{}", id="something after"),
        pytest.param(b"\xef\xbb\xbf" + CANONICAL, id="byte order mark"),
        pytest.param(CANONICAL[:-1] + b',"more":1}', id="unknown field"),
        pytest.param(b'{"name":"a","tag":null}', id="field missing"),
        pytest.param(CANONICAL.replace(b"1", b'"1"'), id="number as string"),
        pytest.param(CANONICAL.replace(b"1", b"1.5"), id="fraction"),
        pytest.param(CANONICAL.replace(b"1", b"01"), id="leading zero"),
        pytest.param(CANONICAL.replace(b"null", b"NaN"), id="not a number"),
        pytest.param(CANONICAL.replace(b'"a"', b'"\xff"'), id="not UTF-8"),
        pytest.param(CANONICAL.replace(b'"a"', b'"\\ud800"'), id="half a surrogate pair"),
    ],
)
def test_what_is_not_the_document_is_refused(data: bytes) -> None:
    assert refusal_of(data, limit=10**6).code == "malformed"


def test_the_size_limit_is_inclusive_and_comes_before_parsing() -> None:
    refusal = refusal_of(b"[" * len(CANONICAL), limit=len(CANONICAL) - 1)
    assert refusal.code == "too_large"
    assert "item: 45 bytes, at most 44" in refusal.reason


def test_messages_round_trip_and_their_limit_is_inclusive() -> None:
    data = to_bytes(ITEM)
    assert from_bytes(data, Item, limit=len(data), what="item") == ITEM
    with pytest.raises(Refused) as refused:
        from_bytes(data, Item, limit=len(data) - 1, what="item")
    assert refused.value.code == "too_large"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(to_bytes(ITEM)[:-1], id="cut short"),
        pytest.param(to_bytes(ITEM) + b"\xc0", id="something after"),
        pytest.param(to_bytes({"name": "a", "sizes": {}, "tag": None, "more": 1}), id="unknown field"),
        pytest.param(to_bytes({"name": "a", "sizes": {"x": True}}), id="wrong type"),
        pytest.param(to_bytes({"name": b"a", "sizes": {}}), id="bytes for text"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="map that claims 2**32 - 1 entries"),
        pytest.param(b"\x81\xa4name\xa1\xff", id="not UTF-8"),
    ],
)
def test_a_message_that_is_not_of_its_kind_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        from_bytes(data, Item, limit=10**6, what="item")
    assert refused.value.code == "malformed"


def test_nesting_that_would_exhaust_the_stack_is_refused_in_both_codecs() -> None:
    depth, limit = 50_000, 10**6
    with pytest.raises(Refused, match="recursion") as refused:
        from_json(b'{"inner":[' * depth + b"]}" * depth, Nest, limit=limit, what="nest")
    assert refused.value.code == "malformed"
    with pytest.raises(Refused, match="recursion") as refused:
        from_bytes(b"\x81\xa5inner\x91" * depth + b"\x81\xa5inner\x90", Nest, limit=limit, what="nest")
    assert refused.value.code == "malformed"

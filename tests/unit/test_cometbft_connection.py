"""Frames in, frames out: order, limits, and what ends a connection."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft.connection import MAX_FRAME_BYTES, Connection, Frames, frame
from tallystick.consensus.cometbft.protobuf import varint
from tallystick.errors import Refused


class Echoes:
    """An application that answers echoes, and refuses whatever else is asked."""

    def answer(self, request: Any) -> Any:
        if isinstance(request, m.RequestEcho):
            return m.ResponseEcho(request.message)
        raise Refused("wrong_height", "block 9 cannot follow block 3 of the ledger")


def connection(limit: int = MAX_FRAME_BYTES) -> tuple[Connection, Counter[str]]:
    rejections: Counter[str] = Counter()
    return Connection(Echoes(), rejections, limit), rejections


def answers(data: bytes) -> list[Any]:
    frames, found = Frames(), []
    frames.feed(data)
    while (content := frames.next()) is not None:
        found.append(m.unwrap(m.RESPONSES, content))
    return found


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), max_size=20), st.data())
def test_requests_are_answered_in_order_however_they_are_cut(texts: list[str], data: st.DataObject) -> None:
    wire = b"".join(frame(m.RequestEcho(text)) for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    link, _ = connection()
    parts = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert answers(b"".join(map(link.receive, parts))) == [m.ResponseEcho(text) for text in texts]


def test_an_exception_is_the_last_answer() -> None:
    link, rejections = connection()
    wire = frame(m.RequestEcho("a")) + frame(m.RequestCommit()) + frame(m.RequestEcho("b"))
    first, exception = answers(link.receive(wire))
    assert first == m.ResponseEcho("a") and "cannot follow" in exception.error
    assert link.broken and rejections == Counter(wrong_height=1)
    assert link.receive(frame(m.RequestEcho("c"))) == b""


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (varint(1001), "too_large"),
        (varint(2**64), "too_large"),
        (b"\xff" * 9, "too_large"),
        (b"\x80" * 10, "malformed"),
        (varint(0), "malformed"),
        (varint(2) + b"\x0a\x01", "malformed"),
        (varint(2) + b"\xaa\x01" + b"", "malformed"),
        (varint(3) + b"\xaa\x01\x00", "unknown_message"),
        (varint(2) + b"\x22\x00", "unknown_message"),
    ],
)
def test_what_is_no_request_ends_the_connection(wire: bytes, code: str) -> None:
    link, rejections = connection(limit=1000)
    (exception,) = answers(link.receive(wire))
    assert isinstance(exception, m.ResponseException) and code in exception.error
    assert link.broken and rejections == Counter({code: 1})


def test_a_large_frame_is_refused_before_it_comes() -> None:
    frames = Frames(limit=1000)
    frames.feed(varint(1001))
    with pytest.raises(Refused) as refused:
        frames.next()
    assert refused.value.code == "too_large"
    within = Frames(limit=1000)
    within.feed(varint(1000) + bytes(1000))
    assert within.next() == bytes(1000)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_are_answered_or_refused(parts: list[bytes]) -> None:
    link, _ = connection(limit=1000)
    for part in parts:
        answers(link.receive(part))

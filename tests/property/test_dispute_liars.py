"""Whatever a liar lies about and whatever it answers, the honest party wins, in either seat."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispute_samples import AT, KEYS, honest, liar, play_against, sample
from tallystick.canon.encoding import to_json
from tallystick.canon.sealed import seal
from tallystick.demo.disputes import Insisting
from tallystick.errors import Refused
from tallystick.network.disputes import wire
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute.party import Party
from tallystick.proof.dispute.record import MAX_MOVES, Agreed, Received, agreed_from, line_of, moves_from
from tallystick.proof.dispute.rules.lines import size

STEP = honest().step(AT)
SEATS = st.integers(0, 1)
PLACES = (
    st.integers(0, STEP.count - 1)
    .filter(lambda n: size(STEP.line(n).shape) > 0)
    .flatmap(lambda n: st.tuples(st.just(n), st.integers(0, size(STEP.line(n).shape) - 1)))
)


def breaks_training(number: int) -> bool:
    """A wrong label or index may be outside of its range, and then even a liar has no result to claim."""
    return STEP.line(number).dtype == "int64" and STEP.line(number).rule != "order"


LIES = st.dictionaries(PLACES.filter(lambda p: not breaks_training(p[0])).map(lambda p: p[0]), st.just(0), max_size=3)


@settings(max_examples=12, deadline=None)
@given(seat=SEATS, place=PLACES.filter(lambda p: not breaks_training(p[0])), more=LIES, insists=st.booleans())
def test_any_lies_about_any_elements_lose(
    seat: int, place: tuple[int, int], more: dict[int, int], insists: bool
) -> None:
    run = liar({**more, place[0]: place[1]})
    party = Insisting(run, seat) if insists else Party(run, seat)
    outcome = play_against(party, seat).game.outcome
    assert outcome is not None and outcome.losers == (seat,), outcome


def other_bytes(draw: Callable[[int], int], answer: m.Answer) -> m.Answer | None:
    """An answer of the same kind with something in it changed; None if nothing readable comes of it."""
    data = bytearray(to_json(answer))
    at = draw(len(data))
    data[at] = b"0123456789abcdefAB"[draw(18)]
    try:
        changed: m.Answer = msgspec.json.decode(bytes(data), type=m.Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return changed


@settings(max_examples=30, deadline=None)
@given(seat=SEATS, number=st.integers(0, 14), data=st.data())
def test_any_change_of_any_answer_loses(seat: int, number: int, data: st.DataObject) -> None:
    def draw(limit: int) -> int:
        return data.draw(st.integers(0, limit - 1))

    def change(current: int, answer: m.Answer) -> m.Answer | None:
        return other_bytes(draw, answer) if current == number else answer

    outcome = play_against(LIAR, seat, change).game.outcome
    assert outcome is not None and outcome.losers == (seat,), outcome


LIAR = liar({next(n for n in range(STEP.count) if STEP.line(n).rule == "product"): 0})


@given(st.binary(max_size=300))
def test_bytes_that_are_no_move_are_refused_and_no_more(data: bytes) -> None:
    for read in (m.opened_move, agreed_from, moves_from):
        try:
            read(data)
        except Refused:
            continue
        assert read is moves_from and b"\n" not in data  # a line that is still being written


@given(st.integers(0, 10**9), st.binary(max_size=50))
def test_records_of_games_can_be_read_back(at: int, move: bytes) -> None:
    agreed = Agreed("tallystick-dispute-v1", "0" * 64, 7, ("1" * 64, "2" * 64), ("3" * 64, "4" * 64), 60, at)
    assert agreed_from(to_json(agreed)) == agreed
    received = Received(at, move)
    assert moves_from(line_of(received) * 2) == [received] * 2


NAMES = st.binary(min_size=32, max_size=32).map(bytes.hex)
AGREED = st.builds(
    Agreed,
    st.just("tallystick-dispute-v1"),
    NAMES,
    st.integers(1, 10**7),
    st.tuples(NAMES, NAMES),
    st.tuples(NAMES, NAMES),
    st.integers(1, 10**9),
    st.integers(0, 2**53),
)
NEWS: st.SearchStrategy[wire.News] = st.one_of(
    st.builds(wire.Greeting, AGREED, st.integers(0, MAX_MOVES), st.binary(min_size=32, max_size=32)),
    st.builds(wire.Recorded, st.builds(Received, st.integers(0, 2**53), st.binary(max_size=300))),
    st.builds(wire.Ended, st.integers(0, 2**53)),
    st.builds(Refused, st.sampled_from(["too_large", "no_seat"]), st.text(max_size=400)).map(wire.refusal_of),
)
Edits = list[tuple[float, int, bytes]]
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), max_size=3)


@given(NEWS, EDITS)
def test_what_a_host_says_has_one_spelling_or_is_refused(
    news: wire.News, edits: list[tuple[float, int, bytes]]
) -> None:
    honest = to_json(news)
    assert wire.news_from(honest) == news and len(honest) <= wire.MAX_NEWS_BYTES
    data = honest
    for place, cut, insert in edits:
        at = round(place * len(data))
        data = data[:at] + insert + data[at + cut :]
    try:
        found = wire.news_from(data)
    except Refused:
        return
    assert to_json(found) == data


def test_the_largest_move_fits_into_a_message_of_the_host() -> None:
    assert len(to_json(wire.Recorded(Received(2**53, bytes(m.MAX_MOVE_BYTES))))) <= wire.MAX_NEWS_BYTES


@given(st.binary(max_size=700), st.booleans())
def test_bytes_that_are_no_seating_are_refused(data: bytes, signed: bool) -> None:
    terms, nonce, host = sample().terms([LIAR, honest()]), bytes(32), "5" * 64
    assert wire.seat_of(wire.sealed_seating(KEYS[1], terms, host, nonce), terms, host, nonce) == 1
    with pytest.raises(Refused, match=r"too_large|truncated|bad_signature|wrong_seating"):
        wire.seat_of(seal(KEYS[1], wire.SEATING, data) if signed else data, terms, host, nonce)


@given(st.binary(min_size=4, max_size=4), st.integers(0, 2**20))
def test_no_length_beyond_the_limit_is_waited_for(head: bytes, limit: int) -> None:
    try:
        assert wire.length_of(head, limit) <= limit
    except Refused as refused:
        assert refused.code == "too_large" and int.from_bytes(head) > limit

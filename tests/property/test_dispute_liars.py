"""Whatever a liar lies about and whatever it answers, the honest party wins, in either seat."""

from collections.abc import Callable

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dispute_samples import AT, honest, liar, play_against
from tallystick.canon.encoding import to_json
from tallystick.demo.disputes import Insisting
from tallystick.errors import Refused
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute.party import Party
from tallystick.proof.dispute.record import Agreed, Received, agreed_from, line_of, moves_from
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
        assert data == b"" and read is moves_from


@given(st.integers(0, 10**9), st.binary(max_size=50))
def test_records_of_games_can_be_read_back(at: int, move: bytes) -> None:
    agreed = Agreed("tallystick-dispute-v1", "0" * 64, 7, ("1" * 64, "2" * 64), ("3" * 64, "4" * 64), 60, at)
    assert agreed_from(to_json(agreed)) == agreed
    received = Received(at, move)
    assert moves_from(line_of(received) * 2) == [received] * 2

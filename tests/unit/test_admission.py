"""One client cannot fill the pool, and cannot use up what is another's."""

import pytest

from tallystick.errors import Refused
from tallystick.network.admission import HELD_MS, MAX_SENDERS, Admission

ANN, BEN = b"a" * 32, b"b" * 32


def take(admission: Admission, sender: bytes, count: int, now_ms: int, start: int = 0) -> None:
    for number in range(start, start + count):
        admission.take(sender + b"%d" % number, now_ms)


def test_a_sender_has_a_burst_and_then_its_rate() -> None:
    admission = Admission(per_second=10, burst=5, held=100)
    take(admission, ANN, 5, 0)
    with pytest.raises(Refused, match="rate_limited"):
        admission.take(ANN + b"x", 99)
    admission.take(ANN + b"x", 100)
    with pytest.raises(Refused, match="rate_limited"):
        admission.take(ANN + b"y", 150)
    take(admission, BEN, 5, 150)


def test_a_rested_bucket_holds_no_more_than_its_burst() -> None:
    admission = Admission(per_second=10, burst=5, held=100)
    take(admission, ANN, 1, 0)
    take(admission, ANN, 5, 10**6, start=1)
    with pytest.raises(Refused, match="rate_limited"):
        admission.take(ANN + b"x", 10**6)


def test_a_sender_has_its_share_of_the_pool_until_what_it_sent_is_executed() -> None:
    admission = Admission(per_second=1000, burst=1000, held=3)
    take(admission, ANN, 3, 0)
    with pytest.raises(Refused, match="pool_share"):
        admission.take(ANN + b"x", 0)
    admission.take(BEN + b"x", 0)
    admission.take(ANN + b"1", 0)  # sent again: it has its place already
    admission.release([ANN + b"1", BEN + b"never seen"])
    admission.take(ANN + b"x", 0)
    with pytest.raises(Refused, match="pool_share"):
        admission.take(ANN + b"y", 0)


def test_what_is_never_executed_gives_its_place_back_after_a_while() -> None:
    admission = Admission(per_second=1000, burst=1000, held=3)
    take(admission, ANN, 3, 0)
    with pytest.raises(Refused, match="pool_share"):
        admission.take(ANN + b"x", HELD_MS - 1)
    take(admission, ANN, 3, HELD_MS, start=3)


def test_what_is_remembered_of_senders_is_bounded() -> None:
    admission = Admission()
    for number in range(MAX_SENDERS + 100):
        transaction = number.to_bytes(32) + b"x"
        admission.take(transaction, 0)
        admission.release([transaction])
    assert len(admission._senders) == MAX_SENDERS
    assert not admission._waiting

"""One client cannot fill the pool, and cannot use up what is another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.consensus.pbft.limits import MAX_POOL_BYTES, MAX_TRANSACTION_BYTES
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


def test_large_transactions_of_one_sender_fill_a_quarter_of_the_pool_and_no_more() -> None:
    admission, filled = Admission(), 0
    with pytest.raises(Refused, match="pool_share"):
        for number in range(MAX_POOL_BYTES // MAX_TRANSACTION_BYTES):
            admission.take(ANN + number.to_bytes(MAX_TRANSACTION_BYTES - len(ANN)), 0)
            filled += MAX_TRANSACTION_BYTES
    assert filled == MAX_POOL_BYTES // 4
    admission.take(BEN + b"x", 0)


def test_bytes_are_given_back_to_the_last_one() -> None:
    admission = Admission(held_bytes=100)
    admission.take(ANN, 0)
    admission.take(ANN + bytes(36), 0)
    with pytest.raises(Refused, match="pool_share"):
        admission.take(ANN + b"x", 0)
    admission.take(BEN, 0)
    admission.release([ANN + bytes(36)] * 2)
    admission.take(ANN + bytes(35), 0)
    with pytest.raises(Refused, match="pool_share"):
        admission.take(ANN + b"x", 0)


def test_one_that_was_released_and_came_again_expires_when_its_own_time_is_over() -> None:
    admission = Admission(held=1)
    admission.take(ANN, 0)
    admission.release([ANN])
    admission.take(ANN, 10)
    with pytest.raises(Refused, match="pool_share"):
        admission.take(ANN + b"x", HELD_MS + 9)
    admission.take(ANN + b"x", HELD_MS + 10)


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([ANN, BEN]), st.integers(0, 3), st.integers(0, HELD_MS // 20)),
        max_size=60,
    )
)
def test_what_counts_is_what_was_taken_and_neither_released_nor_old(
    story: list[tuple[bool, bytes, int, int]],
) -> None:
    admission, now, held = Admission(held=4, held_bytes=130), 0, dict[bytes, int]()
    for taken, sender, size, later in story:
        now += later
        transaction = sender + bytes(size)
        if not taken:
            admission.release([transaction])
            held.pop(transaction, None)
            continue
        held = {each: since for each, since in held.items() if now - since < HELD_MS}
        mine = [each for each in held if each.startswith(sender)]
        room = len(mine) < 4 and sum(map(len, mine)) + len(transaction) <= 130
        if transaction in held or room:
            admission.take(transaction, now)
            held.setdefault(transaction, now)
        else:
            with pytest.raises(Refused, match="pool_share"):
                admission.take(transaction, now)


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
    assert len(admission._buckets) == MAX_SENDERS
    assert not admission._waiting and not admission._shares

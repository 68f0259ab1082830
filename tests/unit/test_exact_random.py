"""Philox4x32-10 against the known answers of the Random123 distribution, and the permutations made from it."""

import pytest
import torch

from reference import fractional as reference
from tallystick.exact.random import permutation, philox, philox_block

KNOWN_ANSWERS = [  # key words, counter words, result words: Random123, tests/kat_vectors, philox4x32 10
    ("00000000 00000000", "00000000 00000000 00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff", "ffffffff ffffffff ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("a4093822 299f31d0", "243f6a88 85a308d3 13198a2e 03707344", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("key", "counter", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(key: str, counter: str, answer: str) -> None:
    low, high = words(key)
    block = philox_block(low | high << 32, *(torch.tensor([c]) for c in words(counter)))
    assert block.tolist() == [words(answer)]
    assert reference.philox(low | high << 32, words(counter)) == words(answer)


def test_the_value_at_a_counter_does_not_depend_on_how_many_are_drawn() -> None:
    assert torch.equal(philox(5, 7, 3), philox(5, 7, 1000)[:3])


@pytest.mark.parametrize(("key", "stream"), [(0, 0), (2**63 - 1, 2**40 + 3), (12345, 1)])
def test_rows_are_counters_of_one_stream(key: int, stream: int) -> None:
    expected = [reference.philox(key, [i, 0, stream % 2**32, stream >> 32]) for i in range(5)]
    assert philox(key, stream, 5).tolist() == expected


@pytest.mark.parametrize(("key", "stream", "count"), [(0, 0, 0), (0, 0, 1), (1, 2, 50), (2**63 - 1, 2**40, 333)])
def test_a_permutation_sorts_indices_by_their_draws(key: int, stream: int, count: int) -> None:
    assert permutation(key, stream, count).tolist() == reference.permutation(key, stream, count)


def test_streams_and_keys_give_different_orders() -> None:
    orders = {tuple(permutation(key, stream, 20).tolist()) for key in range(3) for stream in range(3)}
    assert len(orders) == 9

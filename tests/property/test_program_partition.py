"""Law 2: any split of the micro-batches over any workers, arriving in any order, gives the single machine's root."""

import functools
import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from program_samples import perceptron, records_of, same, start
from tallystick.exact import accumulate
from tallystick.program.optimizers import Tensors
from tallystick.program.training import Training, advance, combine, contribution, train_step
from tallystick.proof.roots import contribution_root, state_root

MICRO_BATCHES, STEPS = 7, 3


@functools.cache
def run() -> tuple[Training, list[Tensors], list[list[Tensors]]]:
    """A run on one machine: the states before each step and after the last, and every contribution."""
    training, state = start(perceptron(), records_of(60), size=4, micro_batches=MICRO_BATCHES)
    states, contributions = [state], []
    for step in range(STEPS):
        contributions.append([contribution(training, state, step, index) for index in range(MICRO_BATCHES)])
        state, _ = train_step(training, state, step)
        states.append(state)
    return training, states, contributions


def merged_at_random(parts: list[Tensors], chance: random.Random) -> Tensors:
    """Sums of sums: groups of random size, taken from random places, until one is left."""
    waiting = list(parts)
    while len(waiting) > 1:
        chance.shuffle(waiting)
        size = chance.randint(2, len(waiting))
        waiting = [combine(waiting[:size]), *waiting[size:]]
    return waiting[0]


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, STEPS - 1))
def test_any_tree_of_partial_sums_gives_the_same_total_and_the_same_next_root(chance: random.Random, step: int) -> None:
    training, states, contributions = run()
    total = merged_at_random(contributions[step], chance)
    assert contribution_root(total) == contribution_root(combine(contributions[step]))
    after = advance(training, states[step], step, total)
    assert state_root(after, step + 1) == state_root(states[step + 1], step + 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(-(2**24), 2**24), min_size=3, max_size=3), min_size=2, max_size=64), st.randoms())
def test_sums_stay_exact_at_the_limits_of_an_entry(rows: list[list[int]], chance: random.Random) -> None:
    """Entries at their limit of 2**24 for 64 micro-batches, and peaks and losses beside them."""
    assert accumulate.entry_bits(64) == 24
    parts = [
        {
            "gradient/w": torch.tensor(row, dtype=torch.int32),
            "peaks": torch.tensor([max(row) % 128], dtype=torch.int32),
            "loss": torch.tensor(row[0]),
        }
        for row in rows
    ]
    expected = combine(parts)
    assert expected["gradient/w"].tolist() == [sum(column) for column in zip(*rows, strict=True)]
    assert expected["peaks"].tolist() == [max(max(row) % 128 for row in rows)]
    assert same(merged_at_random(parts, chance), expected)


def test_a_missing_or_a_doubled_micro_batch_changes_the_root() -> None:
    training, states, contributions = run()
    parts = contributions[0]
    for wrong in (parts[1:], [*parts, parts[0]]):
        assert state_root(advance(training, states[0], 0, combine(wrong)), 1) != state_root(states[1], 1)


def test_combining_changes_no_part() -> None:
    _, _, contributions = run()
    before = [contribution_root(part) for part in contributions[0]]
    combine(contributions[0])
    assert [contribution_root(part) for part in contributions[0]] == before

"""Disputes about operators that read, write and add where an index says: each of their lines can be judged."""

import functools

import pytest
import torch
from torch import Tensor

from dispute_samples import Run, liar, play_against, run_of
from program_samples import records_of, start, with_function
from tallystick.demo.disputes import Insisting
from tallystick.proof.dispute.rules.lines import size
from tallystick.proof.dispute.rules.step import Step

STEPS, AT = 3, 2


def indexed(h: Tensor) -> Tensor:
    """[N, 8] to [N, 8]; indices that come up twice and never are among them."""
    columns, rows = h.argmax(1), h.argmax(0)[:4]
    added = h.scatter_add(1, columns[:, None], h[:, :1]).index_add(1, columns, h[:, : len(h)], alpha=0.5)
    put = h.index_put((rows,), h[:1]).index_put((rows,), h[1:2], accumulate=True)
    return added + put + torch.cat([h[rows], h[:1]])


@functools.cache
def run() -> Run:
    training, initial = start(with_function(indexed), records_of(40), size=5, micro_batches=2)
    return run_of(training, initial, STEPS)


@functools.cache
def lines() -> dict[str, tuple[int, int]]:
    """One line for each rule and operator: its number, and an element that something was written or added to."""
    step = Step(run().program, run().spec, AT)
    wanted = {"named", "hit", "scattered", "landed", "taken"}
    found: dict[str, tuple[int, int]] = {}
    for number in range(step.count):
        line = step.line(number)
        if line.rule in wanted or "landing" in line.args[:2]:
            found.setdefault(f"{line.rule} of {line.where.rpartition(' ')[2]}", (number, size(line.shape) // 2))
    return found


def test_every_operator_with_an_index_is_met() -> None:
    """But `index_add`, which tracing makes an `index_put` of."""
    met = {name.partition(" of ")[2] for name in lines()}
    assert met == {f"aten.{op}" for op in ("index.Tensor", "index_put.default", "scatter.value", "scatter_add.default")}
    assert {name.partition(" of ")[0] for name in lines()} == {
        "named", "hit", "scattered", "landed", "taken", "peak", "sum",
    }  # fmt: skip


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("what", sorted(lines()))
def test_a_lie_about_it_loses(what: str, seat: int) -> None:
    party = Insisting(liar(dict([lines()[what]]), run(), AT), seat)
    outcome = play_against(party, seat, run=run()).game.outcome
    assert outcome is not None and outcome.losers == (seat,), outcome
    assert outcome.code in {"wrong_element", "wrong_sum"}

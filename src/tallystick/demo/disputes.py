"""A dispute on one machine: an honest party, one that lies about one element of one step, and what that costs."""

import hashlib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tallystick.canon.identity import Key
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute import phases as ph
from tallystick.proof.dispute.game import Game, receive, start
from tallystick.proof.dispute.party import Party
from tallystick.proof.dispute.record import Agreed, Received, judged, terms_of
from tallystick.proof.dispute.rules.lines import size
from tallystick.proof.dispute.rules.reductions import SUMS, terms
from tallystick.proof.dispute.rules.step import STATE, Step
from tallystick.proof.dispute.values import Tamper

KEYS: Final = (Key.from_seed(b"defender".ljust(32, b"-")), Key.from_seed(b"challenger".ljust(32, b"-")))
JUDGED: Final = 5
"""How often the finished game is judged again, for the time that the referee takes."""
FAULTS: Final = ("product", "sum", "peak", "element", "update", "data")


@dataclass(frozen=True)
class Result:
    """How a game went."""

    outcome: ph.Outcome
    phases: tuple[str, ...]
    sent: tuple[bytes, ...]
    seconds: float
    """The referee's, for the whole game from the bytes of program, specification and moves: the median."""

    @property
    def rounds(self) -> int:
        return len(self.phases)

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.sent))


class Insisting(Party):
    """A liar who, asked for sums, claims ones that its wrong element could come from, down to a single term."""

    def totals(self, phase: ph.Add) -> m.Answer:
        answer = super().totals(phase)
        assert isinstance(answer, m.Totals)
        at = len(answer.totals) // 2
        return m.Totals([total + (i == at) for i, total in enumerate(answer.totals)])


def nudged(tensor: Tensor, at: int) -> Tensor:
    """A copy with the smallest possible change of one element."""
    copy = tensor.clone(memory_format=torch.contiguous_format)
    flat = copy.view(-1)
    if tensor.dtype == torch.bool:
        flat[at] = ~flat[at]
    elif tensor.dtype == torch.float32:
        flat[at] = torch.nextafter(flat[at], torch.tensor(torch.inf)) if flat[at] != 0 else 2.0**-20
    else:
        flat[at] += -1 if flat[at] > 0 else 1
    return copy


def lie(step: Step, fault: str) -> Tamper:
    """Changes one element of a line of that kind; and one of the state, so that it matters in any case."""
    update = step.target(STATE, next(name for name, *_ in step.tensors(STATE) if name.startswith("parameter/")))
    chosen = {update.number: 0}
    if fault != "update":
        chosen[_line(step, fault)] = size(step.line(_line(step, fault)).shape) // 2
    return lambda number, tensor: nudged(tensor, chosen[number]) if number in chosen else tensor


def _line(step: Step, fault: str) -> int:
    """The line of that kind that has the most terms, or the most elements."""
    wanted = {"data": "order", "element": "mul"}.get(fault, fault)
    found = [n for n in range(step.count) if step.line(n).rule == wanted and size(step.line(n).shape)]
    if wanted in SUMS:
        return max(found, key=lambda n: terms(step.line(n), 0))
    return max(found, key=lambda n: size(step.line(n).shape))


def agreed_by(parties: Sequence[Party], spec: bytes, seconds: int = 60) -> Agreed:
    first, second = (party.run for party in parties)
    return Agreed(
        format="tallystick-dispute-v1",
        spec=hashlib.sha256(spec).hexdigest(),
        steps=len(first.entries),
        roots=(first.entries[-1].state.hex(), second.entries[-1].state.hex()),
        identities=(KEYS[0].identity, KEYS[1].identity),
        seconds=seconds,
        opened=0,
    )


def play(agreed: Agreed, program: bytes, spec: bytes, parties: Sequence[Party]) -> Result:
    """Plays a game to its end, and judges it again from its bytes."""
    game = start(terms_of(agreed, program, spec), 0)
    phases: list[str] = []
    sent: list[bytes] = []
    while game.outcome is None:
        phases.append(type(game.phase).__name__)
        game = _round(game, parties, sent)
    moves = [Received(0, move) for move in sent]
    took = []
    for _ in range(JUDGED):
        began = time.perf_counter()
        again = judged(agreed, terms_of(agreed, program, spec), moves, 0)
        took.append(time.perf_counter() - began)
        assert again.outcome == game.outcome
    return Result(game.outcome, tuple(phases), tuple(sent), statistics.median(took))


def _round(game: Game, parties: Sequence[Party], sent: list[bytes]) -> Game:
    now = game
    for party in parties:
        answer = party.answer(game)
        if answer is not None and now.outcome is None:
            move = m.Move(game.terms.name, game.round, party.seat, answer)
            sent.append(m.sealed_move(KEYS[party.seat], move))
            now = receive(now, *m.opened_move(sent[-1]), 0)
    return now


def lies_of(fault: str, step: Step) -> Mapping[int, Tamper]:
    return {step.number: lie(step, fault)}

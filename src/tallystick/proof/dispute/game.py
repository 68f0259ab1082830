"""The rules of the dispute game, as a state machine: what is asked, of whom, and what follows from the answers.

Two parties agree on specification, program and start, and differ in the link after the last step. Each round the game
asks one or both of them something that follows from what they have claimed, until they differ in one element of one
tensor whose operands they agree on; that element is worked out in integers.

    Begin      the last link, which holds the reported state root          both
    Steps      links at 15 steps between an agreed and a disputed one      both, until neighbors differ
    Reveal     what the links of that step are made of                     both
    Search     16 nodes of a tree: tensors, lines of the step, chunks      both, until one leaf differs
    Commit     the root over the lines of the step                         both
    Compare    the chunk that differs: the first different element         both
    Add        the sum of an element's terms, then of ranges of them       both, until one term differs
    Show       openings of the operands; the referee computes              one

Every answer is checked against that party's own claims, and left of the first difference both have claimed the same:
so an honest party is never caught in a contradiction, and a party that loses has claimed something false, contradicted
itself or not answered. Nothing here does I/O or reads a clock; times are whole seconds that the caller hands in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tallystick.errors import Refused
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute.phases import Begin, Outcome, Phase, Terms
from tallystick.proof.dispute.resolving import CHECKS, RULES, Lost


@dataclass(frozen=True)
class Game:
    """A game at some round; `since` is when the round began."""

    terms: Terms
    phase: Phase
    since: int
    round: int = 0
    answers: Mapping[int, m.Answer] = field(default_factory=dict)
    outcome: Outcome | None = None

    @property
    def waiting(self) -> tuple[int, ...]:
        """The seats whose answer is missing."""
        return () if self.outcome else tuple(seat for seat in self.phase.asked if seat not in self.answers)

    @property
    def deadline(self) -> int:
        return self.since + self.terms.seconds


def start(terms: Terms, now: int) -> Game:
    """A new game.

    Raises:
        Refused: `no_dispute` or `bad_dispute`.
    """
    if terms.roots[0] == terms.roots[1]:
        raise Refused("no_dispute", "dispute: both parties claim the same result")
    if terms.identities[0] == terms.identities[1]:
        raise Refused("bad_dispute", "dispute: both seats have one key, so nobody could tell their moves apart")
    if not 1 <= terms.steps <= int(terms.spec["steps"]) or terms.seconds < 1:
        raise Refused("bad_dispute", f"dispute: {terms.steps} steps of {terms.spec['steps']}")
    return Game(terms, Begin(), now)


def tick(game: Game, now: int) -> Game:
    """The game when time has come this far: whoever has not answered by the deadline loses."""
    if game.outcome is None and now > game.deadline:
        return _ended(game, Outcome(game.waiting, "silent", f"no answer in round {game.round} by {game.deadline}"))
    return game


def receive(game: Game, sender: str, move: m.Move | Refused, now: int) -> Game:
    """The game after a signed move arrived.

    Moves that are not for this game and round, or not the sender's to make, change nothing: they may be late copies.
    """
    game = tick(game, now)
    if isinstance(move, Refused):
        return _malformed(game, sender, move)
    expected = (game.terms.name, game.round)
    if (move.game, move.round) != expected or move.seat not in game.waiting:
        return game
    if game.terms.identities[move.seat] != sender:
        return game
    if not isinstance(move.answer, game.phase.expects):
        reason = f"the answer in round {game.round} is not of the kind that was asked for"
        return _ended(game, Outcome((move.seat,), "malformed", reason))
    game = replace(game, answers={**game.answers, move.seat: move.answer})
    return game if game.waiting else _resolved(game, now)


def _malformed(game: Game, sender: str, refusal: Refused) -> Game:
    seats = tuple(seat for seat in game.waiting if game.terms.identities[seat] == sender)
    return _ended(game, Outcome(seats[:1], "malformed", refusal.reason)) if seats else game


def _ended(game: Game, outcome: Outcome) -> Game:
    return replace(game, outcome=outcome)


def _resolved(game: Game, now: int) -> Game:
    """All answers of the round are there."""
    rule: Callable[..., Phase | Outcome] = RULES[type(game.phase)]
    checked: dict[int, Any] = {}
    failures: dict[int, Lost] = {}
    for seat in game.phase.asked:
        try:
            checked[seat] = CHECKS[type(game.phase)](game.terms, game.phase, seat, game.answers[seat])
        except Lost as lost:
            failures[seat] = lost
    if failures:
        seat, first = next(iter(failures.items()))
        return _ended(game, Outcome(tuple(failures), first.code, f"seat {seat}: {first}"))
    result = rule(game.terms, game.phase, checked)
    if isinstance(result, Outcome):
        return _ended(game, result)
    return replace(game, phase=result, since=now, round=game.round + 1, answers={})

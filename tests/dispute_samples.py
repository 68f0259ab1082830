"""A small training run, and parties that dispute about it: honest ones, and liars of several kinds."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from program_samples import perceptron, records_of
from program_samples import start as start_run
from tallystick.canon.identity import Key
from tallystick.demo.disputes import nudged
from tallystick.program.graph import encode_program
from tallystick.program.optimizers import Tensors
from tallystick.program.spec import encode_spec
from tallystick.program.training import Training
from tallystick.proof.dispute import game as g
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute.party import Party
from tallystick.proof.dispute.phases import Terms
from tallystick.proof.dispute.replay import Replay
from tallystick.proof.dispute.rules.lines import Json
from tallystick.proof.dispute.rules.step import Step
from tallystick.proof.dispute.values import Tamper
from tallystick.proof.roots import records_root, state_root

STEPS, AT = 20, 13
"""Steps of the run, and the one that liars lie about."""
KEYS = (Key.from_seed(b"d" * 32), Key.from_seed(b"e" * 32))
SECONDS = 60


@dataclass(frozen=True)
class Run:
    training: Training
    program: Json
    spec: Json
    name: bytes
    initial: Tensors

    def replay(self, lies: Mapping[int, Tamper] | None = None) -> Replay:
        return Replay(self.training, self.program, self.spec, self.name, self.initial, self.spec["steps"], lies)

    def terms(self, parties: Sequence[Replay]) -> Terms:
        roots = (parties[0].entries[-1].state, parties[1].entries[-1].state)
        identities = (KEYS[0].identity, KEYS[1].identity)
        return Terms(self.program, self.spec, self.name, self.spec["steps"], roots, identities, SECONDS)


def run_of(training: Training, initial: Tensors, steps: int) -> Run:
    """A training run whose specification names its start and its records."""
    train = msgspec.structs.replace(training.spec.train, root=records_root(training.records))
    spec = msgspec.structs.replace(training.spec, steps=steps, initial_root=state_root(initial, 0), train=train)
    data, program = encode_spec(spec), encode_program(training.program)
    name = hashlib.sha256(data).digest()
    return Run(replace(training, spec=spec), json.loads(program), json.loads(data), name, initial)


@functools.cache
def sample() -> Run:
    training, initial = start_run(perceptron(), records_of(40), size=5, micro_batches=3)
    return run_of(training, initial, STEPS)


@functools.cache
def honest() -> Replay:
    return sample().replay()


def lying(places: Mapping[int, int]) -> Tamper:
    """Changes element `place` of each of these lines."""
    return lambda number, tensor: nudged(tensor, places[number]) if number in places else tensor


def liar(
    places: Mapping[int, int], run: Run | None = None, step: int = AT, also: Mapping[int, Tamper] | None = None
) -> Replay:
    """A party that lies about lines of one step, and about the state after it, so that it matters."""
    chosen = run or sample()
    lines = Step(chosen.program, chosen.spec, step)
    target = next(lines.target("state", name).number for name, *_ in lines.tensors("state") if "parameter" in name)
    return chosen.replay({step: lying({target: 0, **places}), **(also or {})})


Change = Callable[[int, m.Answer], m.Answer | None]
"""What a party says instead of what it would, in some round; None for nothing."""


@dataclass(frozen=True)
class Played:
    game: g.Game
    sent: tuple[bytes, ...]


def play(terms: Terms, parties: Sequence[Party], changes: Mapping[int, Change] | None = None) -> Played:
    """Plays to the end; a seat that says nothing runs into the deadline."""
    game, sent, now = g.start(terms, 0), [], 0
    while game.outcome is None:
        now += 1
        before = game.round
        for party in parties:
            answer = party.answer(game) if game.round == before else None
            if answer is not None and changes and party.seat in changes:
                answer = changes[party.seat](game.round, answer)
            if answer is not None:
                sent.append(m.sealed_move(KEYS[party.seat], m.Move(terms.name, before, party.seat, answer)))
                game = g.receive(game, *m.opened_move(sent[-1]), now)
        if game.outcome is None and game.round == before:
            game = g.tick(game, game.deadline + 1)
    return Played(game, tuple(sent))


def play_against(dishonest: Party | Replay, seat: int, change: Change | None = None, run: Run | None = None) -> Played:
    """An honest party against a liar in `seat`."""
    chosen = run or sample()
    right = honest() if run is None else chosen.replay()
    other = dishonest if isinstance(dishonest, Party) else Party(dishonest, seat)
    parties = [other, Party(right, 1)] if seat == 0 else [Party(right, 0), other]
    return play(chosen.terms([party.run for party in parties]), parties, {seat: change} if change else None)

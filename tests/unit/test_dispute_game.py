"""Games about a small run: whoever is honest wins, whatever the other says, in either seat."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from dispute_samples import AT, KEYS, STEPS, Change, honest, liar, lying, play, play_against, sample
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.canon.merkle import path_to, root_of
from tallystick.canon.sealed import seal
from tallystick.demo.disputes import nudged
from tallystick.errors import Refused
from tallystick.proof.dispute import game as g
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute import phases as ph
from tallystick.proof.dispute import referee, resolving
from tallystick.proof.dispute.party import Party
from tallystick.proof.dispute.record import Agreed, terms_of
from tallystick.proof.dispute.referee import openings
from tallystick.proof.dispute.referee.openings import MissingError, Opened, Opening, data_root
from tallystick.proof.dispute.replay import Replay
from tallystick.proof.dispute.resolving import found
from tallystick.proof.dispute.rules.lines import Line, size
from tallystick.proof.dispute.rules.step import Step

SEATS = pytest.mark.parametrize("seat", [0, 1])
STEP = honest().step(AT)


def first_line(rule: str, after: int = 0) -> int:
    return next(n for n in range(after, STEP.count) if STEP.line(n).rule == rule and size(STEP.line(n).shape))


def kinds() -> dict[str, int]:
    """One line of each rule that the run has, and of each thing that a step does."""
    found = {STEP.line(n).rule: n for n in reversed(range(STEP.count)) if size(STEP.line(n).shape)}
    named = {name: STEP.batch(1).named[name].number for name in ("gradient/0.weight", "peaks", "loss")}
    totals = {name: op.number for name, op in STEP.tail.named.items()}
    return {**found, **named, **totals}


@SEATS
@pytest.mark.parametrize("what", sorted(kinds()))
def test_a_lie_about_any_kind_of_line_loses(what: str, seat: int) -> None:
    number = kinds()[what]
    last = size(STEP.line(number).shape) - 1
    outcome = play_against(liar({number: last}), seat).game.outcome
    assert (
        outcome is not None
        and outcome.losers == (seat,)
        and (outcome.code in {"wrong_element", "wrong_input"} or what == "order")
    )


@SEATS
def test_other_training_data_loses(seat: int) -> None:
    run = sample()
    records = {**run.training.records, "x": run.training.records["x"] + 1}
    training = replace(run.training, records=records)
    other = Replay(training, run.program, run.spec, run.name, run.initial, STEPS)
    assert other.links[-1] != honest().links[-1]
    outcome = play_against(other, seat).game.outcome
    assert outcome is not None and (outcome.losers, outcome.code) == ((seat,), "wrong_input")


@SEATS
def test_a_wrong_loss_before_a_wrong_state_loses(seat: int) -> None:
    number = kinds()["contribution/loss"]
    played = play_against(liar({}, also={AT - 2: lying({number: 0})}), seat)
    outcome = played.game.outcome
    assert outcome is not None and outcome.losers == (seat,) and "step 11" in outcome.reason


@SEATS
def test_a_run_that_does_not_end_in_the_reported_root_loses(seat: int) -> None:
    """Nobody can report one result and defend another."""
    run, other = honest(), liar({})
    parties = [Party(run, 0), Party(run, 1)]
    roots = [other if seat == 0 else run, run if seat == 0 else other]
    outcome = play(sample().terms(roots), parties).game.outcome
    assert outcome is not None and (outcome.losers, outcome.code) == ((seat,), "contradiction")


class Defending(Party):
    """Claims a sum that its wrong element could come from, and defends it down to a term."""

    def totals(self, phase: ph.Add) -> m.Answer:
        answer = super().totals(phase)
        assert isinstance(answer, m.Totals)
        at = len(answer.totals) // 2
        return m.Totals([total + (i == at) for i, total in enumerate(answer.totals)])


@SEATS
@pytest.mark.parametrize("rule", ["sum", "product"])
def test_a_wrong_sum_is_followed_down_to_one_term(rule: str, seat: int) -> None:
    run = liar({first_line(rule): 0})
    played = play_against(Defending(run, seat), seat)
    outcome = played.game.outcome
    assert outcome is not None and (outcome.losers, outcome.code) == ((seat,), "wrong_sum")


@SEATS
def test_a_wrong_order_of_records_is_settled_by_counting(seat: int) -> None:
    run = liar({first_line("order"): 2})
    for party in (Party(run, seat), Defending(run, seat)):
        outcome = play_against(party, seat).game.outcome
        assert outcome is not None and outcome.losers == (seat,)


def silent_in(number: int) -> Change:
    return lambda current, answer: None if current == number else answer


@SEATS
def test_silence_loses_in_every_round(seat: int) -> None:
    run = liar({first_line("product"): 0})
    rounds = play_against(run, seat).game.round
    for quiet in range(rounds):
        outcome = play_against(run, seat, silent_in(quiet)).game.outcome
        assert outcome is not None and (outcome.losers, outcome.code) == ((seat,), "silent")


@SEATS
def test_an_answer_of_another_kind_loses(seat: int) -> None:
    outcome = play_against(liar({}), seat, lambda n, answer: m.Chunk(b"")).game.outcome
    assert outcome is not None and (outcome.losers, outcome.code) == ((seat,), "malformed")


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def falsified(answer: m.Answer) -> m.Answer:
    """The answer with the least change that only a check against earlier claims can notice."""
    match answer:
        case m.Claim():
            return msgspec.structs.replace(answer, entry=msgspec.structs.replace(answer.entry, state=bytes(32)))
        case m.Entries():
            return msgspec.structs.replace(answer, entry=msgspec.structs.replace(answer.entry, total=bytes(32)))
        case m.Nodes():
            return m.Nodes([*answer.nodes[:-1], flipped(answer.nodes[-1])])
        case m.StepRoot():
            return msgspec.structs.replace(answer, root=flipped(answer.root))
        case m.Chunk():
            return m.Chunk(answer.data[:-1] + bytes([answer.data[-1] ^ 1]))
        case m.Totals():
            return m.Totals([*answer.totals[:-1], answer.totals[-1] + 1])
        case m.Openings():
            first = answer.openings[0]
            other = msgspec.structs.replace(first, data=flipped(first.data))
            return m.Openings([other, *answer.openings[1:]], answer.witness)
        case m.Bound():
            return m.Bound([flipped(node) for node in answer.path])
        case m.Links():
            return m.Links(answer.links[:-1])


CHECKED = {
    "Begin": "reported",
    "Steps": "links where",
    "Reveal": "link that was claimed",
    "Search": "node that was claimed",
    "Commit": "line",
    "Compare": "not chunk",
    "Add": "add up",
    "Show": "does not lead to the root",
}


def falsify(phase: str, *, change: bool = True) -> tuple[g.Game, int]:
    """A game in which seat 0 falsifies its first answer in a phase; and the round in which it did."""
    at: list[int] = []

    def falsifying(number: int, answer: m.Answer) -> m.Answer:
        later = phase != "Add" or (isinstance(answer, m.Totals) and len(answer.totals) > 1)
        if type(answer) is getattr(ph, phase).expects and later and not at:
            at.append(number)
            return falsified(answer) if change else answer
        return answer

    game = play_against(Defending(liar({first_line("product"): 0}), 0), 0, falsifying).game
    return game, at[0]


@pytest.mark.parametrize("phase", CHECKED)
def test_each_answer_is_checked_against_earlier_claims(phase: str) -> None:
    """The check itself has to notice, in that round: later ones could do so by luck."""
    game, at = falsify(phase)
    assert game.outcome is not None and game.outcome.losers == (0,)
    assert at == game.round and CHECKED[phase] in game.outcome.reason


UNCHECKED: dict[str, Callable[..., object]] = {
    "Begin": lambda terms, phase, seat, answer: m.next_link(answer.link, answer.entry),
    "Reveal": lambda terms, phase, seat, answer: answer,
    "Search": lambda terms, phase, seat, answer: answer.nodes,
    "Commit": lambda terms, phase, seat, answer: answer,
    "Compare": lambda terms, phase, seat, answer: answer.data,
    "Add": lambda terms, phase, seat, answer: answer.totals,
}


@pytest.mark.parametrize("phase", UNCHECKED)
def test_without_its_check_the_falsified_answer_passes_that_round(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resolving.CHECKS, getattr(ph, phase), UNCHECKED[phase])
    game, at = falsify(phase)
    assert game.round > at


def test_without_the_root_false_operands_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The referee takes what it is shown, and decides for whoever shows what suits it."""
    game, _ = falsify("Show")
    assert game.outcome is not None and (game.outcome.losers, game.outcome.code) == ((0,), "wrong_opening")
    right = falsify("Show", change=False)[0].outcome
    monkeypatch.setattr(openings.Opened, "_chunk", lambda self, line, chunk, nbytes: self._openings[line, chunk].data)
    shown = falsify("Show")[0].outcome
    assert right is not None and shown is not None and shown.code != "wrong_opening"
    assert shown.reason != right.reason


def test_without_deadlines_silence_would_never_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    game = g.start(sample().terms([liar({}), honest()]), 0)
    answer = Party(honest(), 1).answer(game)
    assert answer is not None
    move = m.Move(game.terms.name, 0, 1, answer)
    waiting = g.receive(game, KEYS[1].identity, move, 1)
    assert g.tick(waiting, 10**9).outcome is not None
    monkeypatch.setattr(g, "tick", lambda game, now: game)
    assert g.receive(waiting, KEYS[1].identity, move, 10**9).outcome is None


@SEATS
def test_an_extreme_that_nothing_attains_loses(seat: int) -> None:
    """The larger of two claims needs a witness, and one that is shown is compared with the claim."""
    run = liar({first_line("peak"): 0})

    def change(number: int, answer: m.Answer) -> m.Answer:
        return msgspec.structs.replace(answer, witness=0) if isinstance(answer, m.Openings) else answer

    outcome = play_against(run, seat, change).game.outcome
    assert outcome is not None and outcome.losers == (seat,)


def test_only_lines_before_the_disputed_one_are_read() -> None:
    data = bytes(4)
    leaves = [data_root(data)] * 9
    opening = Opening(5, path_to(leaves, 5), 0, data, [])
    assert Opened(root_of(leaves), 9, 6, [opening]).element(5, "float32", 1, 0) == 0
    with pytest.raises(MissingError, match="not opened"):
        Opened(root_of(leaves), 9, 5, [opening]).element(5, "float32", 1, 0)


def test_when_both_lie_somebody_loses() -> None:
    runs = [liar({kinds()["gradient/0.weight"]: 0}), liar({kinds()["contribution/gradient/2.bias"]: 0})]
    played = play(sample().terms(runs), [Party(run, seat) for seat, run in enumerate(runs)])
    assert played.game.outcome is not None and played.game.outcome.losers


def test_when_both_claim_wrong_values_of_one_element_both_lose() -> None:
    number = first_line("tanh") if "tanh" in kinds() else first_line("exp")
    target = {STEP.target("state", "parameter/0.bias").number: 0}
    once, twice = (
        liar({number: 1, **target}),
        sample().replay(
            {AT: lambda n, x: nudged(nudged(x, 1), 1) if n == number else nudged(nudged(x, 0), 0) if n in target else x}
        ),
    )
    parties = [Party(once, 0), Party(twice, 1)]
    outcome = play(sample().terms([once, twice]), parties).game.outcome
    assert outcome is not None and outcome.losers == (0, 1)


def test_an_operator_that_the_referee_does_not_know_settles_nothing() -> None:
    number = first_line("exp")
    run = liar({number: 0})
    parties = [Party(run, 0), Party(honest(), 1)]
    game = g.start(sample().terms([party.run for party in parties]), 0)
    step = honest().step(AT)
    while not isinstance(game.phase, ph.Search) or game.phase.tree != "lines":
        for party in parties:
            answer = party.answer(game)
            assert answer is not None
            game = g.receive(
                game, KEYS[party.seat].identity, m.Move(game.terms.name, game.round, party.seat, answer), 0
            )
            if party.seat == 1:
                break
    lines = step.section(number).lines
    assert isinstance(lines, list)
    leaf = replace(game.phase, level=0, place=number)
    disputed = replace(game.phase.disputed, step=_Unknown(step, number))
    outcome = found(replace(leaf, disputed=disputed))
    assert isinstance(outcome, ph.Outcome) and (outcome.losers, outcome.code) == ((), "unknown_operator")


class _Unknown(Step):
    """A step one of whose operators has no rule."""

    def __init__(self, step: Step, number: int) -> None:
        super().__init__(step.program, step.spec, step.number)
        self._number = number

    def line(self, number: int) -> Line:
        line = super().line(number)
        return replace(line, rule="unknown") if number == self._number else line


def test_moves_for_others_or_other_rounds_change_nothing() -> None:
    run = liar({})
    parties = [Party(run, 0), Party(honest(), 1)]
    game = g.start(sample().terms([party.run for party in parties]), 0)
    answer = parties[0].answer(game)
    assert answer is not None
    move = m.Move(game.terms.name, 0, 0, answer)
    stranger = Key.from_seed(b"s" * 32).identity
    for sender, other in (
        (KEYS[1].identity, move),
        (stranger, move),
        (KEYS[0].identity, m.Move(move.game, 1, 0, answer)),
        (KEYS[0].identity, m.Move(bytes(32), 0, 0, answer)),
        (stranger, Refused("malformed", "move")),
    ):
        assert g.receive(game, sender, other, 1) == game
    once = g.receive(game, KEYS[0].identity, move, 1)
    assert once.waiting == (1,) and g.receive(once, KEYS[0].identity, move, 1) == once


def test_a_signed_move_that_cannot_be_read_loses_and_an_unsigned_one_does_not() -> None:
    run = liar({})
    game = g.start(sample().terms([run, honest()]), 0)
    rubbish = seal(KEYS[0], m.DOMAIN, b"{}")
    outcome = g.receive(game, *m.opened_move(rubbish), 1).outcome
    assert outcome is not None and (outcome.losers, outcome.code) == ((0,), "malformed")
    with pytest.raises(Refused, match="bad_signature"):
        m.opened_move(rubbish[:-1] + b"!")


def test_the_deadline_is_that_of_the_round_and_takes_whoever_is_missing() -> None:
    game = g.start(sample().terms([liar({}), honest()]), 100)
    assert g.tick(game, 160) == game
    late = g.tick(game, 161).outcome
    assert late is not None and (late.losers, late.code) == ((0, 1), "silent")
    answer = Party(honest(), 1).answer(game)
    assert answer is not None
    half = g.receive(game, KEYS[1].identity, m.Move(game.terms.name, 0, 1, answer), 120)
    late = g.tick(half, 161).outcome
    assert late is not None and late.losers == (0,)


def test_no_game_without_a_dispute() -> None:
    with pytest.raises(Refused, match="no_dispute"):
        g.start(sample().terms([honest()] * 2), 0)


def test_the_referee_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, tallystick.proof.dispute.game, tallystick.proof.dispute.referee.judging\n"
        "print([name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_referee_can_be_read_in_one_sitting() -> None:
    folder = Path(referee.__file__).parent
    assert sum(len(path.read_text().splitlines()) for path in folder.glob("*.py")) < 500


@pytest.mark.parametrize("spec", [b"[]", b"{}", b"x", b'{"program":1}', b"[" * 100_000])
def test_a_specification_that_is_none_is_refused(spec: bytes) -> None:
    agreed = Agreed("tallystick-dispute-v1", blob_name(spec), 7, ("1" * 64, "2" * 64), ("3" * 64, "4" * 64), 60, 0)
    with pytest.raises(Refused, match=r"bad_spec|wrong_program"):
        terms_of(agreed, b"{}", spec)

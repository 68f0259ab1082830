"""The last word: one element, or one term of its sum, recomputed from opened operands.

Each verdict says whose claim is wrong. Whoever is named wrong has claimed something false; both may be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tallystick.proof.dispute.referee.numbers import UndefinedError, Value, encoded
from tallystick.proof.dispute.referee.openings import MissingError, Opened
from tallystick.proof.dispute.rules import maps, reductions
from tallystick.proof.dispute.rules.lines import Line, Operand, Read, size


@dataclass(frozen=True)
class Case:
    """An element of a line and what the seats claim of it."""

    line: Line
    place: int
    values: tuple[Value, Value]
    total: int
    term: int
    totals: tuple[int, int]
    witness: int
    seat: int
    """Who opens the operands."""


@dataclass(frozen=True)
class Verdict:
    wrong: tuple[int, ...]
    code: str
    reason: str


def int64(x: int) -> int:
    """`x` modulo 2**64, signed."""
    return (x + 2**63) % 2**64 - 2**63


def element(case: Case, opened: Opened) -> Verdict:
    return _compared(case, lambda read: maps.element(case.line, case.place, read), opened)


def finish(case: Case, opened: Opened) -> Verdict:
    """Both agree on the sum, and differ in what it rounds to."""
    return _compared(case, lambda read: reductions.finished(case.line, case.place, case.total, read), opened)


def term(case: Case, opened: Opened) -> Verdict:
    """They differ in one term of the sum: one product of two integers, or one rounded number."""
    read = _reader(opened)
    try:
        right = int64(reductions.term(case.line, case.place, case.term, read, case.values[0]))
    except UndefinedError as undefined:
        return _undefined(undefined)
    wrong = tuple(seat for seat, claim in enumerate(case.totals) if claim != right)
    return Verdict(wrong, "wrong_sum", f"term {case.term} is {right}; claimed were {_both(case.totals)}")


def extreme(case: Case, opened: Opened) -> Verdict:
    """Whoever claims the larger extreme has to show an entry that attains it."""
    line, claimed, other = case.line, case.values[case.seat], 1 - case.seat
    if case.witness >= reductions.candidates(line, case.place) or case.witness < -1:
        raise MissingError(f"there is no term {case.witness}")
    try:
        shown = reductions.candidate(line, case.place, case.witness, _reader(opened))
    except UndefinedError as undefined:
        return _undefined(undefined)
    if shown is None or encoded(line.dtype, shown) != encoded(line.dtype, claimed):
        return Verdict((case.seat,), "wrong_element", f"{claimed} is not attained by term {case.witness}")
    return Verdict((other,), "wrong_element", f"term {case.witness} is {shown}; claimed were {_both(case.values)}")


def places(case: Case, opened: Opened) -> Verdict:
    """The entries at both claimed places are compared."""
    ranks = [reductions.place_rank(case.line, case.place, int(v), _reader(opened)) for v in case.values]
    absent = tuple(seat for seat, rank in enumerate(ranks) if rank is None)
    wrong = absent or ((0,) if ranks[0] < ranks[1] else (1,))  # type: ignore[operator]
    return Verdict(wrong, "wrong_element", f"the extreme is not at place {case.values[wrong[0]]}")


VERDICTS: Final[dict[str, Callable[[Case, Opened], Verdict]]] = {
    "element": element,
    "finish": finish,
    "term": term,
    "extreme": extreme,
    "places": places,
}


def _reader(opened: Opened) -> Read:
    def read(operand: Operand, place: int) -> Value:
        return opened.element(operand.number, operand.dtype, size(operand.shape), place)

    return read


def _compared(case: Case, compute: Callable[[Read], Value], opened: Opened) -> Verdict:
    try:
        right = compute(_reader(opened))
    except UndefinedError as undefined:
        return _undefined(undefined)
    data = encoded(case.line.dtype, right)
    wrong = tuple(seat for seat, v in enumerate(case.values) if encoded(case.line.dtype, v) != data)
    return Verdict(wrong, "wrong_element", f"it is {_shown(right)}; claimed were {_both(case.values)}")


def _undefined(error: UndefinedError) -> Verdict:
    """Neither claim can be checked, because an operand that both agree on has no result; so neither is wrong here."""
    return Verdict((), "undefined", str(error))


def _both(values: Sequence[Value]) -> str:
    return " and ".join(_shown(value) for value in values)


def _shown(value: Value) -> str:
    return str(value) if isinstance(value, int | float) else f"{value.numerator}/{value.denominator}"

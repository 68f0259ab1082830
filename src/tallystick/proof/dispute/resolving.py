"""How a round of the dispute game is resolved.

For each phase, one function checks an answer against its party's own claims, and one says what follows from all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tallystick.canon.merkle import climb, leaf_hash, root_of
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute.phases import (
    BOTH,
    Add,
    Begin,
    Bind,
    Commit,
    Compare,
    Disputed,
    Outcome,
    Phase,
    Reveal,
    Search,
    Show,
    Steps,
    Terms,
)
from tallystick.proof.dispute.referee import judging
from tallystick.proof.dispute.referee.numbers import BYTES, UndefinedError, Value, decoded
from tallystick.proof.dispute.referee.openings import (
    CHUNK_BYTES,
    MissingError,
    Opened,
    chunk_count,
    data_root,
    height,
    named_root,
    tensor_leaf,
)
from tallystick.proof.dispute.rules import reductions
from tallystick.proof.dispute.rules.lines import Line, size
from tallystick.proof.dispute.rules.step import CONTRIBUTION, STATE, Step


class Lost(Exception):  # raised where an answer is checked, never beyond `step`
    """A seat's answer shows that it is wrong."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Question:
    """What to ask next about an element, and whom; or who is wrong already."""

    what: str
    seat: int = 0
    wrong: tuple[int, ...] = ()


def question(line: Line, place: int, values: tuple[Value, Value]) -> Question:
    """What decides between two different, canonical values of an element."""
    if line.rule == "order":
        count = reductions.terms(line, place)
        return Question("sum", wrong=tuple(seat for seat, v in enumerate(values) if not 0 <= v < count))
    if line.rule in reductions.SUMS:
        return Question("sum")
    if line.rule in reductions.EXTREMES:
        ranks = [reductions.rank(line, value) for value in values]
        return Question("extreme", seat=0 if ranks[0] > ranks[1] else 1)
    return Question("places" if line.rule in reductions.PLACES else "element")


def possible(line: Line, place: int, seat: int, total: int) -> bool:
    """Whether a seat can claim this sum. How many records come before the one that seat 0 claims is what both count:
    seat 0 says that it is the record of this place, and seat 1 that it is not."""
    if line.rule != "order":
        return True
    rank: int = line.args[3] + place
    return (total == rank) == (seat == 0)


# One function for each phase checks an answer against its party's claims, and one says what follows from all answers.


def _check_claim(terms: Terms, phase: Begin, seat: int, answer: m.Claim) -> bytes:
    if answer.entry.state != terms.roots[seat]:
        raise Lost("contradiction", "the last step does not end in the state root that was reported")
    return m.next_link(answer.link, answer.entry)


def _begin(terms: Terms, phase: Begin, answers: Mapping[int, bytes]) -> Phase:
    return _between(Steps(0, terms.steps, terms.first_link, (answers[0], answers[1])))


def _between(phase: Steps) -> Steps | Reveal:
    return Reveal(phase.low, phase.link, phase.links) if phase.high - phase.low == 1 else phase


def _check_links(terms: Terms, phase: Steps, seat: int, answer: m.Links) -> list[bytes]:
    if len(answer.links) != len(phase.points):
        raise Lost("malformed", f"{len(answer.links)} links where {len(phase.points)} steps were asked for")
    return answer.links


def _steps(terms: Terms, phase: Steps, answers: Mapping[int, list[bytes]]) -> Phase:
    low, link = phase.low, phase.link
    for point, *links in zip(phase.points, answers[0], answers[1], strict=True):
        if links[0] != links[1]:
            return _between(Steps(low, point, link, (links[0], links[1])))
        low, link = point, links[0]
    return _between(Steps(low, phase.high, link, phase.links))


def _check_entries(terms: Terms, phase: Reveal, seat: int, answer: m.Entries) -> m.Entries:
    if m.next_link(phase.link, answer.entry) != phase.links[seat]:
        raise Lost("contradiction", f"the entry of step {phase.number} does not give the link that was claimed")
    if phase.number > 0 and (
        answer.before is None or answer.link is None or m.next_link(answer.link, answer.before) != phase.link
    ):
        raise Lost("contradiction", f"the entry before step {phase.number} does not give the agreed link")
    return answer


def _reveal(terms: Terms, phase: Reveal, answers: Mapping[int, m.Entries]) -> Phase:
    before = answers[0].before
    state = bytes.fromhex(terms.spec["initial_root"]) if phase.number == 0 or before is None else before.state
    step = Step(terms.program, terms.spec, phase.number)
    entries = (answers[0].entry, answers[1].entry)
    disputed = Disputed(step, state)
    if entries[0].loss != entries[1].loss:
        losses = tuple(data_root(entry.loss.to_bytes(8, "little", signed=True)) for entry in entries)
        disputed = replace(disputed, role=CONTRIBUTION, name="loss")
        return Commit(disputed, step.target(CONTRIBUTION, "loss").number, (losses[0], losses[1]))
    if entries[0].total != entries[1].total:
        role, context, roots = CONTRIBUTION, b"", (entries[0].total, entries[1].total)
    else:
        role, context, roots = STATE, (phase.number + 1).to_bytes(8, "big"), (entries[0].state, entries[1].state)
    count = len(step.tensors(role))
    disputed = replace(disputed, role=role)
    return Search(disputed, "tensors", count, height(count), 0, roots, (role, context))


def _check_nodes(terms: Terms, phase: Search, seat: int, answer: m.Nodes) -> list[bytes]:
    _, _, count = phase.children
    if len(answer.nodes) != count:
        raise Lost("malformed", f"{len(answer.nodes)} nodes where {count} were asked for")
    top = root_of(answer.nodes)
    top = named_root(*phase.wrapped, phase.count, top) if phase.wrapped else top
    if top != phase.claims[seat]:
        raise Lost("contradiction", f"the nodes of the tree of {phase.tree} do not give the node that was claimed")
    return answer.nodes


def _search(terms: Terms, phase: Search, answers: Mapping[int, list[bytes]]) -> Phase | Outcome:
    level, first, _ = phase.children
    number = next(i for i, (a, b) in enumerate(zip(answers[0], answers[1], strict=True)) if a != b)
    claims = (answers[0][number], answers[1][number])
    return found(replace(phase, level=level, place=first + number, claims=claims, wrapped=None))


def found(phase: Search) -> Phase | Outcome:
    """Goes on to what the differing leaf stands for."""
    if phase.level > 0 or phase.wrapped:
        return phase
    disputed = phase.disputed
    if phase.tree == "tensors":
        name = disputed.step.tensors(disputed.role)[phase.place][0]
        target = disputed.step.target(disputed.role, name).number
        return Commit(replace(disputed, name=name), target, phase.claims)
    if phase.tree == "chunks":
        return Compare(disputed, phase.place, phase.claims)
    disputed = replace(disputed, number=phase.place, below=phase.place)
    line = disputed.line
    if line.rule == "input":
        return Bind(disputed, phase.claims)
    if line.rule == "unknown":
        return Outcome((), "unknown_operator", f"the referee does not know {line.where}")
    count = chunk_count(size(line.shape) * BYTES[line.dtype])
    if count == 0:
        empty = data_root(b"")
        wrong = tuple(seat for seat in BOTH if phase.claims[seat] != empty)
        return Outcome(wrong, "wrong_element", "an empty tensor has another root")
    return found(Search(disputed, "chunks", count, height(count), 0, phase.claims))


def _check_commit(terms: Terms, phase: Commit, seat: int, answer: m.StepRoot) -> m.StepRoot:
    d = phase.disputed
    target = d.step.target(d.role, d.name)
    leaf = answer.tensor if d.name == "loss" else tensor_leaf(d.name, target.dtype, target.shape, answer.tensor)
    if leaf != phase.leaves[seat]:
        raise Lost("contradiction", f"{d.role} tensor {d.name} is not the one that was claimed")
    if climb(answer.tensor, phase.target, d.step.count, answer.path) != answer.root:
        raise Lost("contradiction", f"{d.role} tensor {d.name} is not line {phase.target} of the step that was claimed")
    return answer


def _commit(terms: Terms, phase: Commit, answers: Mapping[int, m.StepRoot]) -> Phase | Outcome:
    disputed = replace(phase.disputed, roots=(answers[0].root, answers[1].root))
    count = disputed.step.count
    return found(Search(disputed, "lines", count, height(count), 0, disputed.roots))


def _check_bound(terms: Terms, phase: Bind, seat: int, answer: m.Bound) -> bool:
    """Whether seat 0's tensor is under the agreed root; if not, its claim was false."""
    d = phase.disputed
    role, name = d.line.args
    if role == STATE:
        root, context = d.state, d.step.number.to_bytes(8, "big")
    else:
        root, context = bytes.fromhex(terms.spec["train"]["root"]), b""
    names = sorted(line.args[1] for line in d.step.inputs.lines if line.args[0] == role)
    leaf = tensor_leaf(name, d.line.dtype, d.line.shape, phase.claims[seat])
    top = climb(leaf, names.index(name), len(names), answer.path)
    if top is None or named_root(role, context, len(names), top) != root:
        raise Lost("wrong_input", f"{name} is not the tensor under the agreed root")
    return True


def _bind(terms: Terms, phase: Bind, answers: Mapping[int, bool]) -> Outcome:
    return Outcome(
        (1,), "wrong_input", f"seat 1: {phase.disputed.line.args[1]} is not the tensor under the agreed root"
    )


def _check_chunk(terms: Terms, phase: Compare, seat: int, answer: m.Chunk) -> bytes:
    line = phase.disputed.line
    length = min(CHUNK_BYTES, size(line.shape) * BYTES[line.dtype] - phase.chunk * CHUNK_BYTES)
    if len(answer.data) != length or leaf_hash(answer.data) != phase.claims[seat]:
        raise Lost("contradiction", f"the data is not chunk {phase.chunk} that was claimed")
    return answer.data


def _compare(terms: Terms, phase: Compare, answers: Mapping[int, bytes]) -> Phase | Outcome:
    line, width_ = phase.disputed.line, BYTES[phase.disputed.line.dtype]
    at = next(i for i in range(len(answers[0])) if answers[0][i] != answers[1][i]) // width_ * width_
    elements = (answers[0][at : at + width_], answers[1][at : at + width_])
    place = (phase.chunk * CHUNK_BYTES + at) // width_
    wrong = tuple(seat for seat in BOTH if not _canonical(line.dtype, elements[seat]))
    if wrong:
        return Outcome(wrong, "wrong_element", f"element {place} of {line.where or line.rule} is not canonical")
    values = (decoded(line.dtype, elements[0]), decoded(line.dtype, elements[1]))
    asked = question(line, place, values)
    if asked.wrong:
        return Outcome(asked.wrong, "wrong_element", f"element {place} of {line.where or line.rule} cannot be that")
    if asked.what == "sum":
        return Add(phase.disputed, place, elements, 0, reductions.terms(line, place))
    return Show(phase.disputed, place, elements, asked.what, (asked.seat,))


def _canonical(dtype: str, data: bytes) -> bool:
    try:
        decoded(dtype, data)
    except UndefinedError:
        return False
    return True


def _check_totals(terms: Terms, phase: Add, seat: int, answer: m.Totals) -> list[int]:
    if len(answer.totals) != len(phase.ranges):
        raise Lost("malformed", f"{len(answer.totals)} sums where {len(phase.ranges)} were asked for")
    if phase.totals is not None and judging.int64(sum(answer.totals)) != phase.totals[seat]:
        raise Lost("contradiction", "partial sums do not add up to the sum that was claimed")
    if phase.totals is None and not possible(phase.disputed.line, phase.place, seat, answer.totals[0]):
        raise Lost("contradiction", "the sum does not give the element that was claimed")
    return answer.totals


def _add(terms: Terms, phase: Add, answers: Mapping[int, list[int]]) -> Phase | Outcome:
    d = phase.disputed
    different = [i for i, (a, b) in enumerate(zip(answers[0], answers[1], strict=True)) if a != b]
    if not different:
        return Show(d, phase.place, phase.elements, "finish", total=answers[0][0])
    number = different[0]
    first, count = phase.ranges[number]
    totals = (answers[0][number], answers[1][number])
    if count == 0:
        wrong = tuple(seat for seat in BOTH if totals[seat] != 0)
        return Outcome(wrong, "wrong_sum", "the sum of no terms is 0")
    if count == 1:
        return Show(d, phase.place, phase.elements, "term", term=first, totals=totals)
    return Add(d, phase.place, phase.elements, first, count, totals)


def _check_openings(terms: Terms, phase: Show, seat: int, answer: m.Openings) -> judging.Verdict:
    d = phase.disputed
    opened = Opened(d.roots[seat], d.step.count, d.below, answer.openings)
    values: tuple[Value, Value] = (decoded(d.line.dtype, phase.elements[0]), decoded(d.line.dtype, phase.elements[1]))
    case = judging.Case(d.line, phase.place, values, phase.total, phase.term, phase.totals, answer.witness, seat)
    try:
        return judging.VERDICTS[phase.what](case, opened)
    except MissingError as missing:
        raise Lost("wrong_opening", str(missing)) from None


def _show(terms: Terms, phase: Show, answers: Mapping[int, judging.Verdict]) -> Outcome:
    ((_, verdict),) = answers.items()
    line = phase.disputed.line
    where = f"step {phase.disputed.step.number}: {line.where or line.rule}: element {phase.place}"
    return Outcome(verdict.wrong, verdict.code, f"{where}: {verdict.reason}")


CHECKS: Final[dict[type, Callable[..., Any]]] = {
    Begin: _check_claim,
    Steps: _check_links,
    Reveal: _check_entries,
    Search: _check_nodes,
    Commit: _check_commit,
    Bind: _check_bound,
    Compare: _check_chunk,
    Add: _check_totals,
    Show: _check_openings,
}
RULES: Final[dict[type, Callable[..., Phase | Outcome]]] = {
    Begin: _begin,
    Steps: _steps,
    Reveal: _reveal,
    Search: _search,
    Commit: _commit,
    Bind: _bind,
    Compare: _compare,
    Add: _add,
    Show: _show,
}

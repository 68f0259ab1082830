"""A party to a dispute that can run the training again, and answers what the game asks.

Every tensor of the disputed step is computed, hashed and let go of; when single tensors are asked for, the step is
computed again and those are kept. So a party needs no more memory than training.
"""

from typing import Any

from torch import Tensor

from tallystick.canon.merkle import path_to, root_of
from tallystick.program.tensors import tensor_bytes
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute import phases as g
from tallystick.proof.dispute.game import Game
from tallystick.proof.dispute.referee import judging
from tallystick.proof.dispute.referee.numbers import Value, decoded, is_nan
from tallystick.proof.dispute.referee.openings import CHUNK_BYTES, Opening, chunk_leaves, data_root, tensor_leaf, width
from tallystick.proof.dispute.replay import Replay
from tallystick.proof.dispute.rules import maps, reductions
from tallystick.proof.dispute.rules.lines import Line, Operand, Read
from tallystick.proof.dispute.rules.step import STATE, Step
from tallystick.proof.dispute.values import honest, reader, values


class Party:
    """Answers for seat `seat` from a run of its own."""

    def __init__(self, run: Replay, seat: int) -> None:
        self.run, self.seat = run, seat
        self._lines: tuple[int, list[bytes]] | None = None
        """The disputed step's number, and the root over the chunks of each of its lines."""
        self._tensors: tuple[int, dict[int, Tensor]] | None = None

    def answer(self, game: Game) -> m.Answer | None:
        """What this seat says to the game, None if it is not asked."""
        if self.seat not in game.waiting:
            return None
        match game.phase:
            case g.Begin():
                return m.Claim(self.run.links[-2], self.run.entries[-1])
            case g.Steps():
                return self.links(game.phase)
            case g.Reveal():
                return self.entries(game.phase)
            case g.Search():
                return self.nodes(game.phase)
            case g.Commit():
                return self.commit(game.phase)
            case g.Bind():
                return self.bound(game.phase)
            case g.Compare():
                return self.chunk(game.phase)
            case g.Add():
                return self.totals(game.phase)
            case g.Show():
                return self.openings(game.phase)

    def links(self, phase: g.Steps) -> m.Answer:
        return m.Links([self.run.links[point] for point in phase.points])

    def entries(self, phase: g.Reveal) -> m.Answer:
        at = phase.number
        if at == 0:
            return m.Entries(self.run.entries[0], None, None)
        return m.Entries(self.run.entries[at], self.run.entries[at - 1], self.run.links[at - 1])

    def nodes(self, phase: g.Search) -> m.Answer:
        level, first, count = phase.children
        row = self._leaves(phase)
        for _ in range(level):
            row = [root_of(row[i : i + 2]) for i in range(0, len(row), 2)]
        assert len(row) == width(phase.count, level)
        return m.Nodes(row[first : first + count])

    def commit(self, phase: g.Commit) -> m.Answer:
        leaves = self._roots(phase.disputed.step)
        return m.StepRoot(root_of(leaves), leaves[phase.target], path_to(leaves, phase.target))

    def bound(self, phase: g.Bind) -> m.Answer:
        step, (role, name) = phase.disputed.step, phase.disputed.line.args
        tensors = self.run.state_at(step.number) if role == STATE else self.run.training.records
        lines = sorted((line.args[1], line) for line in step.inputs.lines if line.args[0] == role)
        leaves = [_leaf(name, line, tensors[name]) for name, line in lines]
        return m.Bound(path_to(leaves, [name for name, _ in lines].index(name)))

    def chunk(self, phase: g.Compare) -> m.Answer:
        data = tensor_bytes(self._fetched(phase.disputed, [phase.disputed.number])[phase.disputed.number])
        return m.Chunk(bytes(data[phase.chunk * CHUNK_BYTES : (phase.chunk + 1) * CHUNK_BYTES]))

    def totals(self, phase: g.Add) -> m.Answer:
        line, read = phase.disputed.line, self._reader(phase.disputed)
        claimed = decoded(line.dtype, phase.elements[0])
        totals = (
            sum(reductions.term(line, phase.place, k, read, claimed) for k in range(first, first + count))
            for first, count in phase.ranges
        )
        return m.Totals([judging.int64(total) for total in totals])

    def openings(self, phase: g.Show) -> m.Answer:
        """Whatever the referee will read, found by letting the referee's rules read it from the tensors."""
        disputed, line, place = phase.disputed, phase.disputed.line, phase.place
        wanted: dict[tuple[int, int], None] = {}
        of_tensors = self._reader(disputed)

        def read(operand: Operand, at: int) -> Value:
            value = of_tensors(operand, at)
            wanted[operand.number, at * _bytes(operand.dtype) // CHUNK_BYTES] = None
            return value

        witness = -1
        claims = [decoded(line.dtype, data) for data in phase.elements]
        match phase.what:
            case "element":
                maps.element(line, place, read)
            case "finish":
                reductions.finished(line, place, phase.total, read)
            case "term":
                reductions.term(line, place, phase.term, read, claims[0])
            case "places":
                for claim in claims:
                    reductions.place_rank(line, place, int(claim), read)
            case "extreme":
                witness = _witness(line, place, claims[self.seat], of_tensors)
                reductions.candidate(line, place, witness, read)
        return m.Openings([self._opening(disputed, number, chunk) for number, chunk in wanted], witness)

    def _leaves(self, phase: g.Search) -> list[bytes]:
        disputed = phase.disputed
        if phase.tree == "lines":
            return self._roots(disputed.step)
        if phase.tree == "chunks":
            return chunk_leaves(tensor_bytes(self._fetched(disputed, [disputed.number])[disputed.number]))
        roots = self._roots(disputed.step)
        return [
            tensor_leaf(name, dtype, shape, roots[disputed.step.target(disputed.role, name).number])
            for name, dtype, shape in disputed.step.tensors(disputed.role)
        ]

    def _roots(self, step: Step) -> list[bytes]:
        if self._lines is None or self._lines[0] != step.number:
            self._lines = step.number, [data_root(tensor_bytes(tensor)) for _, tensor in self._values(step)]
        return self._lines[1]

    def _values(self, step: Step) -> Any:
        state = self.run.state_at(step.number)
        return values(step, self.run.training, state, self.run.lies.get(step.number, honest))

    def _fetched(self, disputed: g.Disputed, numbers: list[int]) -> dict[int, Tensor]:
        """Tensors of lines, from running the step again if they are not the ones that were fetched last."""
        key = disputed.step.number
        if self._tensors is None or self._tensors[0] != key or any(n not in self._tensors[1] for n in numbers):
            wanted = {*numbers, disputed.number, *operands(disputed.line)}
            self._tensors = key, {n: tensor for n, tensor in self._values(disputed.step) if n in wanted}
        return self._tensors[1]

    def _reader(self, disputed: g.Disputed) -> Read:
        return reader(self._fetched(disputed, operands(disputed.line)))

    def _opening(self, disputed: g.Disputed, number: int, chunk: int) -> Opening:
        data = tensor_bytes(self._fetched(disputed, [number])[number])
        leaves = chunk_leaves(data)
        part = bytes(data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES])
        return Opening(number, path_to(self._roots(disputed.step), number), chunk, part, path_to(leaves, chunk))


def operands(line: Line) -> list[int]:
    """The lines that a line reads."""
    found: list[int] = []
    for arg in line.args:
        found += [atom.number for atom in (arg if isinstance(arg, list) else [arg]) if isinstance(atom, Operand)]
    if "batches" in line.args[:2]:
        first, stride, count = line.args[-3:]
        return [first.number + k * stride for k in range(count)]
    return found


def _witness(line: Line, place: int, claimed: Value, read: Read) -> int:
    """The first term that attains the claim; -1 if none does, which is what a liar is left with."""
    for k in range(reductions.candidates(line, place)):
        value = reductions.candidate(line, place, k, read)
        if value is not None and (value == claimed or (is_nan(value) and is_nan(claimed))):
            return k
    return -1


def _bytes(dtype: str) -> int:
    return {"float32": 4, "int64": 8, "int32": 4}.get(dtype, 1)


def _leaf(name: str, line: Line, tensor: Tensor) -> bytes:
    return tensor_leaf(name, line.dtype, line.shape, data_root(tensor_bytes(tensor)))

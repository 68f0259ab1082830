"""A training run that can be entered at any step: what a party to a dispute has to have.

The run is computed once, with a state kept every so many steps; a state between them is computed again from the nearest
one before it.
"""

import functools
import math
from collections.abc import Mapping
from copy import copy

from tallystick.program.optimizers import Tensors
from tallystick.program.training import LOSS, Training, train_step
from tallystick.proof.dispute.messages import Entry, first_link, next_link
from tallystick.proof.dispute.rules.lines import Json
from tallystick.proof.dispute.rules.step import CONTRIBUTION, STATE, Step
from tallystick.proof.dispute.values import Tamper, after, values
from tallystick.proof.roots import contribution_root, state_root


class Replay:
    """Steps 0 .. steps - 1 of a run from `initial`. `lies` says what this party does to the lines of some steps."""

    def __init__(
        self,
        training: Training,
        program: Json,
        spec: Json,
        spec_name: bytes,
        initial: Tensors,
        steps: int,
        lies: Mapping[int, Tamper] | None = None,
    ) -> None:
        self.training, self.program, self.spec, self.steps = training, program, spec, steps
        self.lies = dict(lies or {})
        self.entries: list[Entry] = []
        self.links = [first_link(spec_name, bytes.fromhex(spec["initial_root"]))]
        self._every = max(1, math.isqrt(steps))
        self._kept = {0: initial}
        self._run(0)

    def departing(self, lies: Mapping[int, Tamper]) -> "Replay":
        """The same run up to where it lies, so that only what follows is computed again."""
        other = copy(self)
        first = min(lies)
        other.lies = dict(lies)
        other.entries, other.links = self.entries[:first], self.links[: first + 1]
        other._kept = {step: state for step, state in self._kept.items() if step <= first}
        other._run(first)
        return other

    def _run(self, first: int) -> None:
        state = self.state_at(first)
        for step in range(first, self.steps):
            state, total = self._advance(state, step)
            loss = int(total[LOSS])
            entry = Entry(bytes.fromhex(state_root(state, step + 1)), bytes.fromhex(contribution_root(total)), loss)
            self.entries.append(entry)
            self.links.append(next_link(self.links[-1], entry))
            if (step + 1) % self._every == 0:
                self._kept[step + 1] = state

    def state_at(self, step: int) -> Tensors:
        """The state before `step`."""
        start = step // self._every * self._every
        state = self._kept[start]
        for number in range(start, step):
            state, _ = self._advance(state, number)
        return state

    @functools.lru_cache(maxsize=1)  # noqa: B019  # as long-lived as the run
    def step(self, number: int) -> Step:
        return Step(self.program, self.spec, number)

    def _advance(self, state: Tensors, step: int) -> tuple[Tensors, Tensors]:
        if step not in self.lies:
            return train_step(self.training, state, step)
        lines = self.step(step)
        wanted = {lines.target(role, name).number for role in (STATE, CONTRIBUTION) for name, *_ in lines.tensors(role)}
        held = {n: tensor for n, tensor in values(lines, self.training, state, self.lies[step]) if n in wanted}
        return after(lines, held, STATE), after(lines, held, CONTRIBUTION)

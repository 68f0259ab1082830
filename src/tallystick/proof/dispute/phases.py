"""What a game can be at: the claims so far, whom it asks, and for what. See `game` for how one follows from another."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from tallystick.canon.hashing import digest
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute.referee.openings import width
from tallystick.proof.dispute.rules.lines import Json, Line
from tallystick.proof.dispute.rules.step import Step

BOTH: Final = (0, 1)
LEVELS: Final = 4
"""How far down a tree one answer goes; 2**LEVELS is messages.FANOUT."""
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Terms:
    """What both parties have agreed to before the first round, and what they claim."""

    program: Json
    spec: Json
    spec_name: bytes
    steps: int
    roots: tuple[bytes, bytes]
    """The state root after the last step, as each seat has reported it."""
    identities: tuple[str, str]
    seconds: int
    """How long a round may last."""

    @property
    def name(self) -> bytes:
        """The game's name, which every move carries."""
        seats = b"".join(bytes.fromhex(identity) for identity in self.identities)
        numbers = b"".join(n.to_bytes(8, "big") for n in (self.steps, self.seconds))
        return digest("tallystick/dispute/game", self.spec_name, *self.roots, seats, numbers)

    @property
    def first_link(self) -> bytes:
        return m.first_link(self.spec_name, bytes.fromhex(self.spec["initial_root"]))


@dataclass(frozen=True)
class Outcome:
    """How a game ended."""

    losers: tuple[int, ...]
    """Empty if the game says nothing about either party."""
    code: str
    reason: str


@dataclass(frozen=True)
class Begin:
    """Each seat names the links of its run, by the last one; it has to hold the state root that the seat reported."""

    asked = BOTH
    expects = m.Claim


@dataclass(frozen=True)
class Steps:
    """The links after step `low` are the same, those after `high` are not."""

    low: int
    high: int
    link: bytes
    links: Pair
    asked = BOTH
    expects = m.Links

    @property
    def points(self) -> list[int]:
        span = self.high - self.low
        return sorted({self.low + span * i // m.FANOUT for i in range(1, m.FANOUT)} - {self.low})


@dataclass(frozen=True)
class Reveal:
    """`link` stands for the steps before `number`, which is the first that differs."""

    number: int
    link: bytes
    links: Pair
    asked = BOTH
    expects = m.Entries


@dataclass(frozen=True)
class Disputed:
    """The step in dispute: the state root before it is agreed."""

    step: Step
    state: bytes
    role: str = ""
    name: str = ""
    """The tensor that differs after the step."""
    roots: Pair = (b"", b"")
    """Each seat's root over the lines of the step; their trees are the same as far as `below`."""
    below: int = 0
    number: int = 0
    """The line that differs first; `below` is the same once it is known."""

    @property
    def line(self) -> Line:
        return self.step.line(self.number)


@dataclass(frozen=True)
class Search:
    """Two nodes at the same place of two trees differ; which of the leaves under them is the first that does?"""

    disputed: Disputed
    tree: str
    """tensors, lines or chunks."""
    count: int
    level: int
    place: int
    claims: Pair
    wrapped: tuple[str, bytes] | None = None
    """Role and context, if the claims are of the whole tree under such a root."""
    asked = BOTH
    expects = m.Nodes

    @property
    def children(self) -> tuple[int, int, int]:
        """Level, first place and number of the nodes that are asked for."""
        level = max(0, self.level - LEVELS)
        first = self.place << (self.level - level)
        return level, first, min((self.place + 1) << (self.level - level), width(self.count, level)) - first


@dataclass(frozen=True)
class Commit:
    """The tensor after the step differs: `leaves` are what each seat claims of it."""

    disputed: Disputed
    target: int
    leaves: Pair
    asked = BOTH
    expects = m.StepRoot


@dataclass(frozen=True)
class Compare:
    """One chunk of the disputed line differs."""

    disputed: Disputed
    chunk: int
    claims: Pair
    asked = BOTH
    expects = m.Chunk


@dataclass(frozen=True)
class Bind:
    """The disputed line is an input: seat 0 has to show that its tensor is the one under the agreed root."""

    disputed: Disputed
    claims: Pair
    asked = (0,)
    expects = m.Bound


@dataclass(frozen=True)
class Add:
    """Element `place` is a sum. `totals` are the claims for terms `first` and following, None before there are any."""

    disputed: Disputed
    place: int
    elements: Pair
    first: int
    count: int
    totals: Pair | None = None
    asked = BOTH
    expects = m.Totals

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First and number of the terms of each part that is asked for."""
        if self.totals is None:
            return [(self.first, self.count)]
        cuts = sorted({self.first + self.count * i // m.PARTS for i in range(m.PARTS + 1)})
        return [(a, b - a) for a, b in pairwise(cuts)]


@dataclass(frozen=True)
class Show:
    """Only the referee's computation is missing, for which one seat opens the operands."""

    disputed: Disputed
    place: int
    elements: Pair
    """The claims, as bytes."""
    what: str
    """element, finish, term, extreme or places."""
    asked: tuple[int, ...] = (0,)
    total: int = 0
    """What both claim the sum to be."""
    term: int = 0
    totals: Pair = (0, 0)
    """What each claims the term to be."""
    expects = m.Openings


Phase = Begin | Steps | Reveal | Search | Commit | Compare | Bind | Add | Show

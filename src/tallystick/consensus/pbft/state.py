"""The state that the parts of the engine share: what a replica knows, has said, and is about to do.

The parts are neighbors over this state: `normal` (three-phase agreement), `catchup` (blocks from peers), `forwarding`
(transactions), and each changes it only in a step of `Replica`. Everything here except `votes` and `head` may be lost
in a crash without harm; those two are restored from `Durable`.
"""

from collections import Counter
from dataclasses import dataclass, field

from tallystick.canon.identity import Key
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import Deliver, Durable, Effect, Phase
from tallystick.consensus.pbft.limits import HEIGHT_MARGIN, MAX_EVIDENCE
from tallystick.consensus.pbft.messages import Block
from tallystick.consensus.pbft.pool import Pool
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused


@dataclass(frozen=True)
class Head:
    """The last delivered block."""

    height: int
    digest: bytes
    time_ms: int


@dataclass(frozen=True)
class Ballot:
    """A vote as it came: what it names, and the sealed bytes that prove it."""

    digest: bytes
    sealed: bytes


@dataclass(frozen=True)
class Accepted:
    """The one proposal that this replica stands behind in an instance."""

    digest: bytes
    encoded: bytes
    block: Block


@dataclass
class Instance:
    """Agreement on one height in one view."""

    view: int
    height: int
    pre_prepare: Ballot | None = None
    encoded: bytes = b""
    """The block that came with `pre_prepare`, its digest checked and nothing else."""
    accepted: Accepted | None = None
    prepares: dict[str, Ballot] = field(default_factory=dict)
    """By sender; backups only, for the primary's pre-prepare stands for its prepare."""
    commits: dict[str, Ballot] = field(default_factory=dict)
    said: dict[Phase, bytes] = field(default_factory=dict)
    """Our own messages as they were broadcast, for sending again."""


@dataclass(frozen=True)
class Evidence:
    """Two sealed votes of one validator that exclude each other: proof that it is faulty, for anybody."""

    sender: str
    first: bytes
    second: bytes


@dataclass(frozen=True)
class Outstanding:
    """The request for blocks that is under way."""

    peer: str
    first: int
    last: int
    until_ms: int


@dataclass
class State:
    group: Group
    key: Key
    head: Head
    executed: int
    deadline_ms: int | None
    view: int = 0
    votes: dict[tuple[int, int, Phase], bytes] = field(default_factory=dict)
    """Digest of every vote given above the head, by (view, height, phase)."""
    instances: dict[int, Instance] = field(default_factory=dict)
    pool: Pool = field(default_factory=Pool)
    outbox: list[bytes] = field(default_factory=list)
    """Transactions to forward at the next tick."""
    peers: dict[str, int] = field(default_factory=dict)
    """The height that each peer claims to have delivered. A claim only: nothing but certificates is believed."""
    fetch: Outstanding | None = None
    last_asked: str = ""
    answers: Counter[str] = field(default_factory=Counter)
    """Answers given to each peer since the last tick."""
    now_ms: int = 0
    elapsed_ms: int = 0
    progress_ms: int = 0
    """When, in elapsed time, we last voted or delivered."""
    retransmitted_ms: int = 0
    """When we last sent our messages again."""
    status_ms: int = 0
    """When our status is next due."""
    recheck_ms: int = 0
    """When waiting transactions are next looked at."""
    rejections: Counter[str] = field(default_factory=Counter)
    evidence: list[Evidence] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    """What this step asks for, in order."""

    @property
    def me(self) -> str:
        return self.key.identity

    @property
    def primary(self) -> str:
        return self.group.primary(self.view)

    def instance(self, height: int) -> Instance:
        """The instance for `height` in the current view."""
        assert 0 < height - self.head.height <= HEIGHT_MARGIN, f"no instance at {height}, head {self.head.height}"
        return self.instances.setdefault(height, Instance(self.view, height))

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def accuse(self, sender: str, first: bytes, second: bytes) -> Refused:
        """Keeps two conflicting votes and returns the refusal to raise."""
        if len(self.evidence) < MAX_EVIDENCE:
            self.evidence.append(Evidence(sender, first, second))
        return Refused("conflicting_vote", f"{sender[:12]} voted twice, differently, for one view and height")


def start(group: Group, key: Key, durable: Durable) -> State:
    head = Head(durable.height, durable.digest if durable.height else group.genesis, durable.time_ms)
    return State(group, key, head, executed=durable.height, deadline_ms=durable.deadline_ms)


def deliver(state: State, block: Block, encoded: bytes, digest: bytes, certificate: bytes) -> None:
    """Makes a certified block the new head. The one way to a higher head, by agreement or by catching up."""
    assert block.height == state.head.height + 1, f"deliver {block.height} on head {state.head.height}"
    assert block.parent == state.head.digest, f"block {block.height} does not extend the head"
    transactions = tuple(block.transactions)
    committed = CommittedBlock(block.height, block.time_ms, digest, transactions, certificate)
    state.do(Deliver(committed, encoded))
    state.head = Head(block.height, digest, block.time_ms)
    state.instances = {h: instance for h, instance in state.instances.items() if h > block.height}
    state.votes = {slot: name for slot, name in state.votes.items() if slot[1] > block.height}
    state.pool.committed(transactions)
    state.progress_ms = state.elapsed_ms

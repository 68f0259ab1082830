"""A seeded simulator: real replicas on a simulated network, disk and clock; one seed reproduces one run.

It checks, at every step of every run:

- **Agreement**: no two replicas deliver different blocks at one height, and heights come in order.
- **Persist before send**: every vote that leaves a node is on its disk.
- **One vote**: no node ever sends two different votes for one view, height and phase, across any crash.
- **Certificates**: what is delivered convinces a stranger.
- **Exactly once**: no transaction is in two blocks.

A run has two phases. Under chaos frames are lost, doubled and reordered and nodes die between any two effects; after
`heal` nothing fails any more, and everything submitted must be executed everywhere within a bounded virtual time.
"""

import heapq
import itertools
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tallystick.canon.identity import Key
from tallystick.consensus.pbft.certificate import verify_certificate
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    BlocksRead,
    Broadcast,
    Deliver,
    Durable,
    Effect,
    Event,
    Examine,
    Examined,
    Executed,
    Persist,
    Phase,
    ReadBlocks,
    Received,
    Send,
    Submitted,
    Tick,
    VoteRecord,
)
from tallystick.consensus.pbft.messages import (
    Commit,
    OnChannel,
    Prepare,
    PrePrepare,
    Proposal,
    Vote,
    decode_block,
    open_message,
    open_vote,
)
from tallystick.consensus.pbft.replica import Replica

TICK_MS = 20
CLIENT_RETRY_MS = 700
"""A client submits again until it sees its transaction executed: a node that dies forgets what waits."""
EPOCH_MS = 1_700_000_000_000
PHASES = {PrePrepare: Phase.PRE_PREPARE, Prepare: Phase.PREPARE, Commit: Phase.COMMIT}


@dataclass
class Chaos:
    """How bad the network and the machines are."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_ms: tuple[int, int] = (1, 5)
    crash: float = 0.0
    """Chance that a node dies at any one of its effects."""
    down_ms: tuple[int, int] = (50, 1500)


@dataclass
class Disk:
    """What survives a crash."""

    votes: list[VoteRecord] = field(default_factory=list)
    blocks: list[tuple[bytes, bytes]] = field(default_factory=list)


class Crash(Exception):
    """The node dies here."""


@dataclass
class Node:
    key: Key
    disk: Disk = field(default_factory=Disk)
    replica: Replica | None = None
    """None while the node is down."""
    skew_ms: int = 0
    reach: frozenset[int] | None = None
    """Indices of the nodes that this one talks with; None is all."""

    def executed(self) -> list[bytes]:
        return [tx for encoded, _ in self.disk.blocks for tx in decode_block(encoded).transactions]


class Simulation:
    """A group of `n` nodes. With `twin`, the first primary exists twice: two honest programs under one identity, which
    together do what a faulty one would (equivocate, vote twice, forget)."""

    def __init__(self, n: int, seed: int, chaos: Chaos, *, twin: bool = False) -> None:
        self.random = Random(seed)
        self.chaos = chaos
        keys = [Key.from_seed(bytes([i]) * 32) for i in range(n)]
        self.group = Group("simulated", tuple(key.identity for key in keys))
        self.nodes = [Node(key, skew_ms=self.random.randint(-2000, 2000)) for key in keys]
        self.faulty: set[str] = set()
        if twin:
            self._add_twin(n)
        self.now = 0
        self.chain: dict[int, bytes] = {}
        self.sent: dict[tuple[str, int, int, Phase], bytes] = {}
        self.submitted: list[bytes] = []
        self.crashes = 0
        self._heap: list[tuple[int, int, int, Any]] = []
        self._order = itertools.count()
        for i in range(len(self.nodes)):
            self._start(i)

    def _add_twin(self, n: int) -> None:
        self.faulty.add(self.nodes[0].key.identity)
        self.nodes.append(Node(self.nodes[0].key, skew_ms=self.random.randint(-2000, 2000)))
        side = set(self.random.sample(range(1, n), self.random.randint(1, n - 2)))
        both = set(self.random.sample(range(1, n), self.random.randint(0, 1)))
        self.nodes[0].reach = frozenset(side | both)
        self.nodes[n].reach = frozenset((set(range(1, n)) - side) | both)

    # ---- what tests do

    def submit(self, index: int, transaction: bytes) -> None:
        self.submitted.append(transaction)
        self._at(self.now, index, ("submit", transaction))

    def run(self, until_ms: int) -> None:
        while self._heap and self._heap[0][0] <= until_ms:
            self.now, _, index, what = heapq.heappop(self._heap)
            self._happen(index, what)
        self.now = until_ms

    def heal(self) -> None:
        self.chaos = Chaos()
        for i, node in enumerate(self.nodes):
            if node.replica is None:
                self._start(i)

    def run_until_settled(self, limit_ms: int) -> None:
        """Runs until every node has executed everything that was submitted."""
        end = self.now + limit_ms
        while self.missing() and self.now < end:
            self.run(self.now + 5 * TICK_MS)
        assert not self.missing(), f"after {limit_ms} ms without faults: {self.missing()}"

    def missing(self) -> dict[int, int]:
        """How many submitted transactions each node has not executed, where there are any."""
        counts = {i: len(set(self.submitted) - set(node.executed())) for i, node in enumerate(self.nodes)}
        return {i: count for i, count in counts.items() if count}

    # ---- events

    def _at(self, time: int, index: int, what: Any) -> None:
        heapq.heappush(self._heap, (time, next(self._order), index, what))

    def _happen(self, index: int, what: Any) -> None:
        node = self.nodes[index]
        kind, *rest = what
        if kind == "start":
            if node.replica is None:
                self._start(index)
            return
        if kind == "tick":
            if rest[0] is not node.replica:
                return  # of a life that has ended
            self._at(self.now + TICK_MS, index, what)
        if kind == "submit":
            if rest[0] in node.executed():
                return
            self._at(self.now + CLIENT_RETRY_MS, index, what)
        if node.replica is None:
            return
        try:
            if kind == "frame":
                self._step(index, Received(*rest))
            elif kind == "submit":
                self._step(index, Submitted(rest[0]))
            self._step(index, Tick(EPOCH_MS + self.now + node.skew_ms, self.now))
        except Crash:
            self._crash(index)

    def _start(self, index: int) -> None:
        node = self.nodes[index]
        node.replica = Replica(self.group, node.key, self._durable(node))
        self._at(self.now, index, ("tick", node.replica))

    def _durable(self, node: Node) -> Durable:
        votes = tuple(vote for vote in node.disk.votes if vote.height > len(node.disk.blocks))
        if not node.disk.blocks:
            return Durable(votes=votes)
        encoded = node.disk.blocks[-1][0]
        block = decode_block(encoded)
        return Durable(block.height, self.group.block_digest(encoded), block.time_ms, None, votes)

    def _crash(self, index: int) -> None:
        self.crashes += 1
        self.nodes[index].replica = None
        self._at(self.now + self.random.randint(*self.chaos.down_ms), index, ("start",))

    def _step(self, index: int, event: Event) -> None:
        replica = self.nodes[index].replica
        assert replica is not None
        answers: list[Event] = []
        delivered = False
        for effect in replica.step(event):
            if self.random.random() < self.chaos.crash:
                raise Crash
            answers += self._carry_out(index, effect)
            delivered = delivered or isinstance(effect, Deliver)
        if delivered:
            answers.insert(0, Executed(replica.height, None))
        for answer in answers:
            self._step(index, answer)

    # ---- effects

    def _carry_out(self, index: int, effect: Effect) -> list[Event]:
        node = self.nodes[index]
        match effect:
            case Persist(record):
                node.disk.votes.append(record)
            case Broadcast(frame):
                self._watch(node, frame)
                for other in range(len(self.nodes)):
                    self._transmit(index, other, frame)
            case Send(peer, frame):
                self._watch(node, frame)
                for other in range(len(self.nodes)):
                    if self.nodes[other].key.identity == peer:
                        self._transmit(index, other, frame)
            case Deliver():
                self._deliver(node, effect)
            case Examine():
                done = set(node.executed())
                accepted = tuple(t for t in effect.transactions if t not in done)
                refused = tuple((t, "stale") for t in effect.transactions if t in done)
                return [Examined(accepted, refused, effect.again)]
            case ReadBlocks():
                return [BlocksRead(effect.peer, tuple(node.disk.blocks[effect.first - 1 : effect.last]))]
        return []

    def _deliver(self, node: Node, effect: Deliver) -> None:
        block = effect.block
        assert block.height == len(node.disk.blocks) + 1, "heights come in order, once"
        if node.key.identity not in self.faulty:
            assert self.chain.setdefault(block.height, block.digest) == block.digest, f"fork at {block.height}"
        verify_certificate(self.group, effect.encoded, block.certificate)
        assert not set(block.transactions) & set(node.executed()), "a transaction is in two blocks"
        node.disk.blocks.append((effect.encoded, block.certificate))

    def _transmit(self, index: int, other: int, frame: bytes) -> None:
        source, target = self.nodes[index], self.nodes[other]
        if source.key.identity == target.key.identity:
            return
        if not (_reaches(source, other) and _reaches(target, index)) or self.random.random() < self.chaos.loss:
            return
        for _ in range(2 if self.random.random() < self.chaos.duplication else 1):
            delay = self.random.randint(*self.chaos.delay_ms)
            self._at(self.now + delay, other, ("frame", source.key.identity, frame))

    def _watch(self, source: Node, frame: bytes) -> None:
        """Sees every frame that leaves a node and checks the votes in it."""
        sender, message = open_message(self.group, frame)
        vote = _vote_in(self.group, message)
        if vote is None or sender in self.faulty:
            return
        phase = PHASES[type(vote)]
        slot = (sender, vote.view, vote.height, phase)
        assert self.sent.setdefault(slot, vote.digest) == vote.digest, f"{slot} voted twice"
        record = (vote.view, vote.height, phase, vote.digest)
        stored = {(r.view, r.height, r.phase, r.digest) for r in source.disk.votes[-8:]}
        assert record in stored, f"{slot} left before it was on disk"


def _reaches(node: Node, other: int) -> bool:
    return node.reach is None or other in node.reach


def _vote_in(group: Group, message: OnChannel) -> Vote | None:
    if isinstance(message, Proposal):
        return open_vote(group, message.pre_prepare)[1]
    return message if isinstance(message, Prepare | Commit) else None

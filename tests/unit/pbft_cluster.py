"""Keys, hand-made messages, and clusters of real replicas over an instant network, for tests of the PBFT core.

Nothing moves by itself: a test hands in events, frames go out in order when it says `settle`, and time passes when it
says so. What a node saved is a fold over its effects, so a test can cut its life after any of them and start again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from tallystick.canon.chunks import chunk, manifest_of, root_of
from tallystick.canon.encoding import to_bytes
from tallystick.canon.identity import Key
from tallystick.canon.votes import Checkpoint, Commit, Message, Prepare, PrePrepare, seal_vote
from tallystick.consensus.pbft import Group, Parameters, Replica
from tallystick.consensus.pbft.certificate import encode_checkpoint, height_of, make_certificate
from tallystick.consensus.pbft.io import (
    BlocksRead,
    BodyRead,
    Broadcast,
    Certified,
    CheckpointRecord,
    ChunkRead,
    ContentRecord,
    Deliver,
    Durable,
    Effect,
    EpochRecord,
    Event,
    Examine,
    Examined,
    Executed,
    Halt,
    Head,
    MuteRecord,
    Outcome,
    Persist,
    Phase,
    ReadBlocks,
    ReadBody,
    ReadChunk,
    Received,
    Record,
    Relay,
    Restore,
    Restored,
    SaveChunk,
    Send,
    StartTransfer,
    Submitted,
    Tick,
    Transfer,
    Verified,
    Verify,
    ViewRecord,
    VoteRecord,
)
from tallystick.consensus.pbft.messages import (
    Block,
    CheckpointContent,
    Claim,
    NewView,
    OnChannel,
    Proposal,
    ViewChange,
    encode_block,
    open_message,
    seal_message,
)

M = TypeVar("M")
R = TypeVar("R")

NOW_MS = 1_700_000_000_000
KEYS = [Key.from_seed(bytes([i]) * 32) for i in range(13)]
STRANGER = Key.from_seed(b"s" * 32)
SMALL = Parameters(interval=4, epoch_length=12, window=3)
"""Checkpoints and epochs come quickly."""


def group_of(n: int, chain: str = "test", epoch: int = 0, parameters: Parameters = SMALL) -> Group:
    return Group(chain, identities(range(n)), epoch, parameters=parameters)


def identities(indices: Iterable[int]) -> tuple[str, ...]:
    return tuple(KEYS[i].identity for i in indices)


def index_of(identity: str) -> int:
    return [key.identity for key in KEYS].index(identity)


FOUR = group_of(4)


# ---- messages made by hand


def block_at(height: int = 1, *transactions: bytes, by: int = 0, time_ms: int = NOW_MS) -> bytes:
    """An encoded block by validator `by`."""
    return encode_block(Block(height, time_ms, KEYS[by].identity, list(transactions or (b"transaction",))))


def proposal(group: Group, by: int, block: bytes, *, view: int = 0, height: int = 1, digest: bytes = b"") -> bytes:
    vote = PrePrepare(group.epoch, view, height, digest or group.block_digest(block))
    return seal_message(KEYS[by], group, Proposal(group.epoch, seal_message(KEYS[by], group, vote), block))


def prepare(group: Group, by: int, digest: bytes, *, view: int = 0, height: int = 1) -> bytes:
    return seal_message(KEYS[by], group, Prepare(group.epoch, view, height, digest))


def commit(group: Group, by: int, digest: bytes, *, view: int = 0, height: int = 1) -> bytes:
    return seal_message(KEYS[by], group, Commit(group.epoch, view, height, digest))


def certify(group: Group, block: bytes, by: Sequence[int], *, view: int = 0, height: int = 1) -> bytes:
    return make_certificate(commit(group, i, group.block_digest(block), view=view, height=height) for i in by)


def prepared_claim(group: Group, digest: bytes, by: Sequence[int], *, view: int = 0, height: int = 1) -> Claim:
    """`by` starts with the view's primary."""
    first = seal_message(KEYS[by[0]], group, PrePrepare(group.epoch, view, height, digest))
    rest = [prepare(group, i, digest, view=view, height=height) for i in by[1:]]
    return Claim(height, view, digest, [first, *rest])


def committed_claim(group: Group, digest: bytes, by: Sequence[int], *, view: int = 0, height: int = 1) -> Claim:
    return Claim(height, view, digest, [commit(group, i, digest, view=view, height=height) for i in by])


def view_change(
    group: Group, by: int, view: int, *claims: Claim, base: int | None = None, checkpoint: bytes = b""
) -> bytes:
    base = group.start if base is None else base
    return seal_message(KEYS[by], group, ViewChange(group.epoch, view, base, checkpoint, list(claims)))


def new_view(group: Group, by: int, view: int, view_changes: Sequence[bytes], digests: Sequence[bytes] = ()) -> bytes:
    """`digests` are those that it proposes after the start of the epoch."""
    votes = [
        seal_message(KEYS[by], group, PrePrepare(group.epoch, view, height, digest))
        for height, digest in enumerate(digests, group.start + 1)
    ]
    return seal_message(KEYS[by], group, NewView(group.epoch, view, list(view_changes), votes))


def content_of(group: Group, height: int, *, validators: Sequence[int] | None = None, data: bytes = b"") -> bytes:
    """The encoded content of a checkpoint of `group`; its snapshot is `data`."""
    named = group.validators if validators is None else identities(validators)
    root = root_of(manifest_of(data))
    head = bytes([height % 256]) * 32
    content = CheckpointContent(group.epoch, group.start, group.since, height, head, NOW_MS, root, list(named))
    return to_bytes(content)


def stable_proof(group: Group, content: bytes, by: Sequence[int]) -> bytes:
    height = msgspec.msgpack.decode(content, type=CheckpointContent).height
    vote = Checkpoint(group.epoch, height, group.checkpoint_digest(content))
    return encode_checkpoint(content, [seal_vote(KEYS[i], group.chain, vote) for i in by])


# ---- one node


@dataclass
class App:
    """Remembers what it executed. `b"validators 0 1 2"` names who shall agree after the next checkpoint."""

    validators: tuple[str, ...]
    executed: list[bytes] = field(default_factory=list)

    def execute(self, transactions: Sequence[bytes]) -> None:
        for transaction in transactions:
            if transaction not in self.executed:
                self.executed.append(transaction)
                if transaction.startswith(b"validators "):
                    self.validators = identities(int(word) for word in transaction.split()[1:])

    def snapshot(self) -> bytes:
        return to_bytes([self.executed, self.validators])

    def restore(self, snapshot: bytes) -> None:
        self.executed, validators = msgspec.msgpack.decode(snapshot)
        self.validators = tuple(validators)


@dataclass
class Disk:
    """What a shell that keeps the contract of `io` has stored after some effects."""

    genesis: Group
    app: App
    head: Head | None = None
    blocks: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    snapshots: dict[int, bytes] = field(default_factory=dict)
    votes: dict[tuple[int, int, int, Phase], VoteRecord] = field(default_factory=dict)
    contents: dict[int, ContentRecord] = field(default_factory=dict)
    epochs: list[EpochRecord] = field(default_factory=list)
    view: ViewRecord | None = None
    stable: CheckpointRecord | None = None
    history: tuple[bytes, ...] = ()
    mute: MuteRecord | None = None
    transfer: StartTransfer | None = None
    chunks: dict[int, bytes] = field(default_factory=dict)

    def apply(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self.save(effect.record)
            case Deliver():
                block = effect.block
                assert block.height == (self.head.height if self.head else 0) + 1
                self.head = Head(block.height, block.digest, block.time_ms)
                self.blocks[block.height] = (effect.encoded, block.certificate)
                self.app.execute(block.transactions)
                if effect.checkpoint:
                    self.snapshots[block.height] = self.app.snapshot()
            case StartTransfer():
                self.transfer, self.chunks = effect, {}
            case SaveChunk():
                self.chunks[effect.index] = effect.data
            case Restore():
                self.app.restore(b"".join(data for _, data in sorted(self.chunks.items())))
                self.head, self.transfer, self.history = effect.head, None, effect.history
                self.epochs.append(effect.epoch)
                self._stable(effect.checkpoint)

    def save(self, record: Record) -> None:
        match record:
            case VoteRecord():
                slot = (record.epoch, record.view, record.height, record.phase)
                assert self.votes.get(slot, record).digest == record.digest, f"a second vote at {slot}"
                self.votes[slot] = record
            case ViewRecord():
                self.view = record
            case ContentRecord():
                self.contents[record.height] = record
            case EpochRecord():
                self.epochs.append(record)
            case MuteRecord():
                self.mute = record
            case CheckpointRecord():
                self._stable(record)
                self.history += (record.proof,) if record.ends else ()
                self.contents = {h: c for h, c in self.contents.items() if h > record.height}
                self.votes = {slot: vote for slot, vote in self.votes.items() if vote.height > record.height}

    def _stable(self, record: CheckpointRecord) -> None:
        before, self.stable = self.stable or record, record
        self.snapshots = {h: d for h, d in self.snapshots.items() if h >= before.height or h in record.wanted}

    def change_due(self) -> bool:
        return self.app.validators != (self.epochs[-1] if self.epochs else self.genesis).validators

    def outcome(self) -> Outcome | None:
        height = self.head.height if self.head else 0
        if height not in self.snapshots:
            return None
        return Outcome(root_of(manifest_of(self.snapshots[height])), self.app.validators)

    def durable(self, deadline_ms: int | None = None) -> Durable:
        stable = self.stable.height if self.stable else 0
        height = self.head.height if self.head else 0
        started = self.transfer
        return Durable(
            head=self.head,
            deadline_ms=deadline_ms,
            change_due=self.change_due(),
            outcome=self.outcome(),
            epoch=self.epochs[-1] if self.epochs else None,
            previous=self.epochs[-2] if len(self.epochs) > 1 else None,
            view=self.view,
            checkpoint=self.stable.proof if self.stable else b"",
            history=self.history,
            contents=tuple(self.contents.values()),
            certified=tuple(
                Certified(h, self.genesis.block_digest(self.blocks[h][0]), self.blocks[h][1])
                for h in range(stable + 1, height + 1)
            ),
            votes=tuple(self.votes.values()),
            transfer=Transfer(started.proofs, started.manifest, tuple(self.chunks)) if started else None,
            mute=self.mute,
        )


@dataclass
class Node:
    """A replica with the smallest shell that keeps the contract; everything it did is in `effects`."""

    genesis: Group
    key: Key
    disk: Disk
    replica: Replica
    effects: list[Effect] = field(default_factory=list)
    elapsed_ms: int = 0
    now_ms: int = NOW_MS
    deadline_ms: int | None = None

    @property
    def app(self) -> App:
        return self.disk.app

    @property
    def index(self) -> int:
        return index_of(self.key.identity)

    def step(self, event: Event) -> list[Effect]:
        """Steps, answers what asks for an answer, and returns all effects in order."""
        effects = self.replica.step(event)
        self.effects += effects
        answers = []
        for effect in effects:
            self.disk.apply(effect)
            answer = self._answer(effect)
            answers += [answer] if answer else []
        for answer in answers:
            effects = effects + self.step(answer)
        return effects

    def _answer(self, effect: Effect) -> Event | None:
        match effect:
            case Deliver(block=block):
                outcome = self.disk.outcome() if effect.checkpoint else None
                return Executed(block.height, self.deadline_ms, self.disk.change_due(), outcome)
            case Restore():
                self.disk.snapshots[effect.head.height] = self.app.snapshot()
                return Restored(effect.head.height, self.deadline_ms)
            case Examine(transactions=given):
                void = [t for t in given if t in self.app.executed or t.startswith(b"void")]
                good = tuple(t for t in given if t not in void)
                return Examined(good, tuple((t, "void") for t in void), effect.again, effect.peer)
            case Verify(transactions=given):
                bad = any(t.startswith(b"bad") for t in given)
                return Verified(effect.digest, "bad_transaction" if bad else "")
            case ReadBlocks():
                wanted = range(effect.first, effect.last + 1)
                held = [self.disk.blocks[h] for h in wanted if h in self.disk.blocks]
                return BlocksRead(effect.peer, tuple(held) if effect.first in self.disk.blocks else ())
            case ReadChunk(peer=peer, height=height, index=index):
                data = self.disk.snapshots.get(height)
                manifest = manifest_of(data) if data is not None and index == 0 else b""
                return ChunkRead(peer, height, index, manifest, chunk(data or b"", index))
            case ReadBody(peer=peer, height=height, digest=digest):
                votes = [vote for vote in self.disk.votes.values() if (vote.height, vote.digest) == (height, digest)]
                return BodyRead(peer, digest, max((vote.block for vote in votes), default=b""))
        return None

    def tick(self, later_ms: int = 0) -> list[Effect]:
        self.elapsed_ms += later_ms
        return self.step(Tick(self.now_ms, self.elapsed_ms))

    def receive(self, by: int, frame: bytes) -> list[Effect]:
        """`frame` comes over the channel of validator `by`."""
        return self.step(Received(KEYS[by].identity, frame))

    def refusals(self, by: int, frame: bytes) -> dict[str, int]:
        """What is newly counted when `frame` comes in."""
        before = dict(self.replica.rejections)
        self.receive(by, frame)
        return {c: n - before.get(c, 0) for c, n in self.replica.rejections.items() if n != before.get(c, 0)}

    def halted(self) -> bool:
        return any(isinstance(effect, Halt) for effect in self.effects)


def node(group: Group, index: int, durable: Durable | None = None, *, disk: Disk | None = None) -> Node:
    """Validator `index`, after its first tick."""
    disk = disk or Disk(group, App(group.validators))
    durable = durable or disk.durable()
    made = Node(group, KEYS[index], disk, Replica(group, KEYS[index], durable))
    made.tick()
    made.effects.clear()
    return made


def restarted(old: Node, effects: Sequence[Effect] | None = None) -> Node:
    """`old` after a stop, with what its disk holds; or held once `effects`, the first of all, were carried out."""
    disk = old.disk if effects is None else Disk(old.genesis, App(old.genesis.validators))
    for effect in effects or ():
        disk.apply(effect)
    made = Node(old.genesis, old.key, disk, Replica(old.genesis, old.key, disk.durable(old.deadline_ms)))
    made.elapsed_ms, made.deadline_ms = old.elapsed_ms, old.deadline_ms
    return made


def spoken(group: Group, effects: Iterable[Effect]) -> Iterator[OnChannel]:
    """The messages that leave with `effects`."""
    return (open_message(group, e.frame)[1] for e in effects if isinstance(e, Send | Relay | Broadcast))


def said(group: Group, effects: Iterable[Effect], kind: type[M]) -> list[M]:
    return [message for message in spoken(group, effects) if isinstance(message, kind)]


def records(effects: Iterable[Effect], kind: type[R]) -> list[R]:
    return [e.record for e in effects if isinstance(e, Persist) and isinstance(e.record, kind)]


# ---- a whole cluster

Passes = Callable[[int, int, OnChannel], bool]


@dataclass
class Cluster:
    """Nodes that hear each other at once and in order, except for what the test holds back."""

    genesis: Group
    nodes: dict[int, Node]
    down: set[int] = field(default_factory=set)
    """Nodes that take no step; frames for them are lost."""
    passes: Passes = lambda source, target, message: True
    """Which frames arrive."""
    frames: deque[tuple[int, int, bytes]] = field(default_factory=deque)
    watched: frozenset[type[Message]] = frozenset()
    transcript: list[str] = field(default_factory=list)
    """What arrived, of the kinds that are watched."""
    seen: dict[int, int] = field(default_factory=dict)
    """How many of a node's effects have been sent."""

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    @property
    def up(self) -> list[Node]:
        return [each for index, each in self.nodes.items() if index not in self.down]

    def submit(self, to: int, *transactions: bytes) -> None:
        for transaction in transactions:
            self.nodes[to].step(Submitted(transaction))

    def order(self, *transactions: bytes, ms: int = 0) -> None:
        """Has one after another ordered, a block for each."""
        for transaction in transactions:
            self.submit(self.up[0].index, transaction)
            self.run(ms)

    def run(self, ms: int = 0) -> None:
        """Lets `ms` pass, in steps of 50, and delivers all that is said."""
        for step in [0] if ms == 0 else [50] * (ms // 50):
            for each in self.up:
                each.tick(step)
            self.settle()

    def settle(self) -> None:
        self._collect()
        while self.frames:
            source, target, frame = self.frames.popleft()
            message = open_message(self.genesis, frame)[1]
            if target in self.down or source in self.down or not self.passes(source, target, message):
                continue
            if type(message) in self.watched:
                self.transcript.append(f"{source} > {target} {told(message)}")
            self.nodes[target].receive(source, frame)
            self.nodes[target].tick()
            self._collect()

    def _collect(self) -> None:
        """Takes what nodes have said since the last time to the targets' queues."""
        for index, each in self.nodes.items():
            for effect in each.effects[self.seen.get(index, 0) :]:
                if isinstance(effect, Send | Relay):
                    self.frames.append((index, index_of(effect.peer), effect.frame))
                elif isinstance(effect, Broadcast):
                    self.frames += [(index, target, effect.frame) for target in self.nodes if target != index]
            self.seen[index] = len(each.effects)

    def restart(self, index: int, effects: Sequence[Effect] | None = None) -> Node:
        """The node stops and comes back; `effects` as in `restarted`."""
        self.nodes[index] = restarted(self.nodes[index], effects)
        self.seen[index] = 0
        self.down.discard(index)
        return self.nodes[index]

    def crash(self, index: int) -> None:
        self.down.add(index)

    def heights(self) -> list[int]:
        return [each.replica.height for each in self.nodes.values()]

    def agreed(self) -> bool:
        """Whether all are at one height and none has another block than the others."""
        longest = max(self.nodes.values(), key=lambda each: each.replica.height)
        same = all(
            block == longest.disk.blocks[h][0]
            for each in self.nodes.values()
            for h, (block, _) in each.disk.blocks.items()
        )
        return same and len(set(self.heights())) == 1


def cluster(n: int = 4, parameters: Parameters = SMALL, extra: Sequence[int] = ()) -> Cluster:
    """`n` validators, and nodes with keys of `extra` that are none yet."""
    genesis = group_of(n, parameters=parameters)
    return Cluster(genesis, {i: node(genesis, i) for i in [*range(n), *extra]})


def changed() -> Cluster:
    """Validators 1 to 4, after a chain that began with 0 to 3, and some epochs into their term."""
    five = cluster(4, extra=[4])
    five.order(b"one", b"validators 1 2 3 4")
    five.run(3000)
    for i in range(15):
        five.submit(2, b"%d" % i)
        five.run(100)
    return five


def told(message: OnChannel) -> str:
    """A message in one line, for transcripts."""
    name = type(message).__name__
    fields = {key: getattr(message, key) for key in ("epoch", "view", "height") if hasattr(message, key)}
    return " ".join([name, *(f"{key[0]}{value}" for key, value in fields.items())])


def last_proof(each: Node) -> bytes:
    """The proof of its last stable checkpoint."""
    assert each.disk.stable is not None and height_of(each.disk.stable.proof) == each.disk.stable.height
    return each.disk.stable.proof

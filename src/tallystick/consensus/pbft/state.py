"""The state that the parts of the engine share: what a replica knows, has said, and is about to do.

The parts are neighbors over this state: `normal` (three-phase agreement), `checkpoints` (watermarks, epochs), `views`
(replacing a primary), `catchup` (blocks from peers), `transfer` (snapshots from peers), `forwarding` (transactions).
Each changes it only in a step of `Replica`. What a restart needs is in `io.Durable`; all else may be lost without harm.
"""

import functools
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tallystick.canon.identity import Key
from tallystick.canon.votes import Message
from tallystick.consensus.pbft.asking import Asking
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    Accuse,
    Broadcast,
    Certified,
    Deliver,
    Effect,
    Halt,
    Head,
    MuteRecord,
    Phase,
    Send,
)
from tallystick.consensus.pbft.limits import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    MAX_EARLY_BYTES,
    MAX_EARLY_FRAMES,
    MAX_EVIDENCE,
    MAX_GUESTS,
)
from tallystick.consensus.pbft.messages import Block, CheckpointContent, Claim, Demand, ViewChange, seal_message
from tallystick.consensus.pbft.pool import Pool
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused

HELD: Final = "held"
"""The code of what is not refused, only kept for later."""


class Ballot(msgspec.Struct, frozen=True):
    """A vote as it came: what it names, and the sealed bytes that prove it."""

    digest: bytes
    sealed: bytes


class Accepted(msgspec.Struct, frozen=True):
    """The one proposal that this replica stands behind in an instance."""

    digest: bytes
    encoded: bytes
    block: Block


@dataclass
class Instance:
    """Agreement on one height in one view."""

    height: int
    pre_prepare: Ballot | None = None
    encoded: bytes = b""
    """The block that came with `pre_prepare`, its digest checked and nothing else."""
    verified: bool = False
    """Whether the application lets its transactions pass."""
    refused: bool = False
    """The proposal held is not acceptable, now or ever."""
    accepted: Accepted | None = None
    prepares: dict[str, Ballot] = field(default_factory=dict)
    """By sender; backups only, for the primary's pre-prepare stands for its prepare."""
    commits: dict[str, Ballot] = field(default_factory=dict)
    unread: dict[str, bytes] = field(default_factory=dict)
    """By peer: a prepare as it came, unchecked, that said what a quorum had said already."""
    said: dict[Phase, bytes] = field(default_factory=dict)
    """Our own messages as they were broadcast, for sending again."""


@dataclass(frozen=True)
class Stable:
    """A checkpoint that a quorum reached. Genesis is one, without proof."""

    height: int
    proof: bytes


@dataclass
class Peer:
    """What a peer says of itself. Claims only: nothing but certificates is believed."""

    epoch: int = -1
    """-1 before it said anything."""
    height: int = 0
    """Of the last block it delivered."""
    lacks: int = 0
    """The block that it said it does not hold (any more), when we asked for it."""
    early: deque[bytes] = field(default_factory=deque)
    """Frames of a view or epoch that we have not entered yet."""
    early_bytes: int = 0
    forwarded: deque[bytes] = field(default_factory=deque)
    """Transactions that it forwarded and that are not examined yet."""
    forwarded_bytes: int = 0
    in_vain: int = 0
    """How many of them were, since the last tick, and not admitted."""
    demands: deque[Demand] = field(default_factory=deque)
    """What it asked for and is not answered yet."""
    reading: bool = False
    """Whether the shell reads an answer for it."""
    debt: int = 0
    """Bytes of answers to its demands that it has not worked off."""
    told: int = 0
    """The same of what it was told for its statuses."""
    reads: int = 0
    """Height of the snapshot that it fetches from us."""
    reads_until_ms: int = 0
    """Until when we keep that for it."""


@dataclass
class Clock:
    now_ms: int = 0
    """Wall clock; only for the time of proposals."""
    elapsed_ms: int = 0
    """Never jumps; all timers run on it."""
    progress_ms: int = 0
    """When we last voted or delivered."""
    retransmit_ms: int = 0
    """When our messages are next sent again."""
    repetitions: int = 0
    """How often they were, without progress in between."""
    status_ms: int = 0
    """When our status is next due."""
    served_ms: int = 0
    """Until when peers have worked off their debts."""
    recheck_ms: int = 0
    """When waiting transactions are next looked at."""


@dataclass
class Patience:
    """How long this replica still waits for the primary, or for the next one to open its view."""

    until_ms: int | None = None
    watched: bytes = b""
    """The transaction that has waited longest, if it is for this that we wait."""
    nudged: bool = False
    """Whether everybody was reminded of it."""
    doublings: int = 0
    """Views left in a row without a block in between."""


@dataclass
class Fetching:
    """The request for blocks that is under way."""

    peer: str
    first: int
    last: int
    until_ms: int


@dataclass
class Transferring:
    """A snapshot that is being fetched."""

    target: CheckpointContent
    signers: Group
    """Whose quorum signed the target."""
    proofs: tuple[bytes, ...]
    """Checkpoints at which the validators changed on the way there, then the target's; in order."""
    manifest: bytes = b""
    missing: deque[int] = field(default_factory=lambda: deque([0]))
    """Chunks to ask for: first of all 0, with which the manifest comes and tells how many there are."""
    asked: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Peer and deadline for each chunk under way."""
    gone: set[str] = field(default_factory=set)
    """Peers that do not hold it, or sent something else."""
    heard_ms: int | None = None
    """When the last chunk came, or when this became the target; not known right after a start."""
    seen: int = 0
    """How far the others were when this became the target, or as soon as it was known."""


@dataclass
class State:
    genesis: Group
    group: Group
    """Of the epoch that we are in."""
    key: Key
    head: Head
    executed: int
    timeout_ms: int
    trusted: Group
    """Who agrees after the last stable checkpoint: where every chain of trust starts."""
    previous: Group | None = None
    """Of the epoch before, whose members vote for the checkpoint that ended it."""
    deadline_ms: int | None = None
    change_due: bool = False
    mute: MuteRecord | None = None

    # agreement
    view: int = 0
    active: bool = True
    """False from our view change on until the new primary opens the view."""
    instances: dict[int, Instance] = field(default_factory=dict)
    """By height, above the head, in the current view."""
    votes: dict[tuple[int, int, Phase], bytes] = field(default_factory=dict)
    """Digest of every vote given in this epoch above the low watermark, by (view, height, phase)."""
    prepared: dict[int, Claim] = field(default_factory=dict)
    """By height, above the head: the prepared certificate of the highest view."""
    bodies: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """Undecided blocks that we stood behind in this epoch, in this order: digest to height and encoding."""
    base: int = 0
    """Nothing at or below it is decided in the current view: the checkpoint that the view was opened with."""
    required: dict[int, bytes] = field(default_factory=dict)
    """What the new view says must be at these heights."""
    settled: dict[bytes, int] = field(default_factory=dict)
    """Payloads of the votes that a quorum has given in the current view, with their heights: no more of them are
    needed."""

    # checkpoints
    stable: Stable = Stable(0, b"")
    history: dict[int, bytes] = field(default_factory=dict)
    """By height, in order: proofs of all checkpoints at which the validators changed."""
    certified: dict[int, Certified] = field(default_factory=dict)
    """Delivered blocks above the low watermark."""
    contents: dict[int, bytes] = field(default_factory=dict)
    """What we got by executing to a checkpoint that is not stable yet."""
    checkpoint_votes: dict[int, dict[str, Ballot]] = field(default_factory=dict)

    # view change
    view_changes: dict[str, tuple[bytes, ViewChange]] = field(default_factory=dict)
    """The last one of each sender, for a view not below ours."""
    own_view_change: bytes = b""
    new_view: bytes = b""
    """The frame that opened the current view, for those who missed it."""
    patience: Patience = field(default_factory=Patience)

    # the others
    pool: Pool = field(default_factory=Pool)
    outbox: list[bytes] = field(default_factory=list)
    """Transactions to forward at the next tick."""
    peers: dict[str, Peer] = field(default_factory=dict)
    guests: dict[str, Peer] = field(default_factory=dict)
    """Who follows without being a member. What they claim counts for nothing, so they are not among the peers."""
    fetch: Fetching | None = None
    overdue: dict[str, Fetching] = field(default_factory=dict)
    """Requests for blocks that were not answered in time, the last of each peer: the answer may still come."""
    asking: Asking = field(default_factory=Asking)
    last_asked: str = ""
    catching_up: bool = False
    """Whether the last request brought blocks: then there may be more where they came from."""
    inbound: deque[tuple[bytes, bytes, Block]] = field(default_factory=deque)
    """Certified blocks of one answer that wait for those before them to be executed."""
    transfer: Transferring | None = None
    turns: dict[str, int] = field(default_factory=dict)
    """The number of the last request for a chunk that each peer had: whose is lowest is asked next."""
    ran_on: int = 0
    """How many blocks the others delivered while our last transfer was under way."""
    clock: Clock = field(default_factory=Clock)
    rejections: Counter[str] = field(default_factory=Counter)
    accused: set[tuple[str, object]] = field(default_factory=set)
    """Slots for which a conflict has been reported."""
    effects: list[Effect] = field(default_factory=list)
    """What this step asks for, in order."""
    replay: deque[tuple[str, bytes]] = field(default_factory=deque)
    """Frames that were held for the view or epoch that we have entered since."""
    halted: bool = False

    @functools.cached_property
    def me(self) -> str:
        return self.key.identity

    @property
    def primary(self) -> str:
        return self.group.primary(self.view)

    @property
    def votes_here(self) -> bool:
        """Whether we are a validator of this epoch that knows what it has signed."""
        return self.votes_in(self.group)

    def votes_in(self, group: Group) -> bool:
        return self.me in group.validators and (self.mute is None or 0 < self.mute.until <= group.epoch)

    @property
    def low(self) -> int:
        """The low watermark: nothing at or below it can be decided again."""
        return max(self.group.start, self.stable.height)

    @property
    def high(self) -> int:
        """The high watermark: nothing above it is held."""
        return self.low + self.group.span

    @property
    def horizon(self) -> int:
        """The highest height that may be agreed on now: what lies beyond the next checkpoint may be another epoch's.

        An epoch cannot end before the checkpoint that opened it is stable here: its voters are those of the epoch
        before, and nobody would count their votes any more.
        """
        checkpoint = self.group.checkpoint_after(self.executed)
        return checkpoint if self.stable.height >= self.group.start else checkpoint - 1

    @property
    def reached_by_others(self) -> int:
        """A height that more than `f` validators claim: no higher than an honest one has been."""
        members = (peer.height for identity, peer in self.peers.items() if identity in self.group.validators)
        heights = sorted(members, reverse=True)
        return heights[self.group.faults] if len(heights) > self.group.faults else 0

    def is_member(self, identity: str) -> bool:
        """Of this epoch, or of the one before it."""
        return identity in self.group.validators or (self.previous is not None and identity in self.previous.validators)

    def peer(self, identity: str) -> Peer:
        """Only for guests and for members of the last two epochs, which bounds their number."""
        return self.guests[identity] if identity in self.guests else self.peers.setdefault(identity, Peer())

    def welcome(self, identities: Iterable[str]) -> None:
        """Makes those of `identities` guests that are no members, and nobody else."""
        strangers = [identity for identity in identities if not self.is_member(identity)]
        self.guests = {identity: self.guests.get(identity, Peer()) for identity in strangers[:MAX_GUESTS]}

    def instance(self, height: int) -> Instance:
        found = self.instances.get(height)
        if found is None:
            assert self.head.height < height <= self.high, f"no instance at {height}, head {self.head.height}"
            found = self.instances[height] = Instance(height)
        return found

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def seal(self, message: Message) -> bytes:
        return seal_message(self.key, self.group, message)

    def broadcast(self, message: Message) -> None:
        self.do(Broadcast(self.seal(message)))

    def send(self, peer: str, message: Message) -> None:
        self.do(Send(peer, self.seal(message)))

    def accuse(self, sender: str, slot: object, first: bytes, second: bytes) -> Refused:
        """Reports two conflicting votes, once for each slot, and returns the refusal to raise."""
        known = sum(culprit == sender for culprit, _ in self.accused)
        if (sender, slot) not in self.accused and known < MAX_EVIDENCE:
            self.accused.add((sender, slot))
            self.do(Accuse(sender, first, second))
        return Refused("conflicting_vote", f"{sender[:12]} voted twice, differently, where it has one vote")

    def keep_body(self, digest: bytes, height: int, encoded: bytes) -> None:
        """Keeps at hand a block that we stand behind, whatever later views make of it: its proposer may hide for some
        views that a quorum prepared it, and show it then.

        There is room for all that f faulty primaries in a row and an honest one can have us stand behind. Should a bad
        network bring more, the oldest go; they are with our votes on disk until their height is settled (`ReadBody`).
        """
        self.bodies.pop(digest, None)
        self.bodies[digest] = (height, encoded)
        room = (self.group.faults + 1) * self.group.parameters.window * MAX_BLOCK_BYTES
        size = sum(len(body) for _, body in self.bodies.values())
        while size > room:
            _, oldest = self.bodies.pop(next(iter(self.bodies)))
            size -= len(oldest)

    def hold_early(self, sender: str, frame: bytes, code: str) -> Refused:
        """Keeps a frame of a view or epoch that we have not entered; returns the refusal to raise if there is no room.

        Channels overtake one another: who enters first is heard before the news that lets us follow.
        """
        if not self.is_member(sender):
            return Refused("not_a_validator", f"{sender[:12]} is no validator of epoch {self.group.epoch}")
        peer = self.peer(sender)
        if frame in peer.early:
            return Refused(HELD, "held already; one that anybody may bring must not fill its author's room")
        if len(peer.early) >= MAX_EARLY_FRAMES or peer.early_bytes + len(frame) > MAX_EARLY_BYTES:
            return Refused(code, f"{sender[:12]} is ahead of us by more than we hold")
        peer.early.append(frame)
        peer.early_bytes += len(frame)
        return Refused(HELD, f"{sender[:12]}'s message is held until we enter its view")

    def halt(self, reason: str) -> None:
        self.halted = True
        self.do(Halt(reason))


def deliver(state: State, block: Block, encoded: bytes, digest: bytes, certificate: bytes) -> None:
    """Makes a certified block the new head. The one way to a higher head by a block, whether agreed on or fetched."""
    height = block.height
    assert height == state.head.height + 1, f"deliver {height} on head {state.head.height}"
    assert state.executed == state.head.height, f"deliver {height}, executed {state.executed}"
    transactions = tuple(block.transactions)
    head = Head(height, state.group.chain_digest(state.head.digest, digest), max(state.head.time_ms, block.time_ms))
    committed = CommittedBlock(height, head.time_ms, head.digest, transactions, certificate)
    state.do(Deliver(committed, encoded, state.group.is_checkpoint(height)))
    state.head = head
    state.certified[height] = Certified(height, digest, certificate)
    state.instances.pop(height, None)
    state.prepared.pop(height, None)
    state.required.pop(height, None)
    state.bodies = {name: body for name, body in state.bodies.items() if body[0] > height}
    state.clock.progress_ms = state.clock.elapsed_ms
    watched, full = state.patience.watched, block_is_full(block)
    state.pool.committed(transactions)
    if full or not watched or not state.pool.holds(watched):
        state.patience.until_ms = None  # it starts again at the next tick if something still waits
    state.patience.doublings = 0


def block_is_full(block: Block) -> bool:
    """A primary with more to order than fits may let a transaction wait; one with room may not."""
    size = sum(map(len, block.transactions))
    return 2 * len(block.transactions) >= MAX_BLOCK_TRANSACTIONS or 2 * size >= MAX_BLOCK_BYTES

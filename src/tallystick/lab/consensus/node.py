"""One node: a shell in miniature around the real `Replica`, which can die between any two things it does.

The shell keeps the contract of `consensus.pbft.io`, and uses every freedom that the contract leaves: it commits a batch
and sends then, or commits and sends one effect at a time; it dies with any prefix of its writes on disk and any prefix
of its messages sent.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tallystick.canon.identity import Key
from tallystick.consensus.pbft.answers import examine, verify
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    Accuse,
    Broadcast,
    Connected,
    Deliver,
    Effect,
    Event,
    Examine,
    Executed,
    Guests,
    Halt,
    Outcome,
    Persist,
    ReadBlocks,
    ReadBody,
    ReadChunk,
    Received,
    Regroup,
    Relay,
    Restore,
    Restored,
    SaveChunk,
    Send,
    StartTransfer,
    Submitted,
    Tick,
    Verify,
)
from tallystick.consensus.pbft.replica import Replica
from tallystick.errors import Refused
from tallystick.lab.consensus.answers import outcome_of, read_blocks, read_body, read_chunk
from tallystick.lab.consensus.disk import Disk, DiskFull, Kept, Row, Taken
from tallystick.lab.consensus.frames import is_view_change
from tallystick.lab.consensus.replicated import Replicated
from tallystick.lab.consensus.world import Violation

if TYPE_CHECKING:
    from tallystick.lab.consensus.cluster import Cluster

UNIX_MS: Final = 1_700_000_000_000
"""When the run begins by the wall clocks that are right."""
MOST_EFFECTS_BEFORE_DEATH: Final = 14


class Death(Exception):
    """The node dies here."""


@dataclass(frozen=True)
class Habits:
    """How one node's machine behaves."""

    tick_ms: int = 30
    sync_ms: int = 0
    """Time that a commit to disk takes."""
    crash: float = 0.0
    """Chance to die in any one batch of work."""
    down_ms: tuple[int, int] = (50, 1500)


class Node:
    def __init__(self, cluster: "Cluster", index: int, key: Key, habits: Habits, *, honest: bool = True) -> None:
        self.cluster = cluster
        self.index = index
        self.key = key
        self.habits = habits
        self.honest = honest
        self.disk = Disk()
        self.app: Replicated = cluster.new_application()
        self.replica: Replica | None = None
        """None while the node is down."""
        self.halted = ""
        """Why it stopped for good."""
        self.skew_ms = 0
        self.haste = 1
        """How many times too fast its timers run."""
        self.groups: tuple[Group, ...] = ()
        """Whose channels it keeps: those of the epoch, and of the one before."""
        self.guests: tuple[str, ...] = ()
        """Newcomers that it has channels to as well."""
        self.forgetful = False
        """Whether its disk, when it dies, is that of some time ago."""
        self._old_disk = Disk()
        self.reach: frozenset[int] | None = None
        """Nodes that it talks with; None is all."""
        self.tamper: Callable[[Node, int, bytes], list[tuple[int, bytes]]] | None = None
        """What a faulty node does to each frame on its way to one peer: what to send instead, and how late."""
        self._audience: tuple[tuple[Group, ...], list[int]] = ((), [])
        """Nodes that a broadcast goes to, and for which groups that was worked out."""
        self.starts = 0
        self.cause: Event | None = None
        """What it is working on."""
        self._random = cluster.world.random(f"node {index}")
        self._inbox: list[Event] = []
        self._outbox: list[tuple[str, bytes]] = []
        self._busy = False
        self._doomed: int | None = None
        """Effects left to live."""
        self._stepwise = False
        """Whether each effect is carried out at once, rather than all of a batch together."""
        self._ticked = -1
        self._acted = False
        """Whether anything came of the last batches of work."""

    @property
    def name(self) -> str:
        return f"node {self.index}"

    @property
    def up(self) -> bool:
        return self.replica is not None

    # ---- life and death

    def start(self) -> None:
        if self.up or self.halted or self.disk.full:
            return
        if self.disk.corrupt:
            self.cluster.watch.forgot(self)
            self.disk = self.disk.wiped()
        outcome = self._replay()
        validators = self.disk.epoch.validators if self.disk.epoch else self.cluster.genesis.validators
        change_due = self.app.validators() != validators
        durable = self.disk.durable(self.app.next_deadline_ms(), change_due, outcome)
        self.replica = Replica(self.cluster.genesis, self.key, durable, timeout_ms=self.cluster.plan.timeout_ms)
        self.groups, self.guests = (self.replica.group,), ()
        self.starts += 1
        self.cluster.world.tell(self.name, f"starts at height {self.app.height}, epoch {self.replica.epoch}")
        self._busy = False
        self.cluster.watch.started(self)
        self._inbox += self._welcome()
        self._beat(self.starts)
        self.cluster.connect(self.index)

    def _replay(self) -> Outcome | None:
        """Makes the application again from the blocks on disk. Returns what came out at the head, if that is a
        checkpoint."""
        self.app = self.cluster.new_application(self)
        outcome = None
        if self.disk.base:
            self.app.restore(self.disk.snapshots[self.disk.base])
        for height in range(self.disk.base + 1, self.disk.head.height + 1 if self.disk.head else 1):
            row = self.disk.rows[height]
            self.app.execute(row.block)
            outcome = None
            if row.checkpoint and height > self.disk.stable:
                snapshot = self.app.snapshot()
                self.disk.write(Kept(height, snapshot))
                outcome = outcome_of(self.app, snapshot)
        self.disk.sync()
        return outcome

    def die(self, *, down_ms: int | None = None) -> None:
        """Loses everything but a prefix of what was on its way to disk, and comes back after a while."""
        if not self.up:
            return
        self.disk.crash(self._random)
        if self.forgetful:
            self.disk, self._old_disk = deepcopy(self._old_disk), self.disk
        self.cluster.world.tell(
            self.name, f"DIES, with height {self.disk.head.height if self.disk.head else 0} on disk"
        )
        self.replica = None
        self._inbox.clear()
        self._outbox.clear()
        self._doomed = None
        self.cluster.crashes += 1
        delay = self._random.randint(*self.habits.down_ms) if down_ms is None else down_ms
        self.cluster.world.later(delay, self.start)

    def stall(self, ms: int) -> None:
        """Does nothing for a while and then goes on, as a process that was stopped."""
        if self.up and not self._busy:
            self._busy = True
            self.cluster.world.tell(self.name, f"stalls for {ms} ms")
            self.cluster.world.later(ms, self._finish, self.starts)

    def _beat(self, life: int) -> None:
        if life != self.starts or self.replica is None:
            return
        world, tick_ms = self.cluster.world, self.habits.tick_ms
        if not self._busy and world.now - self._ticked >= tick_ms:
            self._work()
        world.later(tick_ms, self._beat, life)

    # ---- what comes in

    def receive(self, peer: str, frame: bytes) -> None:
        if self.replica is not None and is_view_change(frame):
            self.cluster.watch.told_to_leave(self, peer, frame)
        self._take(Received(peer, frame))

    def connected(self, peer: str) -> None:
        self._take(Connected(peer))

    def submit(self, transaction: bytes) -> None:
        """Raises `Refused` as an admission over HTTP would."""
        if not self.up:
            return
        self.app.admit(transaction)
        self._take(Submitted(transaction))

    def _take(self, event: Event) -> None:
        if self.replica is None:
            return
        self._inbox.append(event)
        if not self._busy and len(self._inbox) == 1:
            self.cluster.world.later(0, self._hear, self.starts)

    # ---- a batch of work

    def _work(self) -> None:
        events, self._inbox = self._inbox, []
        crash = self.habits.crash
        if crash and self._random.random() < crash:
            self._doomed = self._random.randint(0, MOST_EFFECTS_BEFORE_DEATH)
            self._stepwise = self._random.random() < 0.5
        else:
            self._doomed = None
            self._stepwise = False
        self._ticked = now = self.cluster.world.now
        try:
            for event in events:
                self._step(event)
            self._step(Tick(UNIX_MS + now + self.skew_ms, now * self.haste))
        except Death:
            self.die()
            return
        except DiskFull:
            self.cluster.world.tell(self.name, "has no room on disk")
            self.die()
            return
        if self._doomed is not None:
            self._end_badly()
        elif self.habits.sync_ms and self.disk.staged:
            self._busy = True
            self.cluster.world.later(self.habits.sync_ms, self._finish, self.starts)
        else:
            self._flush()

    def _finish(self, life: int) -> None:
        """The commit to disk has come back."""
        if life != self.starts or not self.up:
            return
        self._busy = False
        self._flush()
        self._hear(life)

    def _hear(self, life: int) -> None:
        if self._inbox and not self._busy and life == self.starts and self.replica is not None:
            self._work()

    def _flush(self) -> None:
        if self.disk.staged:
            self.disk.sync()
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            for peer, frame in outbox:
                self._transmit(peer, frame)
        if self._acted:
            self._acted = False
            self.cluster.watch.settled(self)

    def _end_badly(self) -> None:
        """A doomed node that lived to the end of its batch dies in the commit, or while it sends."""
        if self._random.random() < 0.5:
            self.disk.sync()
            for peer, frame in self._outbox[: self._random.randint(0, len(self._outbox))]:
                self._transmit(peer, frame)
        self.die()

    def _step(self, event: Event) -> None:
        replica = self.replica
        assert replica is not None
        self.cause = event
        try:
            effects = replica.step(event)
        except Refused as refused:
            if not isinstance(event, Submitted):
                raise Violation(10, f"{self.name}: step raised {refused!r} for {type(event).__name__}") from refused
            return
        except Exception as error:
            if not self.honest:
                raise Death from error
            raise Violation(10, f"{self.name}: step raised {error!r} for {type(event).__name__}") from error
        if not effects:
            return
        self._acted = True
        self.cluster.watch.stepped(self)
        answers: list[Event] = []
        for effect in effects:
            if self._doomed is not None:
                if self._doomed == 0:
                    raise Death
                self._doomed -= 1
            self._carry_out(effect, answers)
        for answer in answers:
            self._step(answer)

    # ---- effects

    def _carry_out(self, effect: Effect, answers: list[Event]) -> None:
        match effect:
            case Relay(peer, frame):
                self._transmit(peer, frame)
            case Send(peer, frame):
                self._say(peer, frame)
            case Broadcast(frame):
                self._say("", frame)
            case Persist(record):
                self.cluster.watch.persisting(self, record)
                self.disk.write(effect)
            case Deliver():
                answers.append(self._deliver(effect))
                answers += self._welcome()
            case Verify():
                answers.append(verify(self.app, effect))
            case Examine():
                answers.append(examine(self.app, effect))
            case ReadBlocks():
                answers.append(read_blocks(self.disk, effect))
            case ReadChunk():
                answers.append(read_chunk(self.disk, effect))
            case ReadBody():
                answers.append(read_body(self.disk, effect))
            case StartTransfer() | SaveChunk():
                self.disk.write(effect)
            case Restore():
                answers.append(self._restore(effect))
            case Regroup(group):
                self.groups = (group, *(g for g in self.groups[:1] if g.epoch != group.epoch))
                self.cluster.regrouped(self, group)
            case Accuse(culprit, first, second):
                self.cluster.watch.accused(self, culprit, first, second)
                if self.honest and self.cluster.owners is not None:
                    self.cluster.owners.bring(self, culprit, first, second)
            case Halt(reason):
                self._halt(reason)

    def _say(self, peer: str, frame: bytes) -> None:
        if self._stepwise:
            self.disk.sync()
            self._transmit(peer, frame)
        else:
            self._outbox.append((peer, frame))

    def _transmit(self, peer: str, frame: bytes) -> None:
        """To one peer; or to everybody, if `peer` is empty."""
        cluster, index, tamper = self.cluster, self.index, self.tamper
        if self.honest:
            cluster.watch.sent(self, frame)
        send = cluster.network.send
        for target in self._nodes_of((peer,)) if peer else self._everybody():
            if tamper is None:
                send(index, target, frame)
                continue
            for delay_ms, changed in tamper(self, target, frame):
                cluster.world.later(delay_ms, send, index, target, changed)

    def _everybody(self) -> list[int]:
        """The nodes of its peers; asked for with every broadcast."""
        if self._audience[0] is not self.groups:
            me = self.key.identity
            members = (v for group in self.groups for v in group.validators)
            peers = dict.fromkeys(v for v in (*members, *self.guests) if v != me)
            self._audience = self.groups, self._nodes_of(peers)
        return self._audience[1]

    def _welcome(self) -> list[Event]:
        """Opens channels to newcomers, as the real shell does: they follow before they are in office."""
        members = {v for group in self.groups for v in group.validators}
        guests = tuple(v for v in self.app.validators() if v not in members)
        if guests == self.guests:
            return []
        self.guests, self._audience = guests, ((), [])
        self.cluster.meet(self.index, guests)
        return [Guests(guests)]

    def _nodes_of(self, identities: Iterable[str]) -> list[int]:
        targets = [i for identity in identities for i in self.cluster.indices.get(identity, ())]
        return targets if self.reach is None else [i for i in targets if i in self.reach]

    def _deliver(self, effect: Deliver) -> Event:
        block = effect.block
        named = self.cluster.genesis.block_digest(effect.encoded)
        row = Row(block, effect.encoded, named, effect.checkpoint)
        self.cluster.watch.delivering(self, row)
        self.disk.write(row)
        replies = self.app.execute(block)
        self.cluster.watch.executed(self, block, replies)
        for reply in replies:
            self.cluster.reply(self, reply)
        outcome = None
        if effect.checkpoint:
            snapshot = self.app.snapshot()
            self.disk.write(Kept(block.height, snapshot))
            outcome = outcome_of(self.app, snapshot)
        change_due = self.app.validators() != self.groups[0].validators
        return Executed(block.height, self.app.next_deadline_ms(), change_due, outcome)

    def _restore(self, effect: Restore) -> Event:
        self.disk.sync()
        data = b"".join(self.disk.chunks[i] for i in sorted(self.disk.chunks))
        self.disk.write(Taken(effect, data))
        self.app.restore(data)
        self.cluster.watch.restored(self, effect)
        return Restored(effect.head.height, self.app.next_deadline_ms())

    def _halt(self, reason: str) -> None:
        self.halted = reason
        self.cluster.watch.halted(self, reason)
        raise Death

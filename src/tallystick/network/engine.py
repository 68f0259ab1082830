"""The embedded PBFT as an `Engine`: drives the state machine with sockets, a disk, clocks and an application.

One asyncio task works in turns. A turn takes the frames that have arrived, steps the replica through them, and
carries out what it asks for; then a tick lets it propose and forward. Everything that a turn must make durable goes
to disk in one transaction before any of its messages leaves.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tallystick.canon.identity import Key
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    BlocksRead,
    Broadcast,
    Connected,
    Deliver,
    Durable,
    Effect,
    Event,
    Examine,
    Examined,
    Executed,
    Persist,
    ReadBlocks,
    Received,
    Send,
    Submitted,
    Tick,
)
from tallystick.consensus.pbft.messages import decode_block
from tallystick.consensus.pbft.replica import Replica
from tallystick.consensus.port import Application, CommittedBlock
from tallystick.errors import Refused
from tallystick.network.inbox import Inbox
from tallystick.network.peers import Peers, Validator
from tallystick.network.store import Store, StoredBlock

TICK_SECONDS: Final = 0.02
MAX_FRAMES_PER_TURN: Final = 256


@dataclass(frozen=True)
class EngineStatus:
    height: int
    view: int
    primary: str
    connected: tuple[str, ...]
    """Identities of the peers to which a channel is open."""
    waiting: int
    """Transactions that wait to be ordered."""
    rejections: dict[str, int]
    """How often input from others was refused, by reason code."""


def system_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class PbftEngine:
    """Takes part in consensus with `key`, and executes what is agreed on `application`.

    On construction it executes the stored blocks that `application` does not have yet.

    Args:
        validators: all of the chain's, in the agreed order, this one included.
        listen: `host:port` to accept channels on, if not this validator's listed address.
        now_ms: the wall clock, for the time of proposed blocks.

    Raises:
        Refused: `not_a_validator`, `bad_group` or `bad_certificate`.
    """

    def __init__(
        self,
        key: Key,
        validators: Sequence[Validator],
        chain: str,
        application: Application,
        store: Store,
        *,
        listen: str | None = None,
        now_ms: Callable[[], int] = system_clock_ms,
    ) -> None:
        self._group = Group(chain, tuple(validator.identity for validator in validators))
        self._application, self._store, self._now_ms = application, store, now_ms
        self._started_ns = time.monotonic_ns()
        self._inbox = Inbox()
        self._events: list[Event] = []
        """From this process, for the next turn."""
        self._replica = Replica(self._group, key, self._recover())
        address = listen or next(v.address for v in validators if v.identity == key.identity)
        self._peers = Peers(key, validators, address, self._inbox, self._opened)

    def submit(self, transaction: bytes) -> None:
        self._application.admit(transaction)
        self._replica.step(Submitted(transaction))
        self._inbox.wake()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._peers.run())
            tasks.create_task(self._take_turns())

    def status(self) -> EngineStatus:
        replica = self._replica
        rejections = dict(Counter(replica.rejections) + self._peers.rejections)
        connected = self._peers.connected
        return EngineStatus(replica.height, replica.view, replica.primary, connected, replica.waiting, rejections)

    # ---- starting

    def _recover(self) -> Durable:
        """Executes what was stored and not executed before the last stop, and returns what the replica starts from."""
        application = self._application
        last = self._store.last_block()
        for stored in self._store.blocks(application.height + 1, last.height if last else 0):
            application.execute(self._committed(stored))
        deadline_ms, votes = application.next_deadline_ms(), self._store.votes()
        if last is None:
            return Durable(deadline_ms=deadline_ms, votes=votes)
        block = self._committed(last)
        return Durable(block.height, block.digest, block.time_ms, deadline_ms, votes)

    def _committed(self, stored: StoredBlock) -> CommittedBlock:
        block, name = decode_block(stored.block), self._group.block_digest(stored.block)
        return CommittedBlock(block.height, block.time_ms, name, tuple(block.transactions), stored.certificate)

    # ---- turns

    async def _take_turns(self) -> None:
        while True:
            await self._inbox.wait(TICK_SECONDS)
            frames = await self._inbox.take(MAX_FRAMES_PER_TURN)
            events, self._events = self._events, []
            self._handle([*events, *(Received(peer, frame) for peer, frame in frames)])
            elapsed_ms = (time.monotonic_ns() - self._started_ns) // 1_000_000
            self._handle([Tick(self._now_ms(), elapsed_ms)])
            await asyncio.sleep(0)

    def _opened(self, peer: str) -> None:
        self._events.append(Connected(peer))
        self._inbox.wake()

    def _handle(self, events: list[Event]) -> None:
        """Steps through `events` and whatever follows from them, on this machine."""
        effects: list[Effect] = []
        for event in events:
            effects += self._replica.step(event)
            if any(isinstance(effect, Deliver) for effect in effects):
                self._carry_out(effects)
                effects = []
        self._carry_out(effects)

    def _carry_out(self, effects: list[Effect]) -> None:
        self._make_durable(effects)
        answers: list[Event] = []
        executed = False
        for effect in effects:
            match effect:
                case Send():
                    self._peers.send(effect.peer, effect.frame)
                case Broadcast():
                    self._peers.broadcast(effect.frame)
                case Examine():
                    answers.append(self._examine(effect))
                case ReadBlocks():
                    answers.append(self._read_blocks(effect))
                case Deliver():
                    self._application.execute(effect.block)
                    executed = True
                case Persist():
                    pass
        if executed:
            answers.insert(0, Executed(self._application.height, self._application.next_deadline_ms()))
        if answers:
            self._handle(answers)

    def _make_durable(self, effects: list[Effect]) -> None:
        records = [effect for effect in effects if isinstance(effect, Persist | Deliver)]
        if not records:
            return
        with self._store.transaction():
            for effect in records:
                if isinstance(effect, Persist):
                    self._store.save_vote(effect.record)
                else:
                    self._store.save_block(effect.block.height, effect.encoded, effect.block.certificate)

    def _examine(self, effect: Examine) -> Examined:
        accepted, refused = [], []
        for transaction in effect.transactions:
            try:
                self._application.admit(transaction)
                accepted.append(transaction)
            except Refused as reason:
                refused.append((transaction, reason.code))
        return Examined(tuple(accepted), tuple(refused), effect.again)

    def _read_blocks(self, effect: ReadBlocks) -> BlocksRead:
        chosen: list[tuple[bytes, bytes]] = []
        room = effect.max_bytes
        for stored in self._store.blocks(effect.first, effect.last):
            room -= len(stored.block) + len(stored.certificate)
            if room < 0:
                break
            chosen.append((stored.block, stored.certificate))
        return BlocksRead(effect.peer, tuple(chosen))

"""The embedded PBFT as an `Engine`: drives the state machine with sockets, a disk, clocks and an application.

The engine works in turns, each a callback of the event loop as soon as there is something to do. A turn takes the
frames that have arrived, steps the replica through them and a tick, and carries out what it asks for. What the turn
must make durable goes to disk in one transaction at its end, and only then do its messages leave. A turn that only
passes transactions on to the primary waits for no disk.
"""

import asyncio
import random
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

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
    Examined,
    Executed,
    Guests,
    Halt,
    Persist,
    ReadBlocks,
    ReadBody,
    ReadChunk,
    Received,
    Regroup,
    Relay,
    Restore,
    SaveChunk,
    Send,
    StartTransfer,
    Submitted,
    Tick,
    Verify,
)
from tallystick.consensus.pbft.limits import MAX_GUESTS, TIMEOUT_MS
from tallystick.consensus.pbft.replica import Replica
from tallystick.consensus.port import Application
from tallystick.errors import Refused, TallystickError
from tallystick.network.admission import Admission
from tallystick.network.answers import keep_outcome, read_blocks, read_body, read_chunk, recover, restore
from tallystick.network.inbox import Inbox
from tallystick.network.metrics import EngineMetrics
from tallystick.network.peers import Peers, Validator
from tallystick.network.store import Store, StoredBlock
from tallystick.network.tables import DamagedError, StoreError

TICK_SECONDS: Final = 0.025
"""Between turns when nothing happens."""
MAX_FRAMES_PER_TURN: Final = 256


class HaltedError(TallystickError):
    """The engine stopped by itself, since going on could do harm."""


@dataclass(frozen=True)
class Shell:
    """What an engine needs from the process that it runs in.

    The defaults are for a validator on its own; tests hand in others.
    """

    directory: Callable[[str], Validator | None]
    """Where a validator is reached, and by which certificate it is known; None if the ledger does not know it."""
    accuse: Callable[[str, bytes, bytes], None] = lambda culprit, first, second: None
    """Told of two votes of one validator that exclude each other."""
    regrouped: Callable[[Group], None] = lambda group: None
    """Told when other validators agree from now on."""
    settled: Callable[[], None] = lambda: None
    """Told when a checkpoint has become stable."""
    newcomers: Callable[[], tuple[str, ...]] = lambda: ()
    """Who may follow, since it is about to become a validator. Some may be validators already."""
    listening: Callable[[], None] = lambda: None
    """Told when peers can reach us."""
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    """The wall clock, for the time of proposed blocks."""
    jitter: random.Random = random.Random()  # noqa: RUF009, S311  # waits between dials, not secrets


@dataclass(frozen=True)
class EngineStatus:
    height: int
    epoch: int
    view: int
    active: bool
    """Whether a primary is in office here; false from when one is given up until the next has proven itself."""
    primary: str
    checkpoint: int
    """Height of the last stable checkpoint."""
    transferring: bool
    """Whether it fetches a snapshot, since too much is missing to execute it all."""
    voting: bool
    """False for a node that is no validator of this epoch, or that forgot what it signed and waits for a later one."""
    view_changes: int
    """Since the start."""
    last_view_change_ms: int | None
    """When the view changed last, wall clock."""
    connected: tuple[str, ...]
    """Identities of the peers to which a channel is open."""
    queued: Mapping[str, int]
    """Bytes that wait for each of them."""
    waiting: int
    """Transactions that wait to be ordered."""
    load: Mapping[str, int]
    """Sizes of what peers make us hold."""
    rejections: dict[str, int]
    """How often input from peers was refused, by reason code."""
    not_admitted: dict[str, int]
    """The same for transactions that were handed in here."""


class PbftEngine:
    """Takes part in consensus with `key`, and executes what is agreed on `application`.

    On construction it executes the stored blocks that `application` does not have yet.

    Args:
        genesis: the validators of the first epoch.
        listen: `host:port` to accept channels on.
        timeout_ms: of the first view of an epoch; it doubles from view to view.

    Raises:
        DamagedError: the store and the application contradict each other.
        Refused: `bad_group`.
    """

    def __init__(
        self,
        key: Key,
        genesis: Group,
        application: Application,
        store: Store,
        shell: Shell,
        *,
        listen: str,
        timeout_ms: int = TIMEOUT_MS,
        metrics: EngineMetrics | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._key, self._application, self._store, self._shell = key, application, store, shell
        self._metrics = metrics or EngineMetrics()
        self._admission = admission or Admission()
        self._started_ns = time.monotonic_ns()
        self._inbox = Inbox(self._wake)
        self._events: deque[Event] = deque()
        """From this process, for the next turn."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """While `run` runs."""
        self._ended: asyncio.Future[None] | None = None
        self._scheduled = False
        self._spoke = False
        """Whether this turn has said anything that may leave only when what it saved is on disk."""
        self._ticking: asyncio.TimerHandle | None = None
        self._rested = True
        """Whether no turn was taken since the last look."""
        self._not_admitted: Counter[str] = Counter()
        self._view_changes = 0
        self._last_view_change_ms: int | None = None
        durable = recover(genesis, application, store)
        self._replica = Replica(genesis, key, durable, timeout_ms=timeout_ms)
        self._group = self._replica.group
        previous = self._replica.previous
        self._members = (*(previous.validators if previous else ()), *self._group.validators)
        self._guests: tuple[str, ...] = ()
        self._peers = Peers(key, self._reachable(self._members), listen, self._inbox, self._opened, shell.jitter)
        self._welcome()

    # ---- what the program calls

    def submit(self, transaction: bytes) -> None:
        try:
            self._application.admit(transaction)
            self._admission.take(transaction, self._elapsed_ms())
            self._feed(Submitted(transaction))
        except Refused as refused:
            self._not_admitted[refused.code] += 1
            raise
        self._wake()

    async def run(self) -> None:
        """Takes part until cancelled, then finishes what it began and closes its channels.

        Raises:
            DamagedError: a file is not what was written to it.
            HaltedError: going on could do harm; the message says why.
            ListenError: it cannot be reached.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        channels = self._loop.create_task(self._peers.run(self._shell.listening))
        self._tick_if_idle()
        try:
            await asyncio.wait({channels, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (channels, self._ended):
                if ended.done():
                    await ended
        finally:
            self._loop = None
            if self._ticking is not None:
                self._ticking.cancel()
            with suppress(OSError, sqlite3.Error, StoreError):
                self._store.commit()
            channels.cancel()
            await asyncio.gather(channels, return_exceptions=True)

    @property
    def group(self) -> Group:
        """Of the present epoch."""
        return self._replica.group

    @property
    def members(self) -> tuple[str, ...]:
        """Of the epoch before, if there was one, and of the present one: who is talked to."""
        return self._members

    @property
    def may_leave(self) -> bool:
        """Whether a validator of the epoch before may stop for good."""
        return self._replica.may_leave

    def status(self) -> EngineStatus:
        replica = self._replica
        rejections = dict(Counter(replica.rejections) + self._peers.rejections)
        return EngineStatus(
            height=replica.height,
            epoch=replica.epoch,
            view=replica.view,
            active=replica.active,
            primary=replica.primary,
            checkpoint=replica.stable,
            voting=replica.votes,
            transferring=replica.transferring,
            view_changes=self._view_changes,
            last_view_change_ms=self._last_view_change_ms,
            connected=self._peers.connected,
            queued=self._peers.queued,
            waiting=replica.waiting,
            load=dict(replica.load),
            rejections=rejections,
            not_admitted=dict(self._not_admitted),
        )

    def _reachable(self, identities: Sequence[str]) -> list[Validator]:
        found = [self._shell.directory(identity) for identity in dict.fromkeys(identities)]
        return [validator for validator in found if validator is not None]

    # ---- turns

    def _opened(self, peer: str) -> None:
        self._events.append(Connected(peer))
        self._wake()

    def _wake(self) -> None:
        """A turn follows, once what is ready now has been read."""
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._loop is None or self._over:
            return
        try:
            self._take_turn()
        except Exception as error:  # a mistake here or in the application: to limp on unnoticed would be worse
            self._stop(error)

    def _take_turn(self) -> None:
        began = time.perf_counter()
        self._rested = False
        for peer, frame in self._inbox.take(MAX_FRAMES_PER_TURN):
            self._feed(Received(peer, frame))
        while self._events:
            self._feed(self._events.popleft())
        self._feed(Tick(self._shell.now_ms(), self._elapsed_ms()))
        if self._over:
            return
        self._finish()
        self._metrics.turn_seconds.observe(time.perf_counter() - began)
        if self._inbox or self._replica.has_more_to_do:
            self._wake()

    def _tick_if_idle(self) -> None:
        """Wakes an engine that nothing else has woken since the last time."""
        if self._rested:
            self._wake()
        self._rested = True
        if self._loop is not None:
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick_if_idle)

    def _finish(self) -> None:
        """What the turn saved goes to disk, then what it said leaves. If it only relayed, the disk can wait."""
        if self._spoke:
            began = time.perf_counter()
            if self._store.commit():
                self._metrics.commit_seconds.observe(time.perf_counter() - began)
            self._spoke = False
        else:
            self._store.settle()
        self._peers.flush()

    def _feed(self, event: Event) -> None:
        """Steps through `event` and whatever follows from it on this machine.

        Raises:
            Refused: only for `Submitted`.
        """
        if self._over:
            return
        before, stable = (self._replica.epoch, self._replica.view), self._replica.stable
        effects = self._replica.step(event)
        try:
            events = deque(self._carry_out(effects))
            while events:
                events.extendleft(reversed(self._carry_out(self._replica.step(events.popleft()))))
        except (sqlite3.Error, TallystickError) as error:
            self._stop(error)
        if (self._replica.epoch, self._replica.view) != before:
            self._count_view(before)
        if self._replica.stable != stable:
            self._shell.settled()

    def _count_view(self, before: tuple[int, int]) -> None:
        epoch, view = before
        if self._replica.epoch == epoch and self._replica.view > view:
            self._view_changes += 1
            self._last_view_change_ms = self._shell.now_ms()
            self._metrics.view_changes.inc()

    @property
    def _over(self) -> bool:
        """Whether this engine has stopped by itself, or was told to."""
        return self._ended is not None and self._ended.done()

    def _stop(self, error: Exception) -> None:
        """Nothing is voted or said from here on, not even what waits already; `run` raises `error`."""
        self._peers.fall_silent()
        if self._ended is not None and not self._ended.done():
            what = "the store failed" if isinstance(error, OSError | sqlite3.Error | StoreError) else "a step raised"
            halted = HaltedError(f"{what}: {type(error).__name__}: {error}")
            halted.__cause__ = error
            self._ended.set_exception(error if isinstance(error, DamagedError | HaltedError) else halted)

    def _elapsed_ms(self) -> int:
        return (time.monotonic_ns() - self._started_ns) // 1_000_000

    # ---- effects

    def _carry_out(self, effects: Sequence[Effect]) -> list[Event]:
        """Does what the replica asks for and returns the answers."""
        answers: list[Event] = []
        for effect in effects:
            if isinstance(effect, Send | Broadcast):
                self._spoke = True
            match effect:
                case Send() | Relay():
                    self._peers.send(effect.peer, effect.frame)
                case Broadcast():
                    self._peers.broadcast(effect.frame)
                case Persist():
                    self._store.save(effect.record)
                case Deliver():
                    answers.append(self._execute(effect))
                case Verify():
                    answers.append(verify(self._application, effect))
                case Examine():
                    answers.append(self._examine(effect))
                case ReadBlocks():
                    answers.append(read_blocks(self._store, effect))
                case ReadChunk():
                    answers.append(read_chunk(self._store, effect))
                case ReadBody():
                    answers.append(read_body(self._store, effect))
                case StartTransfer():
                    self._store.start_transfer(effect.proofs, effect.manifest)
                case SaveChunk():
                    self._store.save_chunk(effect.index, effect.data)
                case Restore():
                    answers.append(restore(self._application, self._store, effect))
                case Regroup():
                    self._regroup(effect.group)
                case Accuse():
                    self._shell.accuse(effect.culprit, effect.first, effect.second)
                case Halt():
                    raise HaltedError(effect.reason)
        return answers

    def _execute(self, effect: Deliver) -> Executed:
        """Stores the block, then executes it: if this process dies, the application is not ahead of the store.

        The disk can wait until something is said: a quorum has what it takes to get this block again.
        """
        block, application = effect.block, self._application
        self._store.save_block(
            StoredBlock(block.height, block.digest, block.time_ms, effect.encoded, block.certificate)
        )
        self._store.settle()
        began = time.perf_counter()
        application.execute(block)
        self._metrics.execute_seconds.observe(time.perf_counter() - began)
        self._metrics.transactions.inc(len(block.transactions))
        self._admission.release(block.transactions)
        validators = application.validators()
        outcome = keep_outcome(application, self._store, block.height) if effect.checkpoint else None
        self._welcome()
        change_due = validators != self._group.validators
        return Executed(block.height, application.next_deadline_ms(), change_due, outcome)

    def _examine(self, effect: Examine) -> Examined:
        answer = examine(self._application, effect)
        if effect.again:
            self._admission.release([transaction for transaction, _ in answer.refused])
        return answer

    def _regroup(self, group: Group) -> None:
        before, self._group = self._group, group
        if group != before:
            self._members = (*before.validators, *group.validators)
            self._peers.regroup(self._reachable((*self._members, *self._guests)))
            self._shell.regrouped(group)

    def _welcome(self) -> None:
        """Opens channels to newcomers, so that they have caught up when their epoch begins."""
        guests = tuple(identity for identity in self._shell.newcomers() if identity not in self._members)[:MAX_GUESTS]
        if guests != self._guests:
            self._guests = guests
            self._events.append(Guests(guests))
            self._peers.regroup(self._reachable((*self._members, *guests)))

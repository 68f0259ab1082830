"""The ledger as the application of a consensus engine: executes blocks, keeps the state, wakes who waits for it."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import IDENTITY_BYTES
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.ledger.execute import Executed, execute_block, next_deadline_ms, require_new
from tallystick.ledger.genesis import Genesis, genesis_state
from tallystick.ledger.state import State, dump_state, load_state
from tallystick.network.journal import Journal
from tallystick.network.opened import OpenedTransactions
from tallystick.network.views import TransactionView

T = TypeVar("T")


class Node:
    """One validator's ledger: the current state in memory, its history in the journal."""

    def __init__(self, genesis: Genesis, path: Path) -> None:
        self.journal = Journal(path)
        try:
            self.state: State = self.journal.restore() or genesis_state(genesis)
        except BaseException:
            self.journal.abandon()
            raise
        self._opened = OpenedTransactions(self.state.chain)
        self._woken: set[asyncio.Event] = set()
        self._listeners: list[Callable[[State], None]] = []
        self._closing = False
        self.awaited: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        """Who waits for a transaction, by its hash: with many waiting, a block wakes only those whom it concerns."""

    # ---- what the engine calls (`consensus/port.py`)

    @property
    def height(self) -> int:
        return self.state.height

    def check(self, transaction: bytes) -> None:
        self._opened.open(transaction)

    def admit(self, transaction: bytes) -> None:
        opened = self._opened.open(transaction)
        require_new(self.state.accounts.get(opened.sender), opened)

    def next_deadline_ms(self) -> int | None:
        return next_deadline_ms(self.state)

    def execute(self, block: CommittedBlock) -> None:
        self.keep(self.preview(block))

    def preview(self, block: CommittedBlock, offenses: Sequence[tuple[str, int]] = ()) -> Executed:
        """What executing `block` would give (`execute_block`). Changes nothing."""
        return execute_block(
            self.state,
            height=block.height,
            time_ms=block.time_ms,
            beacon=block.digest,
            transactions=block.transactions,
            read=self._opened.read,
            offenses=offenses,
        )

    def keep(self, executed: Executed) -> None:
        """Makes what `preview` gave the current state."""
        self.journal.append(executed.state, executed.results, executed.events)
        self._show(executed.state)
        for result in executed.results:
            for waiting in self.awaited.get(result.hash, ()):
                waiting.set()

    def validators(self) -> tuple[str, ...]:
        return tuple(validator.identity for validator in self.state.validators)

    def snapshot(self) -> bytes:
        return dump_state(self.state)

    def restore(self, snapshot: bytes) -> None:
        state = load_state(snapshot)
        if state.chain != self.state.chain:
            raise Refused("wrong_chain", f"snapshot: of chain {state.chain}, not of {self.state.chain}")
        self.journal.start_from(state)
        self._show(state)

    def _show(self, state: State) -> None:
        self.state = state
        for event in self._woken:
            event.set()
        for listener in self._listeners:
            listener(state)

    # ---- what the rest of the process calls

    def listen(self, listener: Callable[[State], None]) -> None:
        """Calls `listener` with the state after every block."""
        self._listeners.append(listener)

    async def until(self, ready: Callable[[], Awaitable[T | None]], seconds: float) -> T | None:
        """The first value that `ready` gives, now or after some block, or None when `seconds` have passed."""
        woken = asyncio.Event()
        self._woken.add(woken)
        try:
            value = await ready()
            async with asyncio.timeout(seconds):
                while value is None and not self._closing:
                    await woken.wait()
                    woken.clear()
                    value = await ready()
            return value
        except TimeoutError:
            return None
        finally:
            self._woken.discard(woken)

    def outcome(self, transaction: bytes) -> TransactionView | None:
        """What became of a sealed transaction, if it was executed: from the journal, or from the state, which knows
        the last one of each account even if its block was never executed here."""
        name = blob_name(transaction)
        if (found := self.journal.result(name)) is not None:
            return found
        account = self.state.accounts.get(transaction[:IDENTITY_BYTES].hex())
        if account is None or account.last.hash != name:
            return None
        return TransactionView(name, account.last.height, account.last.code, "")

    async def until_executed(self, name: str, seconds: float) -> None:
        """Waits until the transaction whose hash is `name` is executed, or `seconds` have passed."""
        if self._closing or self.journal.result(name) is not None:
            return
        woken = asyncio.Event()
        self.awaited[name].add(woken)
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            self.awaited[name].discard(woken)
            if not self.awaited[name]:
                del self.awaited[name]

    def let_go(self) -> None:
        """Nobody waits here from now on: this validator stops."""
        self._closing = True
        for woken in self._woken.union(*self.awaited.values()):
            woken.set()

    def close(self) -> None:
        self.journal.close(self.state)

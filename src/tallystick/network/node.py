"""The ledger as the application of a consensus engine: executes blocks, keeps the state, wakes who waits for it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.ledger.execute import execute_block, next_deadline_ms, require_new
from tallystick.ledger.genesis import Genesis, genesis_state
from tallystick.ledger.state import State, dump_state, load_state
from tallystick.network.journal import Journal
from tallystick.network.opened import OpenedTransactions

T = TypeVar("T")


class Node:
    """One validator's ledger: the current state in memory, its history in the journal."""

    def __init__(self, genesis: Genesis, path: Path) -> None:
        self.journal = Journal(path)
        self.state: State = self.journal.restore() or genesis_state(genesis)
        self._opened = OpenedTransactions(self.state.chain)
        self._woken: set[asyncio.Event] = set()
        self._listeners: list[Callable[[State], None]] = []

    # ---- what the engine calls (`consensus/port.py`)

    @property
    def height(self) -> int:
        return self.state.height

    def check(self, transaction: bytes) -> None:
        self._opened.open(transaction)

    def admit(self, transaction: bytes) -> None:
        require_new(self.state, self._opened.open(transaction))

    def next_deadline_ms(self) -> int | None:
        return next_deadline_ms(self.state)

    def execute(self, block: CommittedBlock) -> None:
        executed = execute_block(
            self.state,
            height=block.height,
            time_ms=block.time_ms,
            beacon=block.digest,
            transactions=block.transactions,
            read=self._opened.read,
        )
        self.journal.append(executed.state, executed.results, executed.events)
        self._show(executed.state)

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

    async def until(self, ready: Callable[[], T | None], seconds: float) -> T | None:
        """The first value that `ready` returns after some block, or None when `seconds` have passed."""
        woken = asyncio.Event()
        self._woken.add(woken)
        try:
            async with asyncio.timeout(seconds):
                while (value := ready()) is None:
                    await woken.wait()
                    woken.clear()
                return value
        except TimeoutError:
            return None
        finally:
            self._woken.discard(woken)

    def close(self) -> None:
        self.journal.close(self.state)

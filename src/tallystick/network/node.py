"""The ledger as the application of a consensus engine: executes blocks, keeps the state, wakes who waits for it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tallystick.consensus.port import CommittedBlock
from tallystick.ledger.execute import check_transaction, execute_block, next_deadline_ms
from tallystick.ledger.genesis import Genesis, genesis_state
from tallystick.ledger.state import State, state_digest
from tallystick.network.journal import Journal

T = TypeVar("T")


class Node:
    """One validator's ledger: the current state in memory, its history in the journal."""

    def __init__(self, genesis: Genesis, path: Path) -> None:
        self.journal = Journal(path)
        self.state: State = self.journal.restore() or genesis_state(genesis)
        self._woken: set[asyncio.Event] = set()
        self._listeners: list[Callable[[State], None]] = []

    # ---- what the engine calls (`consensus/port.py`)

    @property
    def height(self) -> int:
        return self.state.height

    def admit(self, transaction: bytes) -> None:
        check_transaction(self.state, transaction)

    def next_deadline_ms(self) -> int | None:
        return next_deadline_ms(self.state)

    def execute(self, block: CommittedBlock) -> bytes:
        executed = execute_block(
            self.state,
            height=block.height,
            time_ms=block.time_ms,
            beacon=block.digest,
            transactions=block.transactions,
        )
        self.journal.append(executed.state, executed.results, executed.events)
        self.state = executed.state
        for event in self._woken:
            event.set()
        for listener in self._listeners:
            listener(self.state)
        return state_digest(self.state)

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

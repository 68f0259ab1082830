"""Transactions that wait to be ordered: first in, first out, bounded, each at most once."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice, takewhile

from tallystick.consensus.pbft.limits import (
    BLOCK_OVERHEAD_BYTES,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    MAX_POOL_BYTES,
    MAX_POOL_TRANSACTIONS,
    MAX_RECENT,
    MAX_RECHECKED,
    MAX_TRANSACTION_BYTES,
    RECHECK_MS,
    RELAY_MS,
    TRANSACTION_OVERHEAD_BYTES,
)
from tallystick.errors import Refused


@dataclass
class Waiting:
    patience_ms: int
    """How long it waits before it is looked at and forwarded again."""
    due_ms: int
    proposed: bool = False
    """Whether a block that is being agreed on holds it."""


@dataclass
class Pool:
    waiting: dict[bytes, Waiting] = field(default_factory=dict)
    """By transaction, in order of arrival."""
    size: int = 0
    """Bytes of all waiting transactions."""
    recent: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """SHA-256 of those committed lately, oldest first: a late forward of one of these is no news. No plain dict, whose
    front is found by passing over all that was deleted there."""
    unshared: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    """Those that only the primary is told of at first, and when everybody is; soonest first."""

    def holds(self, transaction: bytes) -> bool:
        return transaction in self.waiting

    def knows(self, transaction: bytes) -> bool:
        return transaction in self.waiting or sha256(transaction).digest() in self.recent

    def forget(self, transaction: bytes) -> None:
        """That `transaction` was committed lately is not known any more."""
        self.recent.pop(sha256(transaction).digest(), None)

    def add(self, transaction: bytes, now_ms: int, *, ours: bool) -> bool:
        """Queues `transaction`; returns whether it was new.

        Raises:
            Refused: `bad_transaction_size` or `mempool_full`.
        """
        if not 0 < len(transaction) <= MAX_TRANSACTION_BYTES:
            reason = f"transaction of {len(transaction)} bytes, 1 to {MAX_TRANSACTION_BYTES} are admitted"
            raise Refused("bad_transaction_size", reason)
        if self.knows(transaction):
            return False
        if len(self.waiting) >= MAX_POOL_TRANSACTIONS or self.size + len(transaction) > MAX_POOL_BYTES:
            raise Refused("mempool_full", f"{len(self.waiting)} transactions wait already; submit again later")
        patience = RECHECK_MS if ours else RELAY_MS
        self.waiting[transaction] = Waiting(patience, now_ms + patience)
        self.size += len(transaction)
        return True

    def front(self) -> list[bytes]:
        """The oldest transactions that fit one block and are in none that is being agreed on."""
        chosen: list[bytes] = []
        room = MAX_BLOCK_BYTES - BLOCK_OVERHEAD_BYTES
        for transaction, entry in self.waiting.items():
            if entry.proposed:
                continue
            room -= len(transaction) + TRANSACTION_OVERHEAD_BYTES
            if room < 0 or len(chosen) == MAX_BLOCK_TRANSACTIONS:
                break
            chosen.append(transaction)
        return chosen

    def propose(self, transactions: Iterable[bytes]) -> None:
        """A block that is being agreed on holds these."""
        for transaction in transactions:
            entry = self.waiting.get(transaction)
            if entry is not None:
                entry.proposed = True

    def give_back(self) -> None:
        """A view ended: what its blocks held waits again, until it is known what the next view takes over."""
        for entry in self.waiting.values():
            entry.proposed = False

    def share(self, now_ms: int) -> list[bytes]:
        """Those that everybody is to be told of now."""
        due = list(takewhile(lambda transaction: self.unshared[transaction] <= now_ms, self.unshared))
        for transaction in due:
            del self.unshared[transaction]
        return due

    @property
    def oldest(self) -> bytes:
        """The transaction that has waited longest; empty if none waits."""
        return next(iter(self.waiting), b"")

    def committed(self, transactions: Iterable[bytes]) -> None:
        for transaction in transactions:
            self.drop(transaction)
            self.recent[sha256(transaction).digest()] = None
        while len(self.recent) > MAX_RECENT:
            self.recent.popitem(last=False)

    def drop(self, transaction: bytes) -> None:
        if self.waiting.pop(transaction, None) is not None:
            self.size -= len(transaction)
            self.unshared.pop(transaction, None)

    def overdue(self, now_ms: int) -> tuple[bytes, ...]:
        """The oldest transactions whose patience has run out; each is not overdue again for as long."""
        late = list(islice(((t, e) for t, e in self.waiting.items() if e.due_ms <= now_ms), MAX_RECHECKED))
        for _, entry in late:
            entry.due_ms = now_ms + entry.patience_ms
        return tuple(transaction for transaction, _ in late)

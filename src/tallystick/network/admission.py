"""Which transactions of clients may take a place in the pool: so many a second, and so many at a time, for each sender.

Whoever signs counts, not the address that a request came from: a signature cannot be borrowed, and an account costs
money. The check comes after the one of the signature, so that nobody can use up the share of another.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tallystick.canon.identity import IDENTITY_BYTES
from tallystick.errors import Refused

PER_SECOND: Final = 2_000.0
BURST: Final = 4_000.0
MAX_HELD: Final = 5_000
"""Transactions of one sender that wait at a time: a quarter of the pool."""
HELD_MS: Final = 60_000
"""After this time a transaction that was never executed counts no longer."""
MAX_SENDERS: Final = 65_536
"""Senders remembered. One that is forgotten starts with a full bucket again."""


@dataclass
class _Account:
    tokens: float
    since_ms: int
    held: int = 0


class Admission:
    """Token bucket and share of the pool for each sender."""

    def __init__(self, per_second: float = PER_SECOND, burst: float = BURST, held: int = MAX_HELD) -> None:
        self._per_ms, self._burst, self._most_held = per_second / 1000, burst, held
        self._senders: OrderedDict[bytes, _Account] = OrderedDict()
        self._waiting: dict[bytes, bytes] = {}
        """Sender by hash of its transaction."""
        self._times: deque[tuple[int, bytes]] = deque()

    def take(self, transaction: bytes, now_ms: int) -> None:
        """Counts a checked transaction against its sender.

        Raises:
            Refused: `rate_limited` or `pool_share`.
        """
        self._expire(now_ms)
        name, sender = sha256(transaction).digest(), transaction[:IDENTITY_BYTES]
        if name in self._waiting:
            return
        account = self._account(sender, now_ms)
        if account.tokens < 1:
            raise Refused("rate_limited", f"{sender.hex()[:12]}: over {self._per_ms * 1000:.0f} transactions a second")
        if account.held >= self._most_held:
            reason = f"{sender.hex()[:12]}: {account.held} of its transactions wait already; submit again later"
            raise Refused("pool_share", reason)
        account.tokens -= 1
        account.held += 1
        self._waiting[name] = sender
        self._times.append((now_ms, name))

    def release(self, transactions: Iterable[bytes]) -> None:
        """These wait no longer."""
        if self._waiting:
            for transaction in transactions:
                self._release(sha256(transaction).digest())

    def _account(self, sender: bytes, now_ms: int) -> _Account:
        account = self._senders.get(sender)
        if account is None:
            account = self._senders[sender] = _Account(self._burst, now_ms)
            if len(self._senders) > MAX_SENDERS:
                self._senders.popitem(last=False)
        self._senders.move_to_end(sender)
        account.tokens = min(self._burst, account.tokens + (now_ms - account.since_ms) * self._per_ms)
        account.since_ms = now_ms
        return account

    def _release(self, name: bytes) -> None:
        sender = self._waiting.pop(name, None)
        if sender is not None and (account := self._senders.get(sender)) is not None:
            account.held = max(0, account.held - 1)

    def _expire(self, now_ms: int) -> None:
        while self._times and self._times[0][0] + HELD_MS <= now_ms:
            self._release(self._times.popleft()[1])

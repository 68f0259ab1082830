"""Which transactions of clients may take a place in the pool: so many a second, and so many and so large at a time, for
each sender.

Whoever signs counts, not the address that a request came from: a signature cannot be borrowed, and an account costs
money. The check comes after the one of the signature, so that nobody can use up the share of another.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tallystick.canon.identity import IDENTITY_BYTES
from tallystick.consensus.pbft.limits import MAX_POOL_BYTES, MAX_POOL_TRANSACTIONS
from tallystick.errors import Refused

PER_SECOND: Final = 2_000.0
BURST: Final = 4_000.0
MAX_HELD: Final = MAX_POOL_TRANSACTIONS // 4
"""Transactions of one sender that wait at a time."""
MAX_HELD_BYTES: Final = MAX_POOL_BYTES // 4
"""Of these, together: some hundred large ones fill a pool as well as many small ones."""
HELD_MS: Final = 60_000
"""After this time a transaction that was never executed counts no longer."""
MAX_SENDERS: Final = 65_536
"""Senders whose rate is remembered. One that is forgotten starts with a full bucket again."""


@dataclass
class _Bucket:
    tokens: float
    since_ms: int


@dataclass
class _Share:
    """What waits of one sender; kept only while something does."""

    count: int = 0
    size: int = 0


@dataclass(frozen=True)
class _Place:
    sender: bytes
    size: int
    since_ms: int


class Admission:
    """Token bucket and share of the pool for each sender."""

    def __init__(
        self,
        per_second: float = PER_SECOND,
        burst: float = BURST,
        held: int = MAX_HELD,
        held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self._per_ms, self._burst = per_second / 1000, burst
        self._most_held, self._most_bytes = held, held_bytes
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._shares: dict[bytes, _Share] = {}
        self._waiting: OrderedDict[bytes, _Place] = OrderedDict()
        """By hash of the transaction, in order of arrival."""

    def take(self, transaction: bytes, now_ms: int) -> None:
        """Counts a checked transaction against its sender.

        Raises:
            Refused: `rate_limited` or `pool_share`.
        """
        self._expire(now_ms)
        name, sender, size = sha256(transaction).digest(), transaction[:IDENTITY_BYTES], len(transaction)
        if name in self._waiting:
            return
        bucket = self._bucket(sender, now_ms)
        if bucket.tokens < 1:
            raise Refused("rate_limited", f"{sender.hex()[:12]}: over {self._per_ms * 1000:.0f} transactions a second")
        share = self._shares.get(sender) or _Share()
        if share.count >= self._most_held or share.size + size > self._most_bytes:
            waiting = f"{share.count} of its transactions wait already, {share.size} bytes"
            most = f"a sender has {self._most_held} places and {self._most_bytes} bytes"
            raise Refused("pool_share", f"{sender.hex()[:12]}: {waiting}; {most}; submit again later")
        bucket.tokens -= 1
        share.count += 1
        share.size += size
        self._shares[sender] = share
        self._waiting[name] = _Place(sender, size, now_ms)

    def release(self, transactions: Iterable[bytes]) -> None:
        """These wait no longer."""
        if self._waiting:
            for transaction in transactions:
                self._release(sha256(transaction).digest())

    def _bucket(self, sender: bytes, now_ms: int) -> _Bucket:
        bucket = self._buckets.get(sender)
        if bucket is None:
            bucket = self._buckets[sender] = _Bucket(self._burst, now_ms)
            if len(self._buckets) > MAX_SENDERS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(sender)
        bucket.tokens = min(self._burst, bucket.tokens + (now_ms - bucket.since_ms) * self._per_ms)
        bucket.since_ms = now_ms
        return bucket

    def _release(self, name: bytes) -> None:
        place = self._waiting.pop(name, None)
        if place is None:
            return
        share = self._shares[place.sender]
        share.count -= 1
        share.size -= place.size
        if not share.count:
            del self._shares[place.sender]

    def _expire(self, now_ms: int) -> None:
        while self._waiting:
            name, place = next(iter(self._waiting.items()))
            if place.since_ms + HELD_MS > now_ms:
                return
            self._release(name)

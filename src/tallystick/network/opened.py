"""Transactions opened lately: one that is submitted, proposed and executed is verified and parsed once, not thrice."""

from collections import OrderedDict
from typing import Final

from tallystick.ledger.transactions import SignedTransaction, open_transaction, read_transaction

MAX_BYTES: Final = 32 * 2**20
"""Of sealed transactions and ENTRY_BYTES for each: about 40,000 small ones. What they are parsed into takes up to
four times as much."""
ENTRY_BYTES: Final = 512


class OpenedTransactions:
    """Remembers those of one chain whose signature held, the newest within MAX_BYTES."""

    def __init__(self, chain: str, max_bytes: int = MAX_BYTES) -> None:
        self._chain, self._room = chain, max_bytes
        self._entries: OrderedDict[bytes, SignedTransaction] = OrderedDict()
        """Oldest first; see `Journal` for why no plain dict."""

    def open(self, raw: bytes) -> SignedTransaction:
        """`open_transaction`, with its refusals, which are not remembered."""
        found = self._entries.get(raw)
        if found is None:
            found = self._entries[raw] = open_transaction(raw, self._chain)
            self._room -= len(raw) + ENTRY_BYTES
            while self._room < 0:
                oldest, _ = self._entries.popitem(last=False)
                self._room += len(oldest) + ENTRY_BYTES
        return found

    def read(self, raw: bytes) -> SignedTransaction:
        """`read_transaction`, for the blocks that were committed."""
        return self._entries.get(raw) or read_transaction(raw)

"""The port between an engine that orders transactions and the application that executes them.

An engine (the embedded PBFT, or an adapter to another system) calls an `Application`; everything else in the program
sees the engine only as `Engine`. Neither side knows more of the other than is written here.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class CommittedBlock:
    """A block that can never be taken back."""

    height: int
    """1 for the first block after genesis."""
    time_ms: int
    """Agreed time, milliseconds since the Unix epoch; never decreases from block to block."""
    digest: bytes
    """Names the block and, through its parent, all before it. Not known to anyone before the block was proposed."""
    transactions: tuple[bytes, ...]
    """Sealed transactions in the agreed order; well-formed but possibly refused by the rules."""
    certificate: bytes
    """What convinces a third party that a quorum committed this block."""


class Rules(Protocol):
    """Which transactions an application lets pass."""

    def check(self, transaction: bytes) -> None:
        """Checks what does not depend on the state: size, form, signature, chain. Every honest validator gives the
        same answer at any time.

        Raises:
            Refused
        """

    def admit(self, transaction: bytes) -> None:
        """`check`, and against the current state, before a transaction may take memory.

        Raises:
            Refused: with the reason code that the sender is shown.
        """


class Application(Rules, Protocol):
    """What an engine needs from the program whose transactions it orders. Called from one thread, never re-entered.

    A validator calls `check` for each transaction of a block before it votes for the block. So a committed block holds
    only transactions that a quorum has checked, and `execute` does not verify signatures again.
    """

    @property
    def height(self) -> int:
        """Height of the last executed block; 0 before the first."""

    def next_deadline_ms(self) -> int | None:
        """When a block is due even if there is no transaction, in agreed time; None if never."""

    def execute(self, block: CommittedBlock) -> None:
        """Applies `block`. Heights come in order, once. What is lost in a crash is told by `height` at the next start,
        and the engine hands in those blocks again."""

    def validators(self) -> tuple[str, ...]:
        """Identities, in order, of those that should agree on the blocks after the next checkpoint."""

    def snapshot(self) -> bytes:
        """The state after the last executed block, in canonical bytes: the same on every honest validator."""

    def restore(self, snapshot: bytes) -> None:
        """Replaces the state, durably, by a snapshot that the engine has checked against a certificate.

        Raises:
            Refused: it is not a snapshot of this chain.
        """


class Engine(Protocol):
    """What the program needs from whatever orders its transactions."""

    def submit(self, transaction: bytes) -> None:
        """Admits a transaction and sees to it that the primary learns of it.

        Raises:
            Refused: what `Application.admit` raised, or `mempool_full`.
        """

    async def run(self) -> None:
        """Takes part in consensus until cancelled; executes committed blocks on the application."""

"""What the adapter needs of the ledger, and of the place where snapshots are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tallystick.consensus.port import CommittedBlock


class Offense(NamedTuple):
    """A validator has signed two votes that exclude each other, and CometBFT has proven it."""

    identity: str
    height: int


@dataclass(frozen=True)
class Result:
    """What became of one transaction."""

    code: str
    """`ok`, or why the rules refused it."""
    reason: str


@dataclass(frozen=True)
class Notice:
    """Something that happened, for whoever watches the chain."""

    kind: str
    attributes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Outcome:
    """What executing a block gives. The same on every node, except for reasons."""

    digest: bytes
    """`snapshots.app_hash` of the state after it."""
    results: tuple[Result, ...]
    """One for each transaction, in order."""
    notices: tuple[Notice, ...]
    validators: tuple[str, ...]
    """Identities of the validators after it."""


class Ledger(Protocol):
    """The application proper. Called from one thread, never re-entered."""

    @property
    def chain(self) -> str:
        """The chain id that transactions are signed for; ends in a hash of the genesis document."""

    @property
    def genesis_ms(self) -> int:
        """Agreed time before the first block."""

    @property
    def height(self) -> int:
        """Of the last committed block; 0 before the first."""

    @property
    def time_ms(self) -> int:
        """Agreed time of the last committed block, or of genesis."""

    @property
    def digest(self) -> bytes:
        """`snapshots.app_hash` of the last committed state."""

    def validators(self) -> tuple[str, ...]:
        """Identities of the validators in the last committed state."""

    def answerable(self) -> tuple[str, ...]:
        """Identities that answer for what they signed: the validators, those that have left not long ago, and what
        any of these were called before."""

    def check(self, transaction: bytes) -> None:
        """What can be said of a transaction without any state: its size, form and signature.

        Raises:
            Refused
        """

    def admit(self, transaction: bytes) -> None:
        """`check`, and what the last committed state says of it.

        Raises:
            Refused
        """

    def finalize(self, block: CommittedBlock, offenses: Sequence[Offense]) -> Outcome:
        """Executes `block` on the last committed state and remembers what it gave, in place of an earlier one that was
        not committed. Nothing is kept on disk: a process that dies here is asked again.

        Args:
            offenses: proven double votes, to be slashed for before the transactions.
        """

    def commit(self) -> None:
        """Makes what the last `finalize` gave the committed state."""

    def snapshot(self) -> bytes:
        """The last committed state, which is on disk when this returns: a restart never finds an older one."""

    def restore(self, data: bytes) -> None:
        """Replaces the state by a snapshot with the agreed digest, on disk when this returns.

        Raises:
            Refused: this version cannot read it; nothing has changed.
        """

    def query(self, path: str, data: bytes) -> bytes:
        """Answers a question about the last committed state.

        Raises:
            Refused
        """


class Shelf(Protocol):
    """Where snapshots lie until other nodes have fetched them."""

    def heights(self) -> Sequence[int]:
        """Of the snapshots that are there, in ascending order."""

    def load(self, height: int) -> bytes | None:
        """A snapshot; None if there is none of that height, or it is damaged."""

    def save(self, height: int, data: bytes) -> None:
        """Keeps a snapshot; may drop older ones."""

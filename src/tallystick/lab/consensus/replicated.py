"""What the simulator asks of the application that the cluster replicates, beyond the port of `consensus/port.py`."""

from dataclasses import dataclass
from typing import Protocol

from tallystick.consensus.port import CommittedBlock


@dataclass(frozen=True)
class Reply:
    """What a client is told, by every validator alike, of its request."""

    client: str
    number: int
    result: str


NOTHING_NEW = frozenset({"gap", "stale"})
"""Results of a request that changes nothing, because of its number."""


class Replicated(Protocol):
    @property
    def height(self) -> int:
        """Of the last executed block."""

    @property
    def history(self) -> bytes:
        """Names all that was executed so far, or all that came of it: equal at equal heights."""

    def check(self, transaction: bytes) -> None: ...

    def admit(self, transaction: bytes) -> None:
        """Raises `Refused`, with the code `stale` for what is executed already."""

    def next_deadline_ms(self) -> int | None: ...

    def validators(self) -> tuple[str, ...]: ...

    def execute(self, block: CommittedBlock) -> list[Reply]: ...

    def snapshot(self) -> bytes: ...

    def restore(self, snapshot: bytes) -> None: ...

    def last(self, client: str) -> Reply | None:
        """What became of the last executed request of a client."""

    def miscounted(self) -> str:
        """What is wrong with the money; empty if it is all there."""

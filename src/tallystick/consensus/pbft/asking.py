"""Whom to ask for blocks and snapshots that we miss, and how long to wait for the answer.

Who did not answer in time is asked last for a while. If more than `f` validators were late, one of them is honest and
it may be our own line that is slow: we wait twice as long then, and half as long for each answer that comes in time.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.limits import FETCH_TIMEOUT_MS, MAX_FETCH_DOUBLINGS, SILENT_MS


@dataclass
class Asking:
    silent: dict[str, int] = field(default_factory=dict)
    """Until when peers are asked last that did not answer in time, whatever we ask for: a chain that is quick to its
    next checkpoint would else have us begin with the same ones for each."""
    slow: set[str] = field(default_factory=set)
    """Who was late since its last answer in time, and since we last became more patient."""
    doublings: int = 0
    """How often more than `f` peers were late, less the answers that came in time."""

    @property
    def timeout_ms(self) -> int:
        """How long a peer may take to answer before another one is asked: whatever the speed of the network, some
        answer comes in time."""
        return FETCH_TIMEOUT_MS << self.doublings

    def quick(self, peers: Sequence[str], now_ms: int) -> list[str]:
        """Those of `peers` that were not silent lately."""
        return [peer for peer in peers if self.silent.get(peer, 0) <= now_ms]

    def was_late(self, peer: str, now_ms: int, group: Group) -> None:
        self.silent[peer] = now_ms + SILENT_MS
        self.slow.add(peer)
        if len(self.slow.intersection(group.validators)) > group.faults:
            self.slow.clear()
            self.doublings = min(self.doublings + 1, MAX_FETCH_DOUBLINGS)

    def helped(self, peer: str, *, in_time: bool) -> None:
        """`peer` sent something that we wanted."""
        self.silent.pop(peer, None)
        if in_time:
            self.slow.discard(peer)
            self.doublings = max(0, self.doublings - 1)

    def regroup(self, peers: Container[str]) -> None:
        """Forgets everybody who is not among `peers` any more."""
        self.silent = {peer: until for peer, until in self.silent.items() if peer in peers}
        self.slow.clear()

"""Clients: honest ones that must be served, exactly once and truthfully; and hostile ones that must not matter."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from tallystick.canon.identity import Key
from tallystick.canon.quorum import faults
from tallystick.errors import Refused
from tallystick.lab.consensus.application import AHEAD, MAX_REQUEST_BYTES, Membership, Transfer
from tallystick.lab.consensus.replicated import Reply

if TYPE_CHECKING:
    from tallystick.lab.consensus.cluster import Cluster, Wish
    from tallystick.lab.consensus.node import Node

RETRY_MS: Final = 700
"""A client asks again, and everybody, until it is answered: a node that dies forgets what waits."""


class Client:
    """One request at a time. It asks one node at first, and all of them when it has waited."""

    def __init__(self, cluster: "Cluster", name: str, wishes: "list[Wish]") -> None:
        self.cluster = cluster
        self.key = cluster.key(name)
        self.wishes = wishes
        self.accepted: dict[int, str] = {}
        """What it believes became of each request, by number."""
        self.replaced_before = 0
        """Primaries that had been replaced when it asked, or when the healing began."""
        self.pending: bytes = b""
        self.number = 0
        self._voices: Counter[str] = Counter()
        self._heard: set[str] = set()
        self._random = cluster.world.random(name)

    @property
    def next_number(self) -> int:
        """Of a further wish."""
        return 1 + max([self.number, *(wish.number for wish in self.wishes)])

    @property
    def done(self) -> bool:
        return not self.pending and not self.wishes

    def next(self) -> None:
        if self.pending or not self.wishes:
            return
        wish = self.wishes.pop(0)
        self.number = wish.number
        self._voices.clear()
        self._heard.clear()
        self.pending = self.cluster.sign(self.key, wish)
        self.replaced_before = len(self.cluster.watch.replaced)
        self._ask([self._random.choice(self.cluster.contacts())], self.pending)
        self.cluster.world.later(RETRY_MS, self._again, self.number)

    def _again(self, number: int) -> None:
        if self.pending and number == self.number:
            self._ask(self.cluster.contacts(), self.pending)
            self.cluster.world.later(RETRY_MS, self._again, number)

    def _ask(self, nodes: "list[Node]", request: bytes) -> None:
        for node in nodes:
            try:
                node.submit(request)
            except Refused as refused:
                if refused.code == "stale":
                    self._told(node)

    def _told(self, node: "Node") -> None:
        """The request is executed there already: the node answers from the replies that it keeps with its state."""
        last = node.app.last(self.key.identity)
        if last is not None and last.number == self.number:
            self.hear(node.key.identity, last)

    def hear(self, validator: str, reply: Reply) -> None:
        """Accepts what f + 1 validators say alike: one of them is honest."""
        if not self.pending or reply.number != self.number or validator in self._heard:
            return
        if validator not in self.cluster.validators:
            return
        self._heard.add(validator)
        self._voices[reply.result] += 1
        if self._voices[reply.result] <= faults(len(self.cluster.validators)):
            return
        self.cluster.watch.accepted(self, reply)
        self.accepted[reply.number] = reply.result
        self.pending = b""
        self.cluster.world.later(self._random.randint(0, self.cluster.plan.think_ms), self.next)


# ---- hostile

Nuisance = Callable[["Mischief"], None]


@dataclass
class Mischief:
    """A client that does one kind of harm, again and again, until the healing."""

    cluster: "Cluster"
    key: Key
    random: Random
    number: int = 1
    sent: list[bytes] = field(default_factory=list)

    def say(self, transaction: bytes, nodes: "list[Node]") -> None:
        for node in nodes:
            try:
                node.submit(transaction)
            except Refused:
                self.cluster.refusals += 1

    def request(self, number: int, note: bytes = b"") -> bytes:
        return self.cluster.sign(self.key, Transfer(number, self.key.identity, 1, note))

    def anybody(self) -> "list[Node]":
        return self.cluster.contacts()

    @property
    def next_number(self) -> int:
        told = [node.app.last(self.key.identity) for node in self.cluster.nodes if node.up]
        return 1 + max((last.number for last in told if last is not None), default=0)


def unsigned(it: Mischief) -> None:
    whole = it.request(it.next_number)
    flipped = bytearray(whole)
    flipped[it.random.randrange(32, 96)] ^= 1
    it.say(bytes(flipped), it.anybody())


def malformed(it: Mischief) -> None:
    it.say(it.random.randbytes(it.random.choice((0, 1, 95, 97, 200))), it.anybody())


def huge(it: Mischief) -> None:
    it.say(it.request(it.next_number, bytes(MAX_REQUEST_BYTES)), it.anybody())
    it.say(bytes(100_000), it.anybody()[:1])


def stale(it: Mischief) -> None:
    """Numbers of long ago, and one request many times over."""
    whole = it.request(it.next_number)
    for _ in range(3):
        it.say(whole, it.anybody())
    if it.sent:
        it.say(it.random.choice(it.sent), it.anybody())
    it.sent.append(whole)


def two_faced(it: Mischief) -> None:
    """Different requests under one number, to different nodes."""
    number = it.next_number
    for node in it.anybody():
        it.say(it.request(number, it.random.choice((b"a", b"b"))), [node])


def at_some(it: Mischief) -> None:
    """Numbers that only some nodes admit yet."""
    for ahead in range(AHEAD + 2):
        it.say(it.request(it.next_number + ahead), [it.random.choice(it.anybody())])


def flood(it: Mischief) -> None:
    for _ in range(5):
        it.say(it.request(it.next_number + it.random.randint(0, AHEAD), it.random.randbytes(8)), it.anybody()[:2])


def impostor(it: Mischief) -> None:
    """Would change the validators without being the operator."""
    wish = Membership(it.next_number, it.random.choice(it.cluster.validators), it.key.identity)
    it.say(it.cluster.sign(it.key, wish), it.anybody())


NUISANCES: dict[str, Nuisance] = {
    function.__name__: function for function in (unsigned, malformed, huge, stale, two_faced, at_some, flood, impostor)
}

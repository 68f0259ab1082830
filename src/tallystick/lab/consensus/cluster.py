"""The cluster of one run: nodes, network and clients, wired together as a plan says."""

import functools
from collections.abc import Sequence
from typing import Final

from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.consensus.pbft.group import Group
from tallystick.lab.consensus.application import Application, Request, Transfer, sign_request
from tallystick.lab.consensus.byzantine import ATTACKS
from tallystick.lab.consensus.clients import Client, Mischief
from tallystick.lab.consensus.faulty import APPLICATIONS, LEDGERS
from tallystick.lab.consensus.invariants import Watch
from tallystick.lab.consensus.ledger import LedgerApplication, Order, first_state, instead_of, open_task
from tallystick.lab.consensus.ledger import sign as sign_order
from tallystick.lab.consensus.network import Network
from tallystick.lab.consensus.node import Habits, Node
from tallystick.lab.consensus.owners import Owners, witness
from tallystick.lab.consensus.plan import Plan
from tallystick.lab.consensus.replicated import Replicated, Reply
from tallystick.lab.consensus.signatures import chain_of, key_of
from tallystick.lab.consensus.world import World
from tallystick.ledger.state import State

OPERATOR: Final = "operator"
RECONNECT_MS: Final = 15

Wish = Request | Order
"""What a client may ask for."""


class Cluster:
    def __init__(self, plan: Plan, *, story: bool = False) -> None:
        self.plan = plan
        self.world = World(plan.seed, story=story)
        self.crashes = 0
        self.refusals = 0
        names = tuple(self.key(f"validator {i}").identity for i in range(plan.n))
        self.genesis = Group(chain_of(real=plan.real), names, parameters=plan.parameters)
        self.validators = names
        """Those that agree now, as far as any honest node knows."""
        self._epoch = 0
        self.watch = Watch(self)
        self.watch.groups[0] = self.genesis
        self.network = Network(self.world, plan.weather, self._arrive)
        self._shell = self.world.random("shell")
        self.nodes: list[Node] = []
        self.indices: dict[str, tuple[int, ...]] = {}
        faulty = dict(plan.attacks)
        for i in range(plan.nodes):
            self._add(self.key(f"validator {i}"), faulty.get(i))
        for i, attack in plan.attacks:
            if attack == "twin":
                self._add(self.nodes[i].key, "twin")
        self._split_twins()
        self.clients = self._make_clients()
        self.mischief = [
            Mischief(self, self.key(f"hostile {name}"), self.world.random(f"hostile {name}")) for name in plan.nuisances
        ]
        self.operator = Client(self, OPERATOR, [])
        self.owners = Owners(self) if plan.ledger else None
        self.people = [*self.clients, self.operator, *(self.owners.clients if self.owners else ())]
        """All who must be served."""

    # ---- making

    def key(self, name: str) -> Key:
        return key_of(name, real=self.plan.real)

    def new_application(self, node: Node | None = None) -> Replicated:
        fault = "" if node is None or node.honest else dict(self.plan.attacks).get(node.index, "")
        if self.plan.ledger:
            return LEDGERS.get(fault, LedgerApplication)(self._first_state)
        return APPLICATIONS.get(fault, Application)(
            self.genesis.chain,
            self.key(OPERATOR).identity,
            self.genesis.validators,
            heartbeat_ms=self.plan.heartbeat_ms,
        )

    @functools.cached_property
    def _first_state(self) -> State:
        plan = self.plan
        people = [f"client {i}" for i in range(plan.clients)] + [f"hostile {name}" for name in plan.nuisances]
        people += [OPERATOR, *(witness(i) for i in range(plan.nodes))]
        later = [self.key(f"validator {i}").identity for i in range(plan.n, plan.nodes)]
        return first_state(self.genesis.chain, self.genesis.validators, later, [self.key(n).identity for n in people])

    @functools.cached_property
    def _first_task(self) -> str:
        """What the first client asks for first."""
        return blob_name(self.sign(self.key("client 0"), open_task(1)))

    def sign(self, key: Key, wish: Wish) -> bytes:
        if self.plan.ledger:
            return sign_order(key, self.genesis.chain, wish)
        assert not isinstance(wish, Order), "the small application knows no orders"
        return sign_request(key, self.genesis.chain, wish)

    def _add(self, key: Key, attack: str | None) -> None:
        index = len(self.nodes)
        trouble, random = self.plan.trouble, self.world.random(f"machine {index}")
        crash = trouble.crash if attack is None else trouble.crash / 2
        if attack == "amnesiac":
            crash = max(crash, 0.02)
        habits = Habits(self.plan.tick_ms, random.randint(*trouble.sync_ms), crash)
        node = Node(self, index, key, habits, honest=attack is None)
        node.skew_ms = random.randint(-trouble.skew_ms, trouble.skew_ms)
        node.disk.kept_blocks = self.plan.kept_blocks
        if attack is not None:
            node.tamper = ATTACKS[attack](self.world.random(f"attack {index}"))
            node.haste = 20 if attack == "hasty" else 1
            node.forgetful = attack == "amnesiac"
        self.nodes.append(node)
        self.indices[key.identity] = (*self.indices.get(key.identity, ()), index)

    def _split_twins(self) -> None:
        """Each of two twins talks with a part of the others; all first twins with the same part."""
        random = self.world.random("twins")
        pairs = [pair for pair in self.indices.values() if len(pair) == 2]
        if not pairs:
            return
        first, second = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
        others = [i for i in range(len(self.nodes)) if i not in first | second]
        random.shuffle(others)
        half = len(others) // 2
        both = set(random.sample(others, random.choice((0, 0, 1))))
        for nodes, side in ((first, set(others[:half])), (second, set(others[half:]))):
            for i in nodes:
                self.nodes[i].reach = frozenset(side | both | nodes - {i})

    def _make_clients(self) -> list[Client]:
        random = self.world.random("wishes")
        names = [self.key(f"client {i}").identity for i in range(self.plan.clients)]
        wishes: list[list[Wish]] = [[] for _ in names]
        for i in range(self.plan.requests):
            mine = wishes[i % len(wishes)]
            wish = Transfer(len(mine) + 1, random.choice(names), random.choice((1, 5, 100, 5_000)))
            mine.append(instead_of(wish, i, self._first_task) if self.plan.ledger else wish)
        return [Client(self, f"client {i}", mine) for i, mine in enumerate(wishes)]

    # ---- what nodes need

    def reply(self, node: Node, reply: Reply) -> None:
        for client in self.people:
            if client.key.identity == reply.client and client.pending:
                self.world.later(1, client.hear, node.key.identity, reply)

    def contacts(self) -> list[Node]:
        """Nodes of the validators that a client knows."""
        return [self.nodes[i] for identity in self.validators for i in self.indices[identity]]

    def regrouped(self, node: Node, group: Group) -> None:
        self.watch.regrouped(node, group)
        if not node.honest:
            return
        if group.epoch > self._epoch:
            self._epoch, self.validators = group.epoch, group.validators
        self.meet(node.index, group.validators)

    def meet(self, index: int, identities: Sequence[str]) -> None:
        """A node opens channels to these."""
        for identity in identities:
            for other in self.indices[identity]:
                if other != index and self.nodes[other].up:
                    self._greet(index, other)

    def connect(self, index: int) -> None:
        """A node that has just started finds its peers, and they find it."""
        for other in self.nodes:
            if other.index != index and other.up and other.key is not self.nodes[index].key:
                self._greet(index, other.index)
                self._greet(other.index, index)

    def reconnect(self, links: list[tuple[int, int]]) -> None:
        for source, target in links:
            self._greet(source, target)

    def _greet(self, index: int, peer: int) -> None:
        """Tells a node, in a moment, that its channel to a peer is open."""
        self.world.later(1 + self._shell.randrange(RECONNECT_MS), self._connected, index, peer)

    def _connected(self, index: int, peer: int) -> None:
        node, other = self.nodes[index], self.nodes[peer]
        if node.up and other.up and self.network.reaches(index, peer) and self.network.reaches(peer, index):
            node.connected(other.key.identity)

    def _arrive(self, source: int, target: int, frame: bytes) -> None:
        node, sender, world = self.nodes[target], self.nodes[source], self.world
        if node.replica is None or (node.reach is not None and source not in node.reach):
            return
        world.trace(world.now.to_bytes(4, "big") + bytes((source, target)) + frame)
        if world.story is not None:
            self.watch.heard(sender, node, frame)
        node.receive(sender.key.identity, frame)

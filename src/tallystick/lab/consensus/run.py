"""One run of one seed: chaos, then healing, and the verdict.

During the chaos only safety is asked for. Then the network is mended and honest nodes stay up, while faulty ones go on
as before, and within a fixed virtual time everything that is pending must be executed everywhere. If it is not, the
verdict says what was missing.
"""

import time
from dataclasses import dataclass
from typing import Final

from tallystick.canon.quorum import quorum
from tallystick.lab.consensus.application import Transfer
from tallystick.lab.consensus.chaos import Chaos
from tallystick.lab.consensus.cluster import Cluster
from tallystick.lab.consensus.node import Node
from tallystick.lab.consensus.plan import Plan
from tallystick.lab.consensus.signatures import laboratory
from tallystick.lab.consensus.world import Violation

HEALING_TIMEOUTS: Final = 240
"""Base timeouts that the healing may take. Timers may stand at 2^5 times the base when it begins, f faulty primaries
may come one after another, and blocks of a slow one take a timeout each."""
QUIET_TIMEOUTS: Final = 3
QUIET_EVERY: Final = 4
"""Every so many seeds the quiet after the healing is looked at."""
FRESH_REQUESTS: Final = 2
"""New requests of each client after the healing has begun."""


@dataclass(frozen=True)
class Verdict:
    seed: int
    n: int
    ledger: bool = False
    """Whether it was the real ledger."""
    failure: str = ""
    """Empty if all is well; otherwise what is wrong, in one line."""
    invariant: int = 0
    """The number of the one that does not hold; 0 if none or unknown."""
    trace: str = ""
    seconds: float = 0.0
    """Of the processor."""
    events: int = 0
    blocks: int = 0
    epochs: int = 0
    views: int = 0
    crashes: int = 0
    transfers: int = 0
    accused: int = 0
    healing_ms: int = 0
    features: tuple[str, ...] = ()
    story: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failure


def run(plan: Plan, *, story: bool = False) -> Verdict:
    started = time.process_time()
    with laboratory(real=plan.real, chunk_bytes=plan.chunk_bytes, block_requests=plan.block_requests):
        cluster = Cluster(plan, story=story)
        failure, invariant, healing_ms = "", 0, 0
        try:
            healing_ms = live(cluster)
        except Violation as violation:
            failure, invariant = str(violation), violation.number
    world, watch = cluster.world, cluster.watch
    world.tell("verdict", failure or "all is well")
    return Verdict(
        seed=plan.seed,
        n=plan.n,
        ledger=plan.ledger,
        failure=failure,
        invariant=invariant,
        trace=world.trace_hash,
        seconds=time.process_time() - started,
        events=world.events,
        blocks=max(watch.chain, default=0),
        epochs=watch.epochs,
        views=watch.views_opened,
        crashes=cluster.crashes,
        transfers=watch.transfers,
        accused=len(watch.accusations),
        healing_ms=healing_ms,
        features=tuple(sorted(plan.features)) + tuple(sorted({attack for _, attack in plan.attacks})),
        story=tuple(world.story or ()),
    )


def live(cluster: Cluster) -> int:
    """Returns how long the healing took, in virtual milliseconds. Raises `Violation`."""
    plan, world = cluster.plan, cluster.world
    chaos = Chaos(cluster)
    for node in cluster.nodes:
        if node.index < plan.n or node.index >= plan.nodes:
            node.start()
    chaos.begin()
    for client in cluster.clients:
        world.later(1, client.next)
    world.run(plan.chaos_ms)
    began = world.now
    heal(cluster, chaos)
    limit = began + HEALING_TIMEOUTS * plan.timeout_ms
    if not world.run(limit, lambda: converged(cluster)):
        raise Violation(13, f"no convergence within {limit - began} ms after the healing: {missing(cluster)}")
    took = world.now - began
    stay_quiet(cluster)
    return took


def heal(cluster: Cluster, chaos: Chaos) -> None:
    cluster.world.tell("world", "HEALS")
    chaos.over = True
    cluster.network.heal()
    for node in cluster.nodes:
        if node.honest:
            node.skew_ms = 0
            node.disk.full = False
            node.habits = type(node.habits)(cluster.plan.tick_ms)
            node.start()
    cluster.watch.healed = True
    for client in cluster.people:
        client.replaced_before = len(cluster.watch.replaced)
    for client in cluster.clients:
        number = client.next_number
        client.wishes += [Transfer(number + i, client.key.identity, 1) for i in range(FRESH_REQUESTS)]
        client.next()
    everybody = range(len(cluster.nodes))
    cluster.reconnect([(s, t) for s in everybody for t in everybody if s != t])


def members(cluster: Cluster) -> list[Node]:
    """Honest nodes of the validators that agree now."""
    return [node for node in cluster.nodes if node.honest and node.key.identity in cluster.validators]


def converged(cluster: Cluster) -> bool:
    """Everything asked for is executed, and all honest validators stand at one height in one epoch."""
    if not all(client.done for client in cluster.people):
        return False
    nodes = members(cluster)
    heights = {node.app.height for node in nodes}
    epochs = {node.replica.epoch if node.replica else -1 for node in nodes}
    return len(heights) == 1 and len(epochs) == 1 and max(cluster.watch.chain, default=0) in heights


def stay_quiet(cluster: Cluster) -> None:
    """Invariant 13, its other half: with everybody well and honest, nobody changes the view any more.

    A node that has just worked lets one tick pass. If patience is shorter than two, it may see that a block is due
    and lose patience before the primary has looked.
    """
    plan = cluster.plan
    if plan.seed % QUIET_EVERY or plan.attacks or any(node.disk.mute for node in cluster.nodes):
        return
    cluster.world.run(cluster.world.now + QUIET_TIMEOUTS * cluster.plan.timeout_ms)
    before = {node.index: (node.replica.epoch, node.replica.view) for node in members(cluster) if node.replica}
    cluster.world.run(cluster.world.now + QUIET_TIMEOUTS * cluster.plan.timeout_ms)
    for node in members(cluster):
        epoch, view = before.get(node.index, (-1, 0))
        moved = node.replica and node.replica.epoch == epoch and node.replica.view != view
        if moved and plan.timeout_ms > 2 * plan.tick_ms:
            raise Violation(13, f"{node.name} still changes views long after the healing")


def standing(node: Node) -> str:
    replica = node.replica
    assert replica is not None
    opened = "" if replica.active else " (not opened)"
    mute = ", mute" if node.disk.mute else ""
    place = f"height {node.app.height}, epoch {replica.epoch}, view {replica.view}{opened}"
    return f"{node.index}: {place}, marks {replica.low} to {replica.high}, {replica.waiting} waiting{mute}"


def missing(cluster: Cluster) -> str:
    """Which precondition of progress is not there."""
    nodes = members(cluster)
    found = []
    down = [node.name for node in nodes if not node.up]
    if down:
        found.append(f"{', '.join(down)} down")
    found.append("; ".join(standing(node) for node in nodes if node.up))
    needed = quorum(len(cluster.validators))
    together: dict[tuple[int, int], int] = {}
    for node in nodes:
        if node.replica is not None and node.replica.active:
            place = (node.replica.epoch, node.replica.view)
            together[place] = together.get(place, 0) + 1
    if not any(count >= needed - len(cluster.plan.attacks) for count in together.values()):
        found.append(f"no quorum of {needed} is active in one view")
    waiting = [f"request {client.number}" for client in cluster.people if not client.done]
    if waiting:
        found.append(f"pending: {', '.join(waiting)}")
    return " | ".join(found)

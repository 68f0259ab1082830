"""The weather of a run over time: nodes die, links are cut or clog, disks fail, clocks jump, validators change.

Everything here ends with the healing.
"""

from random import Random
from typing import TYPE_CHECKING

from tallystick.lab.consensus.application import Membership
from tallystick.lab.consensus.clients import NUISANCES, Mischief
from tallystick.lab.consensus.network import Link

if TYPE_CHECKING:
    from tallystick.lab.consensus.cluster import Cluster
    from tallystick.lab.consensus.node import Node

MISCHIEF_EVERY_MS = 300


class Chaos:
    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster
        self.over = False
        self._random = cluster.world.random("chaos")

    def begin(self) -> None:
        world, trouble, plan = self.cluster.world, self.cluster.plan.trouble, self.cluster.plan
        self._often(trouble.kills, self._kill)
        self._often(trouble.all_restart, self._restart_all)
        self._often(trouble.cuts, self._cut)
        self._often(trouble.clogs, self._clog)
        self._often(trouble.full_disks, self._fill_disk)
        self._often(trouble.clock_jumps, self._jump)
        self._often(trouble.stalls, self._stall)
        if trouble.rolling_restart:
            world.later(self._random.randrange(plan.chaos_ms), self._roll, 0)
        for lost in range(trouble.flips + trouble.wipes):
            world.later(self._random.randrange(plan.chaos_ms), self._lose_disk, lost)
        for mischief in self.cluster.mischief:
            world.later(self._random.randrange(MISCHIEF_EVERY_MS), self._annoy, mischief)
        for number, change in enumerate(plan.changes, 1):
            world.later(change.at_ms, self._change, number, change.leave, change.join)

    def _often(self, per_second: float, trouble: "object") -> None:
        if per_second:
            self.cluster.world.later(self._pause(per_second), self._again, per_second, trouble)

    def _again(self, per_second: float, trouble: "object") -> None:
        if self.over:
            return
        assert callable(trouble)
        trouble()
        self.cluster.world.later(self._pause(per_second), self._again, per_second, trouble)

    def _pause(self, per_second: float) -> int:
        return 1 + int(self._random.expovariate(per_second) * 1000)

    def _anybody(self) -> "Node":
        return self._random.choice(self.cluster.nodes)

    # ---- machines

    def _kill(self) -> None:
        self._anybody().die()

    def _restart_all(self) -> None:
        for node in self.cluster.nodes:
            node.die(down_ms=self._random.randint(1, 200))

    def _roll(self, index: int) -> None:
        if self.over or index >= len(self.cluster.nodes):
            return
        self.cluster.nodes[index].die(down_ms=100)
        self.cluster.world.later(150, self._roll, index + 1)

    def _stall(self) -> None:
        self._anybody().stall(self._random.randint(200, 3_000))

    def _jump(self) -> None:
        self._anybody().skew_ms = self._random.choice((-3_600_000, -20_000, 0, 20_000, 3_600_000))

    # ---- disks

    def _fill_disk(self) -> None:
        node = self._anybody()
        node.disk.full = True
        self.cluster.world.later(self._random.randint(100, 2_000), self._free_disk, node)

    def _free_disk(self, node: "Node") -> None:
        node.disk.full = False
        node.start()

    def _lose_disk(self, which: int) -> None:
        """The nodes that lose theirs are honest ones that no operator removes; the plan counts them among the f."""
        leaving = {change.leave for change in self.cluster.plan.changes}
        able = [node for node in self.cluster.nodes[: self.cluster.plan.n] if node.honest and node.index not in leaving]
        if which >= len(able) or self.over:
            return
        node = able[which]
        node.die(down_ms=self._random.randint(10, 1_000))
        node.disk.corrupt = True

    # ---- the network

    def _cut(self) -> None:
        links = cut_links(self._random, len(self.cluster.nodes))
        self.cluster.network.cut(links)
        told = ", ".join(f"{source}->{target}" for source, target in links[:12])
        self.cluster.world.tell("network", f"cut: {told}")
        self.cluster.world.later(self._random.randint(100, self.cluster.plan.trouble.cut_ms), self._mend, links)

    def _mend(self, links: list[Link]) -> None:
        self.cluster.reconnect(self.cluster.network.mend(links))

    def _clog(self) -> None:
        """Clogs some links one after another, and opens them in another order."""
        n, random, world = len(self.cluster.nodes), self._random, self.cluster.world
        links = [(s, t) for s in range(n) for t in range(n) if s != t]
        for link in random.sample(links, random.randint(1, n)):
            start = random.randint(0, 500)
            world.later(start, self.cluster.network.clog, link)
            world.later(start + random.randint(100, 3_000), self.cluster.network.unclog, link)

    # ---- people

    def _annoy(self, mischief: Mischief) -> None:
        if self.over:
            return
        NUISANCES[self.cluster.plan.nuisances[self.cluster.mischief.index(mischief)]](mischief)
        self.cluster.world.later(mischief.random.randint(50, MISCHIEF_EVERY_MS), self._annoy, mischief)

    def _change(self, number: int, leave: int | None, join: int | None) -> None:
        cluster = self.cluster
        names = ["" if i is None else cluster.nodes[i].key.identity for i in (leave, join)]
        if join is not None:
            cluster.nodes[join].start()
        if cluster.owners is not None:
            cluster.owners.change(leave, join)
            return
        cluster.operator.wishes.append(Membership(number, names[0], names[1]))
        cluster.operator.next()


def cut_links(random: Random, n: int) -> list[Link]:
    """A partition of one of several shapes."""
    nodes = list(range(n))
    random.shuffle(nodes)
    some = nodes[: random.randint(1, n - 1)]
    rest = [node for node in nodes if node not in some]
    out = [(s, t) for s in some for t in rest]
    back = [(t, s) for s, t in out]
    match random.randrange(5):
        case 0:
            return out + back
        case 1:
            return out
        case 2:
            alone = nodes[0]
            return [link for t in nodes[1:] for link in ((alone, t), (t, alone))]
        case 3:  # two halves that only one node can reach both of
            bridge = nodes[-1]
            return [link for link in out + back if bridge not in link]
        case _:  # each node reaches a majority, and no two the same one
            return [(nodes[i], nodes[(i + n // 2) % n]) for i in range(n)]

"""What one seed brings: the size of the cluster and everything that will go wrong, drawn before anything happens.

Swarm testing: which kinds of trouble there are at all is drawn first, so that most runs have a few and some have all.
A run with every fault at once finds little, because nothing ever gets far enough to break.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Final

from tallystick.canon.quorum import faults
from tallystick.consensus.pbft.group import Parameters
from tallystick.consensus.pbft.limits import MAX_VALIDATORS, TRANSFER_GAP
from tallystick.lab.consensus.byzantine import ATTACKS
from tallystick.lab.consensus.clients import NUISANCES
from tallystick.lab.consensus.network import CALM, Weather

SIZES: Final = (4,) * 12 + (5,) * 3 + (7,) * 3 + (10,) + (16,)
"""How often each size is drawn, in twentieths: large clusters take longer and find less in that time."""
NEWCOMERS: Final = 2
"""How many the operator adds to a cluster at most."""
SMALLEST: Final = 4
"""Fewer bear no faulty validator. The operator does not go below that either."""
LARGEST: Final = MAX_VALIDATORS - NEWCOMERS
REAL_SIGNATURES_EVERY: Final = 50
FAVORED: Final = ["forger", "usurper", "false_checkpoints", "poisoner", "far_ahead", "inventor", "mutant", "twin"]
"""Drawn twice as often: they aim at what systems of this kind have got wrong."""


@dataclass(frozen=True)
class Trouble:
    """How often, in events per second of virtual time over the whole cluster, and how badly."""

    crash: float = 0.0
    """Chance of a node to die in any one batch of work."""
    kills: float = 0.0
    """Nodes that die at any moment."""
    all_restart: float = 0.0
    rolling_restart: bool = False
    cuts: float = 0.0
    cut_ms: int = 2_000
    clogs: float = 0.0
    sync_ms: tuple[int, int] = (0, 0)
    """How long a commit to disk takes, per node."""
    full_disks: float = 0.0
    flips: int = 0
    """Nodes whose disk turns out to be corrupt after a crash."""
    wipes: int = 0
    """Nodes that lose their whole disk."""
    skew_ms: int = 0
    clock_jumps: float = 0.0
    stalls: float = 0.0
    """Nodes that stop for a while and go on, as under SIGSTOP."""


@dataclass(frozen=True)
class Change:
    """A wish of the operator: at about this time, these validators, by number of the node."""

    at_ms: int
    leave: int | None
    join: int | None


@dataclass(frozen=True)
class Plan:
    seed: int
    n: int
    parameters: Parameters = field(default_factory=lambda: Parameters(4, 12, 3))
    timeout_ms: int = 500
    tick_ms: int = 30
    chaos_ms: int = 5_000
    clients: int = 2
    requests: int = 8
    """Of all honest clients together, before the healing."""
    think_ms: int = 200
    heartbeat_ms: int = 0
    weather: Weather = CALM
    trouble: Trouble = Trouble()
    attacks: tuple[tuple[int, str], ...] = ()
    """Which nodes are faulty, and how."""
    nuisances: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    kept_blocks: int = -1
    chunk_bytes: int = 256 * 1024
    block_requests: int = 8
    real: bool = False
    """Whether signatures are Ed25519."""
    ledger: bool = False
    """Whether the cluster replicates the real ledger, and not the lab's small application."""
    features: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def nodes(self) -> int:
        """Nodes that are validators at some time."""
        return max([self.n, *(change.join + 1 for change in self.changes if change.join is not None)])


def plan_for(seed: int, n: int | None = None) -> Plan:
    random = Random(f"{seed}/plan")  # noqa: S311 the point is that it can be repeated
    size = random.choice(SIZES)
    n = size if n is None else n
    chosen = _features(random)
    interval = random.choice((2, 3, 4, 4, 6, 8))
    chaos_ms = random.choice((1_000, 2_000, 2_000, 3_000, 6_000)) if n <= 7 else 2_000
    changes = _changes(random, n, chaos_ms) if "membership" in chosen else ()
    bearable = faults(n - sum(change.leave is not None for change in changes))
    trouble = _trouble(random, bearable, chosen)
    attacks = _attacks(random, n, chosen, bearable - trouble.flips - trouble.wipes, changes)
    return Plan(
        seed=seed,
        n=n,
        parameters=Parameters(interval, interval * random.randint(1, 5), random.randint(1, interval)),
        timeout_ms=random.choice((100, 200, 300, 500, 1_000)),
        tick_ms=random.choice((20, 40, 60, 60)),
        chaos_ms=chaos_ms,
        clients=random.randint(1, 4),
        requests=random.choice((3, 8, 16, 30)) if n <= 7 else 6,
        think_ms=random.choice((20, 100, 400)),
        heartbeat_ms=random.choice((0, 0, 0, 400, 1_500)),
        weather=_weather(random, chosen),
        trouble=trouble,
        attacks=attacks,
        nuisances=tuple(sorted(random.sample(sorted(NUISANCES), random.randint(1, 3)))) if "hostile" in chosen else (),
        changes=changes,
        kept_blocks=random.choice((-1, 0, 2, TRANSFER_GAP * interval)),
        chunk_bytes=random.choice((64, 200, 1_000)),
        block_requests=random.choice((1, 2, 8)),
        real=seed % REAL_SIGNATURES_EVERY == 7,
        features=chosen,
    )


_FEATURES: Final = {
    "loss": 0.5,
    "delay": 0.5,
    "cuts": 0.4,
    "clogs": 0.2,
    "crash": 0.4,
    "kills": 0.3,
    "all_restart": 0.15,
    "rolling_restart": 0.1,
    "slow_disk": 0.25,
    "full_disk": 0.1,
    "lost_disk": 0.15,
    "clock": 0.25,
    "stalls": 0.15,
    "byzantine": 0.75,
    "hostile": 0.3,
    "membership": 0.25,
}


def _features(random: Random) -> frozenset[str]:
    """Each is on with its own chance; a third of all runs have at most half as many."""
    calm = random.random() < 0.33
    drawn = {name: random.random() for name in sorted(_FEATURES)}
    return frozenset(name for name, draw in drawn.items() if draw < _FEATURES[name] * (0.5 if calm else 1.0))


def _weather(random: Random, chosen: frozenset[str]) -> Weather:
    loss = random.choice((0.01, 0.05, 0.15, 0.3)) if "loss" in chosen else 0.0
    duplication = random.choice((0.0, 0.05, 0.5)) if "loss" in chosen else 0.0
    if "delay" not in chosen:
        return Weather(loss, duplication)
    base, spread, tail = random.choice(((1, 5, 3.0), (5, 20, 2.0), (1, 30, 1.2), (40, 40, 2.0)))
    return Weather(loss, duplication, base, spread, tail, ordered=random.random() < 0.3)


def _trouble(random: Random, bearable: int, chosen: frozenset[str]) -> Trouble:
    """Validators that forget count among the faulty, of which the cluster bears so many at its smallest size."""

    def drawn(name: str, *options: float) -> float:
        value = random.choice(options)
        return value if name in chosen else 0.0

    lost = random.randint(1, max(1, bearable))
    flips = random.random() < 0.5
    return Trouble(
        crash=drawn("crash", 0.001, 0.005, 0.02),
        kills=drawn("kills", 0.2, 1.0, 2.0),
        all_restart=drawn("all_restart", 0.1, 0.3),
        rolling_restart="rolling_restart" in chosen,
        cuts=drawn("cuts", 0.3, 1.0, 2.0),
        cut_ms=random.choice((500, 2_000, 4_000)),
        clogs=drawn("clogs", 1.0, 3.0),
        sync_ms=random.choice(((1, 5), (0, 40), (20, 200))) if "slow_disk" in chosen else (0, 0),
        full_disks=drawn("full_disk", 0.3),
        flips=min(lost, bearable) if "lost_disk" in chosen and flips else 0,
        wipes=min(lost, bearable) if "lost_disk" in chosen and not flips else 0,
        skew_ms=int(drawn("clock", 100, 5_000, 40_000)),
        clock_jumps=drawn("clock", 0.0, 0.5),
        stalls=drawn("stalls", 0.5),
    )


def _attacks(
    random: Random, n: int, chosen: frozenset[str], room: int, changes: tuple[Change, ...]
) -> tuple[tuple[int, str], ...]:
    """At most `room` faulty validators, none of which leaves."""
    if "byzantine" not in chosen or room <= 0:
        return ()
    leaving = {change.leave for change in changes}
    nodes = [i for i in range(n) if i not in leaving]
    culprits = sorted(random.sample(nodes, random.randint(1, room)))
    choices = sorted(ATTACKS) + FAVORED
    one = random.choice(choices)
    together = random.random() < 0.5
    return tuple((i, one if together else random.choice(choices)) for i in culprits)


def _changes(random: Random, n: int, chaos_ms: int) -> tuple[Change, ...]:
    changes: list[Change] = []
    joining = n
    present = list(range(n))
    for _ in range(random.randint(1, 3)):
        kind = random.choice(("add", "remove", "rotate"))
        leave = None
        if kind != "add" and (kind == "rotate" or len(present) > SMALLEST):
            leave = present.pop(random.randrange(len(present)))
        join = None
        if kind != "remove" and joining < n + NEWCOMERS:
            join, joining = joining, joining + 1
            present.append(join)
        if (leave is None) == (join is None) and leave is None:
            continue
        if leave is not None and join is None and len(present) < SMALLEST:
            present.append(leave)
            continue
        changes.append(Change(random.randint(0, chaos_ms), leave, join))
    return tuple(sorted(changes, key=lambda change: change.at_ms))

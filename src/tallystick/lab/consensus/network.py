"""The simulated network: frames are lost, doubled, late and out of order; links are cut, one way or both, or clog."""

from collections.abc import Callable
from dataclasses import dataclass

from tallystick.lab.consensus.world import World

Link = tuple[int, int]
"""From which node to which."""
MAX_DELAY_MS = 5_000


@dataclass(frozen=True)
class Weather:
    loss: float = 0.0
    duplication: float = 0.0
    delay_ms: int = 1
    """Shortest delay; longer ones have a Pareto tail."""
    spread_ms: float = 1.0
    tail: float = 3.0
    """Exponent of the tail: 3 is tame, 1.1 has a few that take seconds."""
    ordered: bool = False
    """Whether frames of one link stay in order, as on one TCP connection."""


CALM = Weather()


class Network:
    """Moves frames between nodes, which it knows by number."""

    def __init__(self, world: World, weather: Weather, arrive: Callable[[int, int, bytes], None]) -> None:
        self.weather = weather
        self.lost = 0
        self.healed = False
        self._world = world
        self._arrive = arrive
        self._random = world.random("network")
        self._cut: dict[Link, int] = {}
        """How many cuts lie on a link."""
        self._clogged: dict[Link, list[bytes]] = {}
        self._latest: dict[Link, int] = {}

    def send(self, source: int, target: int, frame: bytes) -> None:
        weather, draw = self.weather, self._random.random
        link = (source, target)
        if link in self._cut or (weather.loss and draw() < weather.loss):
            self.lost += 1
            return
        if link in self._clogged:
            self._clogged[link].append(frame)
            return
        self._launch(link, frame)
        if weather.duplication and draw() < weather.duplication:
            self._launch(link, frame)

    def _launch(self, link: Link, frame: bytes) -> None:
        weather = self.weather
        stretch = (1.0 - self._random.random()) ** (-1.0 / weather.tail) - 1.0
        delay = min(MAX_DELAY_MS, weather.delay_ms + int(weather.spread_ms * stretch))
        if weather.ordered:
            arrival = max(self._world.now + delay, self._latest.get(link, 0))
            self._latest[link] = arrival
            delay = arrival - self._world.now
        self._world.later(delay, self._arrive, link[0], link[1], frame)

    # ---- trouble

    def reaches(self, source: int, target: int) -> bool:
        return (source, target) not in self._cut

    def cut(self, links: list[Link]) -> None:
        for link in () if self.healed else links:
            self._cut[link] = self._cut.get(link, 0) + 1

    def mend(self, links: list[Link]) -> list[Link]:
        """Returns the links that work again."""
        whole = []
        for link in links:
            if link not in self._cut:
                continue
            self._cut[link] -= 1
            if not self._cut[link]:
                del self._cut[link]
                whole.append(link)
        return whole

    def clog(self, link: Link) -> None:
        if not self.healed:
            self._clogged.setdefault(link, [])

    def unclog(self, link: Link) -> None:
        """What was held comes all at once, and in any order."""
        held = self._clogged.pop(link, [])
        self._random.shuffle(held)
        for frame in held:
            self._launch(link, frame)

    def heal(self) -> None:
        """For good: nothing that was still to come is cut or clogged any more."""
        self.healed = True
        self.weather = CALM
        self._cut.clear()
        for link in list(self._clogged):
            self.unclog(link)

"""What a validator tells Prometheus (`GET /metrics`): gauges read at each scrape, and histograms of the hot path."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from tallystick.network.engine import EngineStatus

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Upper bounds of the histograms' buckets."""


class Timing(Collector):
    """A histogram of seconds for one thread. The package's own locks and looks up labels, which costs more than some of
    what is timed here."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(str, SECONDS), "+Inf"]
        reached = [sum(self._counts[: place + 1]) for place in range(len(bounds))]
        yield HistogramMetricFamily(
            self._name, self._text, buckets=list(zip(bounds, map(float, reached), strict=True)), sum_value=self._sum
        )


class EngineMetrics:
    """What only the engine can count."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.turn_seconds = self._timing("turn_seconds", "Time of a turn of the engine")
        self.commit_seconds = self._timing("commit_seconds", "Time to force a turn's records to disk")
        self.execute_seconds = self._timing("execute_seconds", "Time to execute a block on the ledger")
        self.transactions = self._counter("transactions_executed", "Transactions executed since the start")
        self.view_changes = self._counter("view_changes", "Changes of the view since the start")

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _timing(self, name: str, text: str) -> Timing:
        timing = Timing(f"tallystick_{name}", text)
        self.registry.register(timing)
        return timing

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"tallystick_{name}", help, registry=self.registry)


class StatusCollector(Collector):
    """The engine's status as metrics, taken when somebody asks."""

    def __init__(self, status: Callable[[], "EngineStatus"]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        now = self._status()
        gauges = {
            "height": ("Height of the last delivered block", now.height),
            "epoch": ("Epoch of agreement", now.epoch),
            "view": ("View within the epoch", now.view),
            "active": ("1 while a primary is in office", now.active),
            "voting": ("1 while this node votes", now.voting),
            "checkpoint_height": ("Height of the last stable checkpoint", now.checkpoint),
            "pool_transactions": ("Transactions that wait to be ordered", now.waiting),
            "peers_connected": ("Peers to which a channel is open", len(now.connected)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"tallystick_{name}", text, value=float(value))
        primary = GaugeMetricFamily("tallystick_primary", "1 for the validator that is primary", labels=["validator"])
        primary.add_metric([now.primary[:12]], 1)
        yield primary
        queues = GaugeMetricFamily(
            "tallystick_peer_queue_bytes", "Bytes that wait for a connected peer", labels=["peer"]
        )
        for peer, size in now.queued.items():
            queues.add_metric([peer[:12]], size)
        yield queues
        load = GaugeMetricFamily("tallystick_load", "Sizes of what peers can make this node hold", labels=["what"])
        for what, size in now.load.items():
            load.add_metric([what], size)
        yield load
        refused = CounterMetricFamily("tallystick_rejections", "Input from peers that was refused", labels=["reason"])
        for reason, count in sorted(now.rejections.items()):
            refused.add_metric([reason], count)
        yield refused
        clients = CounterMetricFamily("tallystick_not_admitted", "Transactions that were refused", labels=["reason"])
        for reason, count in sorted(now.not_admitted.items()):
            clients.add_metric([reason], count)
        yield clients

"""What the application tells Prometheus (`GET /metrics`). What CometBFT does, CometBFT tells."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tallystick.network.views import Status


def comet_metrics(status: Status) -> bytes:
    """Under the names that the embedded engine uses for the same things (`network/metrics.py`)."""
    registry = CollectorRegistry()
    registry.register(_Seen(status))
    return generate_latest(registry)


class _Seen(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        now = self._status
        yield GaugeMetricFamily("tallystick_height", "Height of the last committed block", value=float(now.height))
        yield GaugeMetricFamily("tallystick_abci_connections", "Connections from CometBFT", value=float(now.peers))
        waiting = "Transactions that wait for the CometBFT node"
        yield GaugeMetricFamily("tallystick_pool_transactions", waiting, value=float(now.pool))
        refused = CounterMetricFamily("tallystick_rejections", "Requests that were refused", labels=["reason"])
        for reason, count in sorted(now.rejections.items()):
            refused.add_metric([reason], count)
        yield refused

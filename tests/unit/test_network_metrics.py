"""What Prometheus is told."""

from tallystick.network.engine import EngineStatus
from tallystick.network.metrics import EngineMetrics, StatusCollector

STATUS = EngineStatus(
    height=70,
    epoch=1,
    view=2,
    active=True,
    primary="a" * 64,
    checkpoint=64,
    transferring=False,
    voting=False,
    view_changes=3,
    last_view_change_ms=5,
    connected=("b" * 64,),
    queued={"b" * 64: 17},
    waiting=4,
    load={"pool": 4},
    rejections={"bad_signature": 9},
    not_admitted={"rate_limited": 8},
)


def test_every_figure_of_the_status_is_there_and_the_hot_path_is_counted() -> None:
    metrics = EngineMetrics()
    metrics.registry.register(StatusCollector(lambda: STATUS))
    metrics.transactions.inc(5)
    metrics.commit_seconds.observe(0.002)
    text = metrics.text().decode()
    for line in (
        "tallystick_height 70.0",
        "tallystick_epoch 1.0",
        "tallystick_view 2.0",
        "tallystick_active 1.0",
        "tallystick_voting 0.0",
        "tallystick_checkpoint_height 64.0",
        "tallystick_pool_transactions 4.0",
        "tallystick_peers_connected 1.0",
        f'tallystick_primary{{validator="{"a" * 12}"}} 1.0',
        f'tallystick_peer_queue_bytes{{peer="{"b" * 12}"}} 17.0',
        'tallystick_load{what="pool"} 4.0',
        'tallystick_rejections_total{reason="bad_signature"} 9.0',
        'tallystick_not_admitted_total{reason="rate_limited"} 8.0',
        "tallystick_transactions_executed_total 5.0",
        'tallystick_commit_seconds_bucket{le="0.001"} 0.0',
        'tallystick_commit_seconds_bucket{le="0.003"} 1.0',
    ):
        assert line in text.splitlines(), line

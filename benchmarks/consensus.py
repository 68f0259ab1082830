"""Consensus under load: throughput, latency, failover and catching up, in separate processes on loopback.

    python -m benchmarks.consensus [--n 4,7,16] [--seconds 30] [--json FILE]

Everything is as in a real network: TLS between the validators, votes on disk before they are sent, Ed25519 on every
transaction, and the real ledger executing them. A transaction is a transfer of 256 bytes; in a batch, 50 of 256 bytes
each share one signature. Load comes over HTTP, to all validators in turn, from this process; it and all validators
share the machine. Latency is from handing a transaction in to the answer that it is executed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cluster import BATCH, Cluster, Wallet, drive_all, one_at_a_time, running
from benchmarks.report import Row, missing_row, progress, publish

DRIVERS: Final = 8
BULK: Final = 200
"""Transactions in one request."""
PROBES: Final = 200
FAILOVERS: Final = 3
MISSED: Final = 100_000
GO: Final = "PoT's Go code, unsigned and volatile"
GO_MS: Final = {4: 1.9, 7: 4.0, 16: 39.0}
JETSTREAM: Final = "replicated JetStream, default settings"
JETSTREAM_S: Final = 7.0


@dataclass(frozen=True)
class Bars:
    single: float
    batched: float
    unloaded_ms: float
    half_p50_ms: float
    half_p99_ms: float
    failover_s: float
    catch_up_s: float


BARS: Final = {
    4: Bars(3000, 15000, 3, 30, 120, 2, 10),
    7: Bars(1500, 8000, 8, 60, 250, 2, 10),
    16: Bars(500, 2500, 35, 200, 800, 4, 30),
}


def rows_of(cluster: Cluster, seconds: float, missed: int) -> Iterator[Row]:
    n, bars = cluster.size, BARS[cluster.size]
    wallets = [Wallet(cluster, sender) for sender in range(DRIVERS)]
    probe = Wallet(cluster, DRIVERS)
    progress(f"n = {n}: single requests, nothing else to do")
    one_at_a_time(cluster, probe, PROBES // 4)
    samples = one_at_a_time(cluster, probe, PROBES)
    yield most(f"n={n}: unloaded single request, p50", "ms", median(samples), bars.unloaded_ms, GO, GO_MS.get(n))
    progress(f"n = {n}: signed transactions, {seconds:.0f} s")
    single, cost = throughput(cluster, wallets, seconds, 1, bars.single)
    yield least(f"n={n}: signed transactions", single, bars.single)
    yield processor(f"n={n}: signed transactions", cost)
    progress(f"n = {n}: batches of {BATCH}, {seconds:.0f} s")
    batched, cost = throughput(cluster, wallets, seconds, BATCH, bars.batched)
    yield least(f"n={n}: in batches of {BATCH} under one signature", batched, bars.batched)
    yield processor(f"n={n}: in batches of {BATCH}", cost)
    progress(f"n = {n}: single requests at half load")
    loaded, reached = at_half_load(cluster, wallets, probe, seconds, single / 2)
    yield least(f"n={n}: load at half load", reached, None)
    p99 = statistics.quantiles(loaded, n=100, method="inclusive")[98]
    yield most(f"n={n}: at half load, p50", "ms", median(loaded), bars.half_p50_ms)
    yield most(f"n={n}: at half load, p99", "ms", p99, bars.half_p99_ms)
    progress(f"n = {n}: the primary is killed")
    deaths = [failover(cluster, probe) for _ in range(FAILOVERS)]
    what = f"n={n}: primary killed to next commit, the slowest of {FAILOVERS}"
    yield most(what, "s", max(deaths), bars.failover_s, JETSTREAM, JETSTREAM_S)
    progress(f"n = {n}: a validator is down for {missed} transactions")
    took = catch_up(cluster, wallets, missed)
    yield most(f"n={n}: down for {missed} transactions, caught up", "s", took, bars.catch_up_s)


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def throughput(
    cluster: Cluster, wallets: Sequence[Wallet], seconds: float, items: int, expected: float
) -> tuple[float, float]:
    """Transactions a second that were executed, each item of a batch being one; and the processor time of all
    validators for one of them, in microseconds, which other work on the machine changes less."""
    bulk = BULK if items == 1 else max(1, BULK // 10)
    bulks = int(2 * expected * seconds / (bulk * items * len(wallets))) + 2
    for wallet in wallets:
        wallet.sign(bulks, bulk, items)
    before = cluster.processor_seconds()
    load, took = drive_all(cluster, wallets, seconds)
    used = cluster.processor_seconds() - before
    for wallet in wallets:
        wallet.forget()
    if load.refused or not load.executed:
        raise RuntimeError(f"{load.refused} transactions were refused, {load.executed} executed")
    return load.executed * items / took, 1e6 * used / (load.executed * items)


def at_half_load(
    cluster: Cluster, wallets: Sequence[Wallet], probe: Wallet, seconds: float, rate: float
) -> tuple[list[float], float]:
    """Milliseconds of single requests while others hand in `rate` transactions a second, evenly spread; and how many a
    second of theirs were executed."""
    bulk = 20
    pause = bulk * len(wallets) / rate
    for wallet in wallets:
        wallet.sign(int(seconds / pause) + 2, bulk, 1)
    samples: list[float] = []
    with ThreadPoolExecutor(1) as executor:
        background = executor.submit(drive_all, cluster, wallets, seconds, pause)
        time.sleep(min(2.0, seconds / 4))
        while not background.done():
            samples += one_at_a_time(cluster, probe, 5, pause=0.02)
    load, took = background.result()
    for wallet in wallets:
        wallet.forget()
    return samples, load.executed / took


def failover(cluster: Cluster, probe: Wallet) -> float:
    """Seconds from SIGKILL of the primary to a block with a transaction that was handed in after it."""
    primary = cluster.primary(0)
    witness = (primary + 1) % cluster.size
    one_at_a_time(cluster.only(witness), probe, 5)
    cluster.kill(primary)
    began = time.monotonic()
    one_at_a_time(cluster.only(witness), probe, 1)
    took = time.monotonic() - began
    height = cluster.status(witness)["height"]
    cluster.start(primary)
    cluster.wait_until(primary, lambda status: status["height"] >= height and status["peers"] == cluster.size - 1)
    return took


def catch_up(cluster: Cluster, wallets: Sequence[Wallet], missed: int) -> float:
    """Seconds from the start of a validator (when it answers) to where the others were at that moment."""
    last = cluster.size - 1
    cluster.kill(last)
    for wallet in wallets:
        wallet.sign(-(-missed // (BULK * len(wallets))), BULK, 1)
    drive_all(cluster.without(last), wallets, 3600)
    for wallet in wallets:
        wallet.forget()
    height = cluster.status(0)["height"]
    cluster.start(last)
    cluster.wait_until(last, lambda status: True)
    return cluster.wait_until(last, lambda status: status["height"] >= height)


def most(what: str, unit: str, ours: float, bar: float | None, name: str = "", baseline: float | None = None) -> Row:
    """A row whose bar is a limit on the figure itself, from above."""
    ratio = ours / baseline if baseline else None
    met = None if bar is None else ours <= bar
    return Row(what, unit, ours, baseline, name, ratio, None, met, f"bar {bar:g} {unit}" if bar else "")


def processor(what: str, microseconds: float) -> Row:
    return Row(f"{what}: processor time of all validators for one", "us", microseconds, None, "", None, None, None)


def least(what: str, ours: float, bar: float | None) -> Row:
    met = None if bar is None else ours >= bar
    return Row(what, "tx/s", ours, None, "", None, None, met, f"bar {bar:g} tx/s" if bar else "")


def sizes(text: str) -> list[int]:
    """
    >>> sizes("4,7,16")
    [4, 7, 16]
    """
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consensus", description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--n", type=sizes, default="4,7,16", help="numbers of validators")
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement of throughput")
    parser.add_argument("--missed", type=int, default=MISSED, help="transactions that a validator is down for")
    options = parser.parse_args()
    rows: list[Row] = []
    for n in options.n:
        progress(f"n = {n}: starting")
        with tempfile.TemporaryDirectory() as folder:
            try:
                with running(Path(folder), n) as cluster:
                    for row in rows_of(cluster, options.seconds, options.missed):
                        progress(f"    {row.what}: {row.ours:.2f} {row.unit}")
                        rows.append(row)
            except (TimeoutError, RuntimeError, ValueError, OSError) as error:
                rows.append(missing_row(f"n={n}: the rest", "", "", 0.0, f"not measured: {error}"))
    publish(rows, 1, options.json)


if __name__ == "__main__":
    main()

"""Four real validators under load and faults: SIGKILL, SIGSTOP and cut channels at random, for as long as you like.

    python -m benchmarks.soak [--minutes 30] [--seed 1] [--json FILE]

At most f validators are faulty at a time, where f = floor((n - 1) / 3), and one that came back counts as faulty until
it is where the others are. In every window of ten seconds the others must make progress. At the end everything that
was acknowledged must be there, once: the money says so, for each transfer moves 1, and the nonces do.
"""

import argparse
import http.client
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.cluster import Cluster, Connection, Wallet, running
from benchmarks.report import Row, progress, publish
from tallystick.canon.encoding import to_json
from tallystick.canon.quorum import faults
from tallystick.ledger.genesis import chain_id, dump_genesis, load_genesis
from tallystick.network.local import WORKER_BALANCE, LocalNetwork
from tallystick.network.peers import split_address
from tallystick.network.store import create_store
from tallystick.network.validator import CARD, CONSENSUS, GENESIS

WINDOW_SECONDS: Final = 10.0
FAULTS: Final = ("kill", "stop", "disconnect")
DRIVERS: Final = 2
PAUSE_SECONDS: Final = 0.05


@dataclass
class Watch:
    """What happened, window by window."""

    windows: int = 0
    idle: list[str] = field(default_factory=list)
    """Windows without progress, and what was wrong in them."""
    done: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[int, int] = field(default_factory=dict)
    """By sender: transactions that some validator said were executed."""


class Gate:
    """Everything that other validators send to one goes through here, on a thread of its own; shut, it cuts them off.

    What that validator sends goes through the others' gates: to be cut off in one direction is the harder case.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._shut = False
        self._pairs: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._shut = True
        for each in list(self._pairs):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        self._shut = False

    def _accept(self) -> None:
        while True:
            inner, _ = self._server.accept()
            if self._shut:
                inner.close()
                continue
            try:
                outer = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                inner.close()
                continue
            for source, sink in ((inner, outer), (outer, inner)):
                self._pairs.add(source)
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for each in (source, sink):
            self._pairs.discard(each)
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()


def put_gates(network: LocalNetwork) -> list[Gate]:
    """Makes the genesis document name gates; where the validators really listen is in their cards. That makes it
    another chain, so their logs are made anew."""
    genesis = load_genesis((network.root / GENESIS).read_bytes())
    gates, infos = [], []
    for member, info in zip(network.validators, genesis.validators, strict=True):
        gate = Gate(split_address(info.address)[1])
        (member.home / CARD).write_bytes(to_json(info))
        infos.append(msgspec.structs.replace(info, address=f"127.0.0.1:{gate.port}"))
        gates.append(gate)
    changed = msgspec.structs.replace(genesis, validators=tuple(infos))
    for home in (network.root, *(member.home for member in network.validators)):
        (home / GENESIS).write_bytes(dump_genesis(changed))
    for member in network.validators:
        for path in member.home.glob(f"{Path(CONSENSUS).stem}.*"):
            path.unlink()
        create_store(member.home / CONSENSUS, chain_id(changed), member.identity, muted=False)
    return gates


def drive(cluster: Cluster, wallet: Wallet, sender: int, watch: Watch, stopping: threading.Event) -> None:
    """One transaction after another, each handed in until somebody says that it is executed."""
    connections = cluster.connections()
    turn = sender
    while not stopping.is_set():
        transaction = wallet.next()
        while True:
            turn += 1
            try:
                reply = connections[turn % len(connections)].ask(
                    "POST", "/v1/transactions?wait_ms=2000", transaction, timeout=4
                )
            except (OSError, http.client.HTTPException, ValueError):
                continue  # dead, stopped, or its queue is full: another one will do
            if reply["outcome"] is not None:
                assert reply["outcome"]["code"] == "ok", reply
                watch.acknowledged[sender] = watch.acknowledged.get(sender, 0) + 1
                break
        time.sleep(PAUSE_SECONDS)


def inflict(cluster: Cluster, gates: Sequence[Gate], chance: random.Random, watch: Watch, seconds: float) -> None:
    """One fault after another, and in between the time that it takes to be whole again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        victims = chance.sample(range(cluster.size), faults(cluster.size))
        kind, lasts = chance.choice(FAULTS), chance.uniform(0.5, 8.0)
        for victim in victims:
            _begin(cluster, gates, victim, kind)
        watch.done[kind] = watch.done.get(kind, 0) + 1
        time.sleep(lasts)
        for victim in victims:
            _end(cluster, gates, victim, kind)
        for victim in victims:
            height = max(_heights(cluster, victims))
            cluster.wait_until(victim, lambda status, height=height: status["height"] >= height, 120)  # type: ignore[misc]
        time.sleep(chance.uniform(0.0, 3.0))


def _begin(cluster: Cluster, gates: Sequence[Gate], victim: int, kind: str) -> None:
    if kind == "kill":
        cluster.kill(victim)
    elif kind == "stop":
        cluster.signal(victim, signal.SIGSTOP)
    else:
        gates[victim].close()


def _end(cluster: Cluster, gates: Sequence[Gate], victim: int, kind: str) -> None:
    if kind == "kill":
        cluster.start(victim)
    elif kind == "stop":
        cluster.signal(victim, signal.SIGCONT)
    else:
        gates[victim].open()


def _heights(cluster: Cluster, without: list[int]) -> list[int]:
    return [cluster.status(index)["height"] for index in range(cluster.size) if index not in without]


def watch_progress(cluster: Cluster, watch: Watch, stopping: threading.Event) -> None:
    """Whether acknowledgments went on in each window."""
    before = 0
    while not stopping.wait(WINDOW_SECONDS):
        now = sum(watch.acknowledged.values())
        watch.windows += 1
        if now == before:
            watch.idle.append(f"window {watch.windows}: nothing after {now}; faults so far {watch.done}")
            progress(watch.idle[-1])
        before = now


def check_end(cluster: Cluster, watch: Watch) -> list[str]:
    """What was lost or done twice, in words. A sender's last transaction may be executed and not acknowledged."""
    wrong: list[str] = []
    height = max(_heights(cluster, []))
    for index in range(cluster.size):
        cluster.wait_until(index, lambda status: status["height"] >= height, 120)
    money = [Connection(cluster.url(index)).ask("GET", "/v1/money") for index in range(cluster.size)]
    if any(other["held"] != money[0]["held"] for other in money):
        wrong.append("validators count money differently")
    connection = Connection(cluster.url(0))
    accounts: dict[str, dict[str, Any]] = {
        key.identity: connection.ask("GET", f"/v1/accounts/{key.identity}") for key in cluster.senders
    }
    nonces = [accounts[key.identity]["nonce"] for key in cluster.senders]
    for sender, key in enumerate(cluster.senders):
        acknowledged, nonce = watch.acknowledged.get(sender, 0), nonces[sender]
        expected = WORKER_BALANCE - nonce + nonces[sender - 1]
        balance = accounts[key.identity]["balance"]
        if not acknowledged <= nonce <= acknowledged + 1:
            wrong.append(f"sender {sender}: {acknowledged} acknowledged, {nonce} executed")
        if balance != expected:
            wrong.append(f"sender {sender}: balance {balance}, {expected} expected; something was executed twice")
    return wrong


def soak(minutes: float, seed: int) -> list[Row]:
    watch, stopping = Watch(), threading.Event()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), 4, prepare=put_gates) as cluster:
        wallets = [Wallet(cluster, sender) for sender in range(DRIVERS)]
        threads = [
            threading.Thread(target=drive, args=(cluster, wallet, sender, watch, stopping))
            for sender, wallet in enumerate(wallets)
        ]
        threads.append(threading.Thread(target=watch_progress, args=(cluster, watch, stopping)))
        for thread in threads:
            thread.start()
        try:
            inflict(cluster, cluster.prepared, random.Random(seed), watch, 60 * minutes)  # noqa: S311
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        wrong = check_end(cluster, watch)
    faults_done = ", ".join(f"{kind} {count}" for kind, count in sorted(watch.done.items()))
    going = 100 * (1 - len(watch.idle) / max(1, watch.windows))
    note = f"{minutes:g} minutes, seed {seed}, faults: {faults_done}; {sum(watch.acknowledged.values())} acknowledged"
    return [
        Row("10 s windows with progress", "%", going, None, "", None, None, going == 100, note),
        Row("lost or executed twice", "", float(len(wrong)), None, "", None, None, not wrong, "; ".join(wrong)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    publish(soak(options.minutes, options.seed), 1, options.json)


if __name__ == "__main__":
    main()

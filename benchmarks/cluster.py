"""A network of validator processes on loopback and the load on it, for measuring: TLS, durable, the real ledger."""

import http.client
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key, load_key
from tallystick.demo.processes import Processes
from tallystick.ledger.genesis import chain_id, load_genesis
from tallystick.ledger.transactions import AnyBody, Batch, Transfer, sign_transaction
from tallystick.network.local import LocalNetwork, free_ports, make_network
from tallystick.network.validator import GENESIS, KEY

SENDERS: Final = 16
TRANSACTION_BYTES: Final = 256
BATCH: Final = 50
START_SECONDS: Final = 240.0
REQUEST_SECONDS: Final = 60.0


class Connection:
    """One connection to a validator's HTTP face, opened again when it breaks."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self._http = http.client.HTTPConnection(self._address, timeout=REQUEST_SECONDS)

    def ask(self, method: str, path: str, body: bytes = b"", timeout: float = REQUEST_SECONDS) -> Any:
        """The decoded reply. Raises `OSError` or `HTTPException`, and `ValueError` for a refusal."""
        self._http.timeout = timeout
        if self._http.sock is not None:
            self._http.sock.settimeout(timeout)
        try:
            reply, data = self._once(method, path, body)
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            self._http.close()  # it was idle for so long that the other side closed it
            reply, data = self._once(method, path, body)
        if reply.status != 200:
            raise ValueError(f"{path}: {reply.status} {data[:200]!r}")
        return json.loads(data) if data[:1] in {b"{", b"["} else data

    def _once(self, method: str, path: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            self._http.request(method, path, body)
            reply = self._http.getresponse()
            return reply, reply.read()
        except (OSError, http.client.HTTPException):
            self._http.close()
            raise

    def close(self) -> None:
        self._http.close()


@dataclass
class Cluster:
    network: LocalNetwork
    processes: Processes
    chain: str
    senders: list[Key]
    talks_to: tuple[int, ...] = ()
    """The validators that load goes to; all if empty."""
    prepared: Any = None
    """What `prepare` made of the network."""

    @property
    def size(self) -> int:
        return len(self.network.validators)

    def url(self, index: int) -> str:
        return self.network.validators[index % self.size].url

    def only(self, index: int) -> "Cluster":
        """The same, for a driver that is to talk to this validator alone."""
        return replace(self, talks_to=(index,))

    def without(self, index: int) -> "Cluster":
        return replace(self, talks_to=tuple(i for i in range(self.size) if i != index))

    def connections(self) -> list[Connection]:
        return [Connection(self.url(index)) for index in self.talks_to or range(self.size)]

    def start(self, index: int) -> None:
        member = self.network.validators[index]
        options = ("--blobs", self.network.blobs, "--stop-on-eof")
        self.processes.start(member.name, "tallystick.cli.main", "validator", "run", str(member.home), *options)

    def kill(self, index: int) -> None:
        self.processes.kill(self.network.validators[index].name)

    def signal(self, index: int, number: signal.Signals) -> None:
        self.processes.send(self.network.validators[index].name, number)

    def processor_seconds(self) -> float:
        """What all validators have used so far."""
        ticks = 0
        for member in self.network.validators:
            fields = Path(f"/proc/{self.processes.pid(member.name)}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def status(self, index: int) -> dict[str, Any]:
        connection = Connection(self.url(index))
        try:
            found: dict[str, Any] = connection.ask("GET", "/v1/status")
            return found
        finally:
            connection.close()

    def primary(self, seen_by: int) -> int:
        identities = [member.identity for member in self.network.validators]
        return identities.index(self.status(seen_by)["primary"])

    def wait_until(self, index: int, ready: Callable[[dict[str, Any]], bool], seconds: float = START_SECONDS) -> float:
        """How long it took until `ready` held for the status of a validator."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            try:
                if ready(self.status(index)):
                    return time.monotonic() - began
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.05)
            time.sleep(0.02)
        name = self.network.validators[index].name
        raise TimeoutError(f"{name}: not there after {seconds:.0f} s; its log ends with\n{self.processes.log_of(name)}")


@contextmanager
def running(
    folder: Path, validators: int, prepare: Callable[[LocalNetwork], Any] = lambda network: None
) -> Iterator[Cluster]:
    """All validators of a new network, connected with one another. `prepare` may change its files first."""
    network = make_network(
        folder / "network",
        validators=validators,
        workers=SENDERS,
        ports=free_ports(2 * validators),
        now_ms=time.time_ns() // 10**6,
    )
    prepared = prepare(network)
    chain = chain_id(load_genesis((network.root / GENESIS).read_bytes()))
    senders = [load_key(member.home / KEY) for member in network.workers]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with Processes(folder / "logs") as processes:
        cluster = Cluster(network, processes, chain, senders, prepared=prepared)
        for index in range(validators):
            cluster.start(index)
        for index in range(validators):
            cluster.wait_until(index, lambda status: status["peers"] == validators - 1)
        yield cluster


# ---- transactions


def transfer(receiver: str, size: int) -> Transfer:
    """A transfer of 1 that is `size` bytes long in a transaction."""
    bare = len(msgspec.msgpack.encode(Transfer(receiver, 1)))
    return Transfer(receiver, 1, bytes(max(0, size - bare - 1)))


def signed(cluster: Cluster, sender: int, nonce: int, items: int) -> bytes:
    """A transaction of 256 bytes; or, for more than one item, a batch of items of 256 bytes under one signature."""
    key, receiver = cluster.senders[sender], cluster.senders[(sender + 1) % SENDERS].identity
    body: AnyBody
    if items == 1:
        empty = len(sign_transaction(key, cluster.chain, nonce, Transfer(receiver, 1)))
        body = Transfer(receiver, 1, bytes(max(0, TRANSACTION_BYTES - empty - 1)))
    else:
        body = Batch([transfer(receiver, TRANSACTION_BYTES)] * items)
    return sign_transaction(key, cluster.chain, nonce, body)


class Wallet:
    """The transactions of one sender, signed ahead of time, in bulks."""

    def __init__(self, cluster: Cluster, sender: int) -> None:
        self._cluster, self._sender = cluster, sender
        self._nonce = 0
        self.ready: deque[list[bytes]] = deque()

    def sign(self, bulks: int, bulk: int, items: int) -> None:
        for _ in range(bulks):
            self.ready.append([self.next(items) for _ in range(bulk)])

    def forget(self) -> None:
        """Drops what was signed and not handed in; nonces may have gaps."""
        self.ready.clear()

    def next(self, items: int = 1) -> bytes:
        self._nonce += 1
        return signed(self._cluster, self._sender, self._nonce, items)


# ---- load


@dataclass
class Load:
    """What one thread got done."""

    executed: int = 0
    """Transactions whose execution was seen."""
    refused: int = 0


def drive(cluster: Cluster, wallet: Wallet, first: int, until: float, pause: float, delay: float, load: Load) -> None:
    """After `delay` seconds hands in bulk after bulk, each when the one before is executed (or `pause` seconds after
    its start if that is later), to the validators in turn."""
    connections = cluster.connections()
    turn = first
    time.sleep(delay)
    while wallet.ready and time.monotonic() < until:
        began, bulk = time.monotonic(), wallet.ready.popleft()
        connection = connections[turn % len(connections)]
        answers = connection.ask("POST", "/v1/transactions/bulk?wait_ms=0", msgspec.msgpack.encode(bulk))
        refused = [answer for answer in answers["answers"] if answer["refusal"]]
        load.refused += len(refused)
        connection.ask("GET", f"/v1/transactions/{blob_name(bulk[-1])}?wait_ms=30000")
        if time.monotonic() < until:
            load.executed += len(bulk) - len(refused)
        turn += 1
        time.sleep(max(0.0, began + pause - time.monotonic()))
    for connection in connections:
        connection.close()


def drive_all(cluster: Cluster, wallets: Sequence[Wallet], seconds: float, pause: float = 0.0) -> tuple[Load, float]:
    """All wallets, a thread for each, spread evenly over `pause`. Returns what was executed, and in what time."""
    loads = [Load() for _ in wallets]
    began = time.monotonic()
    threads = [
        threading.Thread(
            target=drive,
            args=(cluster, wallet, number, began + seconds, pause, pause * number / len(wallets), load),
        )
        for number, (wallet, load) in enumerate(zip(wallets, loads, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Load(sum(load.executed for load in loads), sum(load.refused for load in loads))
    return total, min(seconds, time.monotonic() - began)


def one_at_a_time(cluster: Cluster, wallet: Wallet, count: int, pause: float = 0.0) -> list[float]:
    """Milliseconds from handing in a single transaction to knowing that it is executed, over the validators in turn."""
    connections = cluster.connections()
    samples = []
    for number in range(count):
        transaction = wallet.next()
        began = time.perf_counter()
        reply = connections[number % len(connections)].ask("POST", "/v1/transactions?wait_ms=30000", transaction)
        samples.append((time.perf_counter() - began) * 1000)
        assert reply["outcome"]["code"] == "ok", reply
        time.sleep(pause)
    for connection in connections:
        connection.close()
    return samples

"""Makes the folders of a network whose members all live on one machine: keys, genesis document, blob store."""

import secrets
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tallystick.canon.identity import Key, save_key
from tallystick.errors import TallystickError
from tallystick.ledger.genesis import Agreement, Genesis, ValidatorInfo, chain_id, dump_genesis, load_genesis
from tallystick.network.genesis import first_group
from tallystick.network.store import create_store
from tallystick.network.tls import make_certificate
from tallystick.network.validator import CONSENSUS, GENESIS, KEY

WORKER_BALANCE: Final = 100_000
CLIENT_BALANCE: Final = 10_000_000
VALIDATOR_STAKE: Final = 500_000
BLOBS: Final = "blobs"
FIRST_PORT: Final = 10_000
LAST_PORT: Final = 32_000
PORT_TRIALS: Final = 100
USUAL: Final = Agreement()


class LocalNetworkError(TallystickError):
    """The folder cannot take a new network."""


@dataclass(frozen=True)
class Member:
    """Somebody in the network: a name for people, a folder with a key, and for validators where HTTP is served."""

    name: str
    home: Path
    identity: str
    url: str = ""


@dataclass(frozen=True)
class LocalNetwork:
    root: Path
    validators: tuple[Member, ...]
    workers: tuple[Member, ...]
    client: Member

    @property
    def blobs(self) -> str:
        """fsspec URL of the blob store."""
        return (self.root / BLOBS).absolute().as_uri()

    @property
    def urls(self) -> list[str]:
        return [validator.url for validator in self.validators]


def free_ports(count: int) -> list[int]:
    """`count` consecutive ports on loopback that nobody holds at the moment.

    They are below those that a system gives to outgoing connections, any of which could else take one of them before
    the process that is to listen there has started, or while it is down.

    Raises:
        LocalNetworkError: there are none.
    """
    for _ in range(PORT_TRIALS):
        first = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT - count)
        ports = list(range(first, first + count))
        with suppress(OSError), ExitStack() as held:
            for port in ports:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return ports
    raise LocalNetworkError(f"no {count} free ports in a row from {FIRST_PORT} to {LAST_PORT} on 127.0.0.1; free some")


def make_network(
    root: Path,
    *,
    validators: int,
    workers: int,
    ports: Sequence[int],
    now_ms: int,
    agreement: Agreement = USUAL,
) -> LocalNetwork:
    """Creates keys, the genesis document, and the validators' empty logs of consensus under `root`.

    Args:
        ports: two for each validator, for its peers and for HTTP.
        now_ms: the network's first agreed time.

    Raises:
        LocalNetworkError: `root` holds something already.
        Refused: validators cannot agree in such numbers or under such terms.
    """
    if root.exists() and any(root.iterdir()):
        raise LocalNetworkError(f"{root}: not empty; name a new folder")
    keys = [Key.generate() for _ in range(validators)]
    urls = [f"http://127.0.0.1:{port}" for port in ports[1 : 2 * validators : 2]]
    infos = [
        ValidatorInfo(key.identity, f"127.0.0.1:{port}", url, make_certificate(key), VALIDATOR_STAKE)
        for key, port, url in zip(keys, ports[: 2 * validators : 2], urls, strict=True)
    ]
    others, buyer = [Key.generate() for _ in range(workers)], Key.generate()
    balances = {key.identity: WORKER_BALANCE for key in others} | {buyer.identity: CLIENT_BALANCE}
    genesis = Genesis("local", now_ms, agreement, tuple(infos), balances)
    document = dump_genesis(genesis)
    first_group(load_genesis(document))  # before anything is written
    nodes = [_member(root, f"validator-{i}", key, url) for i, (key, url) in enumerate(zip(keys, urls, strict=True))]
    members = [_member(root, f"worker-{i}", key) for i, key in enumerate(others)]
    client = _member(root, "client", buyer)
    for home in (root, *(node.home for node in nodes)):
        (home / GENESIS).write_bytes(document)
    for node in nodes:  # of keys that are new, so they have never voted
        create_store(node.home / CONSENSUS, chain_id(genesis), node.identity, muted=False)
    (root / BLOBS).mkdir()
    return LocalNetwork(root, tuple(nodes), tuple(members), client)


def _member(root: Path, name: str, key: Key, url: str = "") -> Member:
    save_key(key, root / name / KEY)
    return Member(name, root / name, key.identity, url)

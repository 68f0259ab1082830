"""A validator whose blocks are agreed on by a CometBFT node beside it: ledger, auditor and HTTP face over one folder.

key             its identity, mode 0600; CometBFT signs with the same key
genesis.json    the network that it belongs to
card.json       where it is reached; not needed if that is in genesis.json
ledger.db       what executing the blocks gave
snapshots/      states for nodes that join by state sync

Blocks and votes are CometBFT's, in its own home.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tallystick import __version__
from tallystick.canon.identity import Key, load_key
from tallystick.consensus.cometbft.adapter import Adapter
from tallystick.errors import Refused
from tallystick.ledger.genesis import Genesis, chain_id
from tallystick.ledger.transactions import AnyBody, sign_transaction
from tallystick.network.api import Api
from tallystick.network.auditor import Auditor
from tallystick.network.blobs import BlobStore
from tallystick.network.cometbft.engine import CometEngine
from tallystick.network.cometbft.ledger import CometLedger
from tallystick.network.cometbft.metrics import comet_metrics
from tallystick.network.cometbft.server import AbciServer, listen
from tallystick.network.cometbft.shelf import FileShelf
from tallystick.network.genesis import read_genesis
from tallystick.network.node import Node
from tallystick.network.serving import http_server, listen_http, run_until
from tallystick.network.validator import GENESIS, KEY, LEDGER, read_card
from tallystick.network.views import Status

log = logging.getLogger(__name__)

SNAPSHOTS: Final = "snapshots"


@dataclass(frozen=True)
class Options:
    """Where the process is found, and what it finds."""

    abci: str
    """Where CometBFT finds it: unix:///path or tcp://127.0.0.1:port."""
    rpc: str
    """URL of CometBFT's RPC."""
    blobs: str
    """fsspec URL of the network's blobs."""
    http: str | None = None
    """URL to serve workers and clients at, if not the one in the validator's card or in the genesis document."""
    snapshot_interval: int = 1000
    retain_blocks: int = 0


async def run_application(home: Path, options: Options, on_ready: Callable[[Status], None]) -> None:
    """Runs the application of folder `home` until SIGINT or SIGTERM, then stops in order.

    Raises:
        ValidatorError, GenesisFileError, KeyFileError, StoreError, AddressError, Refused: it cannot start; the message
            says why.
    """
    genesis = read_genesis(home / GENESIS)
    key = load_key(home / KEY)
    with listen_http(options.http or read_card(home, genesis, key.identity).url) as http, listen(options.abci) as abci:
        node = Node(genesis, home / LEDGER)
        try:
            await _serve(key, genesis, node, FileShelf(home / SNAPSHOTS), options, (http, abci), on_ready)
        finally:
            node.close()


async def _serve(
    key: Key,
    genesis: Genesis,
    node: Node,
    shelf: FileShelf,
    options: Options,
    sockets: tuple[socket.socket, socket.socket],
    on_ready: Callable[[Status], None],
) -> None:
    chain, (http, abci) = chain_id(genesis), sockets
    adapter = Adapter(
        CometLedger(node, genesis),
        shelf,
        version=__version__,
        snapshot_interval=options.snapshot_interval,
        retain_blocks=options.retain_blocks,
    )
    server = AbciServer(adapter)
    engine = CometEngine(node, server, abci, options.rpc)
    loop = asyncio.get_running_loop()

    def hand_over(transaction: bytes) -> None:
        """A refusal is no fault: the ledger may have moved on since the auditor looked, and it will look again."""
        try:
            engine.submit(transaction)
        except Refused as refused:
            log.info("own transaction not admitted: %s", refused)

    def submit(nonce: int, body: AnyBody) -> None:
        loop.call_soon_threadsafe(hand_over, sign_transaction(key, chain, nonce, body))

    def status() -> Status:
        return Status(
            chain=chain,
            identity=key.identity,
            version=__version__,
            height=node.height,
            time_ms=node.state.time_ms,
            view=0,
            primary="",
            peers=server.connections,
            pool=engine.waiting,
            rejections=dict(server.rejections),
        )

    auditor = Auditor(key.identity, BlobStore(options.blobs), submit)
    node.listen(auditor.notify)
    face = http_server(Api(node, engine, status, lambda: comet_metrics(status())))
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    auditor.start()
    auditor.notify(node.state)
    on_ready(status())
    try:
        await run_until(stopping, engine.run(), face.serve(sockets=[http]), face, node.let_go)
    finally:
        auditor.stop()

"""A validator process: consensus, ledger, auditor and HTTP face over one folder.

key             its identity, mode 0600
genesis.json    the network that it belongs to
consensus.db    blocks and votes, forced to disk before they count
ledger.db       what executing the blocks gave
"""

import asyncio
import logging
import signal
import socket
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn

from tallystick import __version__
from tallystick.canon.identity import Key, load_key
from tallystick.consensus.pbft import Group
from tallystick.errors import Refused, TallystickError
from tallystick.ledger.genesis import MAX_GENESIS_BYTES, Genesis, chain_id, load_genesis
from tallystick.ledger.transactions import AnyBody, sign_transaction
from tallystick.network.api import Api
from tallystick.network.auditor import Auditor
from tallystick.network.blobs import BlobStore
from tallystick.network.engine import PbftEngine, Shell
from tallystick.network.node import Node
from tallystick.network.peers import Validator, split_address
from tallystick.network.store import Store
from tallystick.network.views import Status

log = logging.getLogger(__name__)

KEY, GENESIS, CONSENSUS, LEDGER = "key", "genesis.json", "consensus.db", "ledger.db"
SHUTDOWN_SECONDS: Final = 1
BACKLOG: Final = 2048


class ValidatorError(TallystickError):
    """The folder does not hold a validator that can run."""


def read_genesis(path: Path) -> Genesis:
    """A genesis document from a file.

    Raises:
        ValidatorError: there is no such file.
        Refused: it is not a genesis document.
    """
    try:
        if path.stat().st_size > MAX_GENESIS_BYTES:
            raise Refused("too_large", f"{path}: over {MAX_GENESIS_BYTES} bytes")
        return load_genesis(path.read_bytes())
    except OSError as error:
        raise ValidatorError(f"{path}: {error.strerror}; make one with `tallystick genesis`") from None


async def run_validator(home: Path, blobs: str, on_ready: Callable[[Status], None]) -> None:
    """Runs the validator of folder `home` until SIGINT or SIGTERM, then stops in order.

    Args:
        blobs: fsspec URL of the network's blobs.
        on_ready: called once, when requests are accepted.

    Raises:
        ValidatorError, KeyFileError, StoreError, Refused: it cannot start; the message says what to do.
    """
    genesis = read_genesis(home / GENESIS)
    key = load_key(home / KEY)
    info = next((v for v in genesis.validators if v.identity == key.identity), None)
    if info is None:
        raise ValidatorError(f"{home}: key {key.identity[:12]} is not a validator of chain {genesis.chain}")
    listening = _listen(info.url)
    try:
        store = Store(home / CONSENSUS, chain_id(genesis), key.identity)
        node = Node(genesis, home / LEDGER)
    except sqlite3.Error as error:
        raise ValidatorError(f"{home}: {error}") from None
    try:
        await _serve(key, genesis, listening, node, store, BlobStore(blobs), on_ready)
    finally:
        node.close()
        store.close()


async def _serve(
    key: Key,
    genesis: Genesis,
    listening: socket.socket,
    node: Node,
    store: Store,
    blobs: BlobStore,
    on_ready: Callable[[Status], None],
) -> None:
    chain = chain_id(genesis)
    known = {v.identity: Validator(v.identity, v.address, v.certificate) for v in genesis.validators}
    group = Group(chain, tuple(known))
    engine = PbftEngine(key, group, node, store, Shell(known.get), listen=known[key.identity].address)
    loop = asyncio.get_running_loop()

    def submit(nonce: int, body: AnyBody) -> None:
        loop.call_soon_threadsafe(_submit_own, engine, sign_transaction(key, chain, nonce, body))

    auditor = Auditor(key.identity, blobs, submit)
    node.listen(auditor.notify)

    def status() -> Status:
        now = engine.status()
        return Status(
            chain=chain,
            identity=key.identity,
            version=__version__,
            height=node.height,
            time_ms=node.state.time_ms,
            view=now.view,
            primary=now.primary,
            peers=len(now.connected),
            pool=now.waiting,
            rejections=now.rejections,
        )

    server = _http_server(Api(node, engine, status))
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    auditor.start()
    auditor.notify(node.state)
    on_ready(status())
    try:
        await _run_until(stopping, engine.run(), server.serve(sockets=[listening]), server)
    finally:
        auditor.stop()


def _submit_own(engine: PbftEngine, transaction: bytes) -> None:
    """A refusal is no fault: the ledger may have moved on since the auditor looked, and it will look again."""
    try:
        engine.submit(transaction)
    except Refused as refused:
        log.info("own transaction not admitted: %s", refused)


async def _run_until(
    stopping: asyncio.Event, consensus: Coroutine[Any, Any, None], http: Coroutine[Any, Any, None], server: "_Server"
) -> None:
    """Consensus and HTTP side by side until `stopping`, or until one of them fails."""
    tasks = [asyncio.create_task(work) for work in (consensus, http, stopping.wait())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    tasks[0].cancel()
    await asyncio.gather(*tasks[:2], return_exceptions=True)
    tasks[2].cancel()
    for task in done:
        task.result()


class _Server(uvicorn.Server):
    """uvicorn inside our own process, where signals are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http_server(api: Api) -> _Server:
    config = uvicorn.Config(
        api.application(),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return _Server(config)


def _listen(url: str) -> socket.socket:
    """Binds the HTTP port before anything else starts, so that a taken port is a clear error."""
    try:
        host, port = split_address(url.removeprefix("http://").rstrip("/"))
        return socket.create_server((host, port), backlog=BACKLOG)
    except (OSError, ValueError) as error:
        raise ValidatorError(f"{url}: cannot listen there: {error}") from None

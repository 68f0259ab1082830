"""The sockets on which CometBFT finds its application.

Whoever can connect here can feed the ledger blocks that nobody agreed on, and nothing in ABCI says who calls. So the
address is a Unix socket that only this user may open, or a port on loopback.
"""

import asyncio
import ipaddress
import logging
import socket
import stat
from collections import Counter
from pathlib import Path
from typing import Final

from tallystick.consensus.cometbft.connection import Answering, Connection
from tallystick.errors import TallystickError

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 16
"""CometBFT opens four."""
READ_BYTES: Final = 2**18
BACKLOG: Final = 16


class AddressError(TallystickError):
    """The application cannot be served at this address."""


def listen(address: str) -> socket.socket:
    """Binds `unix:///path` or `tcp://127.0.0.1:port`.

    Raises:
        AddressError: what is wrong with it.
    """
    scheme, _, place = address.partition("://")
    try:
        if scheme == "unix" and place.startswith("/"):
            return _listen_unix(Path(place))
        if scheme == "tcp":
            return _listen_tcp(address, place)
    except (OSError, ValueError) as error:
        raise AddressError(f"{address}: cannot listen there: {error}") from None
    raise AddressError(f"{address}: an address is unix:///path or tcp://127.0.0.1:port")


def _listen_tcp(address: str, place: str) -> socket.socket:
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    if not ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback:
        raise AddressError(f"{address}: anybody who reaches it could change the ledger; use loopback or unix:///path")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port)), family=family, backlog=BACKLOG)


def _listen_unix(path: Path) -> socket.socket:
    """Takes the place of a socket that nobody listens on any more, and of nothing else."""
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise AddressError(f"{path}: is there, and not a socket; name another place")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise AddressError(f"{path}: another process listens there; stop it first")
        path.unlink()
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(str(path))
        path.chmod(0o600)  # before anybody is let in: nothing is accepted until `listen`
        server.listen(BACKLOG)
    except OSError:
        server.close()
        raise
    return server


class AbciServer:
    """Serves one application on all connections that are made, one request at a time."""

    def __init__(self, adapter: Answering) -> None:
        self._adapter = adapter
        self._failure: asyncio.Future[None] | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.rejections: Counter[str] = Counter()
        """How often a request was refused or was none, by reason code."""

    @property
    def connections(self) -> int:
        return len(self._writers)

    async def run(self, listening: socket.socket) -> None:
        """Serves until cancelled, or until the application fails in a way that is no refusal: a full disk, a fault of
        ours. That is raised here, and nothing is answered any more."""
        self._failure = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(self._serve, sock=listening, limit=READ_BYTES)
        try:
            await self._failure
        finally:
            server.close()
            writers = list(self._writers)
            for writer in writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._writers) >= MAX_CONNECTIONS:
            self.rejections["too_many_connections"] += 1
            writer.close()
            return
        self._writers.add(writer)
        connection = Connection(self._adapter, self.rejections)
        try:
            while connection.broken is None and (data := await reader.read(READ_BYTES)):
                writer.write(connection.receive(data))
                await writer.drain()
            if connection.broken:
                log.error("connection from CometBFT ended: %s", connection.broken)
        except ConnectionError as error:
            log.info("connection from CometBFT lost: %s", error)
        except Exception as error:
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)
        finally:
            self._writers.discard(writer)
            writer.close()

"""CometBFT as an `Engine`: transactions go to its node's mempool, and blocks come back through ABCI."""

import asyncio
import base64
import logging
import socket
from collections import deque
from itertools import islice
from typing import Any, Final

import httpx
import msgspec

from tallystick.consensus.port import Application
from tallystick.errors import Refused
from tallystick.network.cometbft.server import AbciServer

log = logging.getLogger(__name__)

MAX_WAITING: Final = 4096
"""Transactions that the node has not taken yet."""
BATCH: Final = 10
"""Calls in one request: as many as a node admits by default (`max_request_batch_size`). It carries them out in order,
and order matters: a sender's later transaction makes its earlier ones stale. Only a mempool that was full and has room
again within one request can change it."""
RETRY_SECONDS: Final = 0.5
TIMEOUT_SECONDS: Final = 10.0
MAX_REPLY_BYTES: Final = 2**16
ALREADY_THERE: Final = "tx already exists in cache"
FULL: Final = "mempool is full"


class _Failure(msgspec.Struct, frozen=True):
    message: str = ""
    data: str = ""


class _Reply(msgspec.Struct, frozen=True):
    """The part of a JSON-RPC reply that tells whether a transaction was taken."""

    error: _Failure | None = None


_REPLIES: Final = msgspec.json.Decoder(list[_Reply] | _Reply)


class CometEngine:
    """Serves the application on `listening`, and hands what is submitted to the node's RPC.

    Args:
        rpc: URL of the node's RPC, such as http://127.0.0.1:26657.
    """

    def __init__(self, application: Application, server: AbciServer, listening: socket.socket, rpc: str) -> None:
        self._application, self._server, self._listening, self._rpc = application, server, listening, rpc
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, transaction: bytes) -> None:
        self._application.admit(transaction)
        if len(self._waiting) >= MAX_WAITING:
            raise Refused("mempool_full", f"{MAX_WAITING} transactions wait for the CometBFT node; try again later")
        self._waiting.append(transaction)
        self._arrived.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._server.run(self._listening))
            tasks.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        """In the order in which they came; what the node did not take is sent again."""
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            while True:
                await self._arrived.wait()
                while self._waiting:
                    batch = list(islice(self._waiting, BATCH))
                    settled = await self._send(client, batch)
                    for _ in range(settled):
                        self._waiting.popleft()
                    if settled < len(batch):
                        await asyncio.sleep(RETRY_SECONDS)
                self._arrived.clear()

    async def _send(self, client: httpx.AsyncClient, batch: list[bytes]) -> int:
        """How many of these, from the first on, the node has or will never take."""
        try:
            response = await client.post(self._rpc, json=[_call(transaction) for transaction in batch])
            replies = _REPLIES.decode(response.content[:MAX_REPLY_BYTES])
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            log.warning("%s: transactions not handed over, trying again: %s", self._rpc, error)
            return 0
        settled = 0
        for reply in replies if isinstance(replies, list) else [replies]:  # the node answers one call with one reply
            if reply.error and FULL in reply.error.data:
                log.warning("%s: %s; trying again", self._rpc, reply.error.data)
                break
            if reply.error and ALREADY_THERE not in reply.error.data:
                log.warning("%s: transaction not taken: %s %s", self._rpc, reply.error.message, reply.error.data)
            settled += 1
        return min(settled, len(batch))


def _call(transaction: bytes) -> dict[str, Any]:
    params = {"tx": base64.b64encode(transaction).decode()}
    return {"jsonrpc": "2.0", "id": 1, "method": "broadcast_tx_async", "params": params}

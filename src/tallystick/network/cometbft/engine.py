"""CometBFT as an `Engine`: transactions go to its node's mempool, and blocks come back through ABCI."""

import asyncio
import base64
import logging
import socket
from collections import deque
from typing import Any, Final

import httpx
import msgspec

from tallystick.consensus.port import Application
from tallystick.errors import Refused
from tallystick.network.cometbft.server import AbciServer

log = logging.getLogger(__name__)

MAX_WAITING: Final = 4096
"""Transactions that the node has not taken yet."""
RETRY_SECONDS: Final = 0.5
TIMEOUT_SECONDS: Final = 10.0
MAX_REPLY_BYTES: Final = 2**16
ALREADY_THERE: Final = "tx already exists in cache"


class _Failure(msgspec.Struct, frozen=True):
    message: str = ""
    data: str = ""


class _Reply(msgspec.Struct, frozen=True):
    """The part of a JSON-RPC reply that tells whether a transaction was taken."""

    error: _Failure | None = None


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
        """One transaction at a time, in order; one that the node did not get is sent again."""
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            while True:
                await self._arrived.wait()
                while self._waiting:
                    if await self._send(client, self._waiting[0]):
                        self._waiting.popleft()
                    else:
                        await asyncio.sleep(RETRY_SECONDS)
                self._arrived.clear()

    async def _send(self, client: httpx.AsyncClient, transaction: bytes) -> bool:
        """Whether the node has the transaction, or will never take it."""
        params = {"tx": base64.b64encode(transaction).decode()}
        call: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "broadcast_tx_async", "params": params}
        try:
            response = await client.post(self._rpc, json=call)
            reply = msgspec.json.decode(response.content[:MAX_REPLY_BYTES], type=_Reply)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            log.warning("%s: transaction not handed over, trying again: %s", self._rpc, error)
            return False
        if reply.error and ALREADY_THERE not in reply.error.data:
            log.warning("%s: transaction not taken: %s %s", self._rpc, reply.error.message, reply.error.data)
            return "mempool is full" not in reply.error.data
        return True

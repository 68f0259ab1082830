"""The part of CometBFT's RPC that applications use: it takes transactions for the mempool.

As in rpc/jsonrpc/server/http_json_handler.go of v0.38.25: one call is answered by an object, several by a list.
"""

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

Take = Callable[[bytes], Awaitable[str | None]]
"""Takes a transaction; returns the text of the error, or None."""


class Rpc:
    def __init__(self, take: Take) -> None:
        self._take = take
        self.requests: list[int] = []
        """How many calls came in each."""
        self.asked = asyncio.Semaphore(0)
        """Released with each."""
        self.say: bytes | None = None
        """What is answered instead, whatever is asked."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: *(\d+)", header, re.IGNORECASE)
                assert length and header.startswith(b"POST / HTTP/1.1")
                body = await self._answer(json.loads(await reader.readexactly(int(length[1]))))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, asked: Any) -> bytes:
        calls = asked if isinstance(asked, list) else [asked]
        self.requests.append(len(calls))
        self.asked.release()
        if self.say is not None:
            return self.say
        replies = []
        for call in calls:
            assert (call["method"], call["jsonrpc"]) == ("broadcast_tx_async", "2.0")
            failed = await self._take(base64.b64decode(call["params"]["tx"], validate=True))
            told = {"code": -32603, "message": "Internal error", "data": failed}
            outcome = {"error": told} if failed else {"result": {"code": 0}}
            replies.append({"jsonrpc": "2.0", "id": call["id"]} | outcome)
        return json.dumps(replies[0] if len(replies) == 1 else replies).encode()

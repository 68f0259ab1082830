"""HTTP beside an engine in one process: binding its port, and running both until one ends."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn

from tallystick.network.api import Api
from tallystick.network.bounded_http import BoundedHttp
from tallystick.network.peers import http_address, listen_on

SHUTDOWN_SECONDS: Final = 1


async def run_until(
    stopping: asyncio.Event,
    consensus: Coroutine[Any, Any, None],
    http: Coroutine[Any, Any, None],
    server: "Server",
    let_go: Callable[[], None],
) -> None:
    """Consensus and HTTP side by side until `stopping`, or until one of them fails."""
    tasks = [asyncio.create_task(work) for work in (consensus, http, stopping.wait())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    let_go()
    tasks[0].cancel()
    await asyncio.gather(*tasks[:2], return_exceptions=True)
    tasks[2].cancel()
    for task in done:
        task.result()


class Server(uvicorn.Server):
    """uvicorn inside our own process, where signals are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(api: Api, protocol: type[BoundedHttp] = BoundedHttp) -> Server:
    config = uvicorn.Config(
        api.application(),
        http=protocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(config)


def listen_http(url: str) -> socket.socket:
    """Binds the HTTP port before anything else starts, so that a taken port is a clear error.

    Raises:
        ListenError
    """
    listening = listen_on(http_address(url))
    # What it accepts inherits this. Without it the end of an answer waits 40 ms for the client's delayed ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening

"""What strangers can make the HTTP port hold, over real sockets."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from test_network_api import LIMIT_SECONDS, STATUS, Alone

from ledger_network import CLIENT, key, make_genesis
from tallystick.canon.hashing import blob_name
from tallystick.ledger.transactions import Transfer, sign_transaction
from tallystick.network import views
from tallystick.network.api import MAX_BULK_BYTES, Api
from tallystick.network.bounded_http import MAX_BESIDE_BYTES, MAX_PIPELINED, Bodies, BoundedHttp
from tallystick.network.node import Node
from tallystick.network.serving import http_server, listen_http

ROOM = 100_000
LONG = "x" * (48 * 2**20)
"""Most of it the system does not take off our hands: about 10 MiB."""
GET = b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n"


class Port:
    """A validator's HTTP port, with bounds that are quick to reach."""

    def __init__(self, folder: Path, seconds: float, most: int) -> None:
        class Quick(BoundedHttp):
            head_seconds = stall_seconds = seconds
            most_unread = 2 * len(LONG)

        Quick.most = most
        self.protocol = Quick
        self.node = Node(make_genesis(), folder / "ledger.db")
        self.engine, self.bodies = Alone(self.node), Bodies(ROOM, seconds)
        self.asked, self.version = 0, ""
        """For the status, which is as long as the version."""
        api = Api(self.node, self.engine, self.status, lambda: b"", bodies=self.bodies)
        self.server = http_server(api, Quick)
        self.listening = listen_http("http://127.0.0.1:0")
        self.dialed: list[Dialed] = []

    def status(self) -> views.Status:
        self.asked += 1
        return replace(STATUS, version=self.version)

    @property
    def unread(self) -> int:
        """Connections whose clients do not take their answers."""
        return sum(connection.flow.write_paused for connection in self.server.server_state.connections)  # type: ignore[union-attr]

    def sign(self, nonce: int) -> bytes:
        body = Transfer(key("ann").identity, 7)
        return sign_transaction(key(CLIENT), self.node.state.chain, nonce, body)

    async def dial(self, data: bytes = b"") -> "Dialed":
        reader, writer = await asyncio.open_connection(*self.listening.getsockname())
        dialed = Dialed(reader, writer)
        self.dialed.append(dialed)
        await dialed.send(data)
        return dialed

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        return await (await self.dial(data)).answer()


class Dialed:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = b""
        """Of the last answer."""

    async def send(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body."""
        self.head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(self.head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(self.head.split()[1]), await self.reader.readexactly(length)

    async def closed(self) -> None:
        with suppress(ConnectionError):
            await self.reader.read()


def post(size: int, part: bytes = b"", path: str = "/v1/transactions/bulk", wait_ms: int = 0) -> bytes:
    return f"POST {path}?wait_ms={wait_ms} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode() + part


def run(folder: Path, story: Callable[[Port], Awaitable[None]], seconds: float = 60.0, most: int = 100) -> None:
    async def whole() -> None:
        port = Port(folder, seconds, most)
        serving = asyncio.create_task(port.server.serve(sockets=[port.listening]))
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await story(port)
        finally:
            for dialed in port.dialed:
                dialed.writer.close()
            port.node.let_go()
            port.server.should_exit = True
            await serving
            port.node.close()

    asyncio.run(whole())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # nobody tells when bytes have arrived
        await asyncio.sleep(0.001)


def test_bodies_of_all_connections_together_are_bounded_and_give_their_room_back(tmp_path: Path) -> None:
    async def story(port: Port) -> None:
        started = [await port.dial(post(MAX_BULK_BYTES, bytes(ROOM // 4))) for _ in range(4)]
        await until(lambda: port.bodies.held == ROOM)
        status, reply = await port.ask(post(1, b"\x90"))
        failure = msgspec.json.decode(reply, type=views.Failure)
        assert (status, failure.code) == (503, "busy") and str(ROOM) in failure.reason
        started[0].writer.close()
        await until(lambda: port.bodies.held < ROOM)
        assert (await port.ask(post(1, b"\x90")))[0] == 200
        await started[1].send(bytes(ROOM // 4 + 1))
        assert (await started[1].answer())[0] == 503
        assert b"connection: close" in started[1].head, "nobody reads the rest"
        await started[1].closed()
        for dialed in started[2:]:
            dialed.writer.close()
        await until(lambda: port.bodies.held == 0)

    run(tmp_path, story)


def test_a_body_counts_until_its_request_is_answered(tmp_path: Path) -> None:
    async def story(port: Port) -> None:
        port.engine.held = []
        transaction = port.sign(1)
        waiting = await port.dial(post(len(transaction), transaction, "/v1/transactions", wait_ms=30_000))
        await until(lambda: port.engine.held == [transaction])
        assert port.bodies.held == len(transaction)
        port.engine.execute(transaction)
        assert (await waiting.answer())[0] == 200
        assert port.bodies.held == 0

    run(tmp_path, story)


def test_a_body_that_is_not_whole_in_time_is_given_up_however_steadily_it_comes(tmp_path: Path) -> None:
    async def story(port: Port) -> None:
        slow = await port.dial(post(MAX_BULK_BYTES))
        answer = asyncio.create_task(slow.answer())
        while not answer.done():
            await slow.send(b"x")
            await asyncio.sleep(0.01)
        status, reply = await answer
        assert (status, msgspec.json.decode(reply, type=views.Failure).code) == (408, "too_slow")
        await slow.closed()
        assert port.bodies.held == 0

    run(tmp_path, story, seconds=0.3)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nx: y\r\n", GET])
def test_a_connection_on_which_no_head_comes_is_closed(tmp_path: Path, sent: bytes) -> None:
    async def story(port: Port) -> None:
        dialed = await port.dial(sent)
        if sent == GET:
            await dialed.answer()
            await dialed.send(b"G")  # uvicorn waits for the rest for ever
        await dialed.closed()

    run(tmp_path, story, seconds=0.3)


ENDLESS = {
    "one header": (b"GET / HTTP/1.1\r\nx: ", b"x"),
    "headers": (b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
    "a path": (b"GET /", b"x"),
    "framing": (b"POST /v1/transactions/bulk HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"1;abcdefgh\r\nx\r\n"),
    "a trailer": (b"POST /v1/transactions/bulk HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
    "requests": (b"GET /v1/events?after=999&wait_ms=30000 HTTP/1.1\r\n\r\n", GET),
    "a body that nobody reads": (
        b"GET /v1/events?after=999&wait_ms=30000 HTTP/1.1\r\ncontent-length: 10000000\r\n\r\n",
        b"x",
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_request_without_end_is_cut_off(tmp_path: Path, what: str) -> None:
    start, more = ENDLESS[what]

    async def story(port: Port) -> None:
        dialed = await port.dial(start)
        await dialed.send(more * (2 * MAX_BESIDE_BYTES // len(more)))
        await dialed.closed()

    run(tmp_path, story)


def test_a_request_within_its_bounds_passes(tmp_path: Path) -> None:
    async def story(port: Port) -> None:
        padding = b"GET /v1/status HTTP/1.1\r\nx: " + b"x" * (MAX_BESIDE_BYTES - 100) + b"\r\n\r\n"
        dialed = await port.dial(padding + padding)
        assert [(await dialed.answer())[0] for _ in range(2)] == [200, 200]
        await dialed.send(GET * (MAX_PIPELINED + 1))
        assert [(await dialed.answer())[0] for _ in range(MAX_PIPELINED + 1)] == [200] * (MAX_PIPELINED + 1)
        chunks = b"".join(b"4000\r\n" + bytes(0x4000) + b"\r\n" for _ in range(6))
        await dialed.send(b"POST /v1/transactions/bulk HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)
        await until(lambda: port.bodies.held == 6 * 0x4000)
        await dialed.send(b"0\r\n\r\n")
        assert b"malformed" in (await dialed.answer())[1], "it was read whole: zeros are no list"

    run(tmp_path, story)


def test_connections_beyond_the_bound_are_told_so_and_the_others_live_on(tmp_path: Path) -> None:
    async def story(port: Port) -> None:
        first = [await port.dial() for _ in range(3)]
        await until(lambda: len(port.server.server_state.connections) == 3)
        assert (await port.ask(b""))[0] == 503
        await first[0].send(GET)
        assert (await first[0].answer())[0] == 200
        first[1].writer.close()
        await until(lambda: len(port.server.server_state.connections) == 2)
        assert (await port.ask(GET))[0] == 200

    run(tmp_path, story, most=3)


def test_many_that_wait_for_news_keep_their_connections_beyond_all_time_limits(tmp_path: Path) -> None:
    """Also one whose question came before the answer to the one ahead of it."""

    async def story(port: Port) -> None:
        began, transaction = time.monotonic(), port.sign(1)
        news = f"GET /v1/transactions/{blob_name(transaction)}?wait_ms=30000 HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        workers = [await port.dial(news) for _ in range(60)] + [await port.dial(GET + news)]
        assert (await workers[-1].answer())[0] == 200
        idle = await port.dial()
        await idle.closed()
        await until(lambda: time.monotonic() > began + 0.8)
        port.engine.submit(transaction)
        assert {(await worker.answer())[0] for worker in workers} == {200}

    run(tmp_path, story, seconds=0.3)


@pytest.mark.parametrize("header", [b"", b"connection: close\r\n"])
def test_a_client_that_does_not_take_its_answer_is_given_up(tmp_path: Path, header: bytes) -> None:
    async def story(port: Port) -> None:
        port.version = LONG
        await port.dial(GET[:-2] + header + b"\r\n")
        await until(lambda: port.unread == 1)
        await until(lambda: not port.server.server_state.connections)

    run(tmp_path, story, seconds=0.3)


def test_a_client_that_takes_its_answers_slowly_gets_all_of_them(tmp_path: Path) -> None:
    async def story(port: Port) -> None:
        port.version = LONG[: len(LONG) // 3]
        slow, taken = await port.dial(GET * 2), 0
        while taken < 2 * len(port.version):
            data = await slow.reader.read(2**16)
            assert data, "cut off"
            taken += len(data)
            await asyncio.sleep(0.005)  # 512 times: longer than a client that takes nothing has

    run(tmp_path, story, seconds=1)


def test_no_answer_is_begun_before_the_one_ahead_of_it_is_taken(tmp_path: Path) -> None:
    async def story(port: Port) -> None:
        port.version = LONG
        reader = await port.dial(GET * 2)
        await until(lambda: port.unread == 1)
        assert (await port.ask(post(1, b"\x90")))[0] == 200, "another one is served meanwhile"
        assert port.asked == 1
        assert len((await reader.answer())[1]) > len(LONG)
        assert len((await reader.answer())[1]) > len(LONG) and port.asked == 2

    run(tmp_path, story)


def test_all_answers_that_wait_are_bounded_together_and_the_oldest_gives_way(tmp_path: Path) -> None:
    async def story(port: Port) -> None:
        port.version = LONG
        oldest = await port.dial(GET)
        await until(lambda: port.unread == 1)
        others = [await port.dial(GET)]
        await until(lambda: port.unread == 2)
        others.append(await port.dial(GET))
        await until(lambda: port.asked == 3 and port.unread == 2)
        for dialed in others:
            assert len((await dialed.answer())[1]) > len(LONG)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await oldest.answer()
        port.protocol.most_unread = ROOM
        assert len((await port.ask(GET))[1]) > len(LONG), "one that comes alone may be longer than the bound"

    run(tmp_path, story)


def test_answers_do_not_wait_for_the_clients_delayed_acknowledgment() -> None:
    with listen_http("http://127.0.0.1:0") as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

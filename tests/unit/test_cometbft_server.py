"""The sockets of the application: who may reach them, how many, and hostile bytes on them."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from cometbft_app import App, make_chain
from cometbft_engine import QUERY, Comet, StoppedError
from ledger_network import make_genesis
from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft.connection import Frames, frame
from tallystick.consensus.cometbft.protobuf import varint
from tallystick.network.cometbft.server import MAX_CONNECTIONS, AddressError, listen

GENESIS = make_genesis()
LIMIT_SECONDS = 30
HOSTILE = [
    varint(2**31),
    b"\xff" * 20,
    b"\x00",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:26658\r\n" * 3,
    varint(3) + b"\xaa\x01\x00",
]


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:0", "tcp://192.0.2.1:26658", "tcp://[::]:0", "tcp://example.org:26658", "tcp://:26658"],
)
def test_nobody_outside_this_machine_may_drive_the_ledger(address: str) -> None:
    with pytest.raises(AddressError):
        listen(address)


@pytest.mark.parametrize("address", ["", "127.0.0.1:26658", "http://127.0.0.1:1", "unix://relative", "tcp://127.0.0.1"])
def test_an_address_is_named_in_full(address: str) -> None:
    with pytest.raises(AddressError):
        listen(address)


def test_a_port_on_loopback_is_served() -> None:
    for address in ("tcp://127.0.0.1:0", "tcp://localhost:0"):
        with listen(address) as server:
            assert server.getsockname()[0] == "127.0.0.1"


def test_a_unix_socket_is_this_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "abci.sock"
    old = os.umask(0)
    try:
        with listen(f"unix://{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(old)


def test_the_socket_of_a_dead_process_is_taken_over_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "abci.sock"
    with listen(f"unix://{path}"), pytest.raises(AddressError, match="another process"):
        listen(f"unix://{path}")
    assert path.exists()
    listen(f"unix://{path}").close()


def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_bytes(b"data")
    with pytest.raises(AddressError, match="not a socket"):
        listen(f"unix://{path}")
    assert path.read_bytes() == b"data"


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AddressError, match="cannot listen"):
        listen(f"tcp://127.0.0.1:{taken.getsockname()[1]}")


async def send(path: str, data: bytes) -> list[m.ResponseException]:
    """What is answered to raw bytes, until the other side hangs up."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    await writer.drain()
    writer.write_eof()
    frames, found = Frames(), []
    frames.feed(await reader.read())
    while (content := frames.next()) is not None:
        found.append(m.unwrap(m.RESPONSES, content))
    writer.close()
    await writer.wait_closed()
    return found


def test_hostile_bytes_end_their_own_connection_and_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App(tmp_path, GENESIS)
        async with asyncio.timeout(LIMIT_SECONDS), app.serving(), Comet(make_chain(GENESIS)) as comet:
            await comet.start(app.path)
            for data in (
                varint(2**31),
                b"\xff" * 20,
                b"\x00",
                b"GET / HTTP/1.1\r\nHost: 127.0.0.1:26658\r\n" * 3,
                varint(3) + b"\xaa\x01\x00",
            ):
                answers = await send(app.path, data + frame(m.RequestEcho("after")))
                assert [type(answer) for answer in answers] == [m.ResponseException], data
            assert await send(app.path, frame(m.RequestEcho("x"))[:-1]) == []
            assert sum(app.server.rejections.values()) == len(HOSTILE)
            assert (await comet.ask(QUERY, m.RequestEcho("still here"))).message == "still here"

    asyncio.run(scenario())


def test_connections_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App(tmp_path, GENESIS)
        async with asyncio.timeout(LIMIT_SECONDS), app.serving():
            idle = [await asyncio.open_unix_connection(app.path) for _ in range(MAX_CONNECTIONS)]
            assert await send(app.path, b"") == []
            assert app.server.rejections["too_many_connections"] == 1
            for _, writer in idle:
                writer.close()
                await writer.wait_closed()
            while not await send(app.path, frame(m.RequestEcho("x"))):
                pass  # until the server has seen that one of them is gone

    asyncio.run(scenario())


def test_a_disk_that_fails_stops_the_server_and_a_restart_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        app = App(tmp_path, GENESIS, snapshot_interval=2)
        async with asyncio.timeout(LIMIT_SECONDS), Comet(make_chain(GENESIS)) as comet:
            running = asyncio.create_task(app.server.run(listen(app.address)))
            await asyncio.sleep(0)
            await comet.start(app.path)
            await comet.run_block(comet.chain.decide((), GENESIS.time_ms))
            (tmp_path / "snapshots").rmdir()
            with pytest.raises(StoppedError, match="hung up"):
                await comet.run_block(comet.chain.decide((), GENESIS.time_ms))
            with pytest.raises(FileNotFoundError):
                await running
            restarted = app.again()
            async with restarted.serving():
                await comet.start(restarted.path)
                await comet.run_block(comet.chain.decide((), GENESIS.time_ms))
                assert restarted.node.height == 3
                await comet.hang_up()

    asyncio.run(scenario())

"""Transactions on their way to CometBFT's mempool: in order, each once, whatever the node says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cometbft_app import App, Payer
from cometbft_rpc import Rpc
from ledger_network import CLIENT, make_genesis
from tallystick.errors import Refused
from tallystick.ledger.transactions import Deposit
from tallystick.network.cometbft import engine as module
from tallystick.network.cometbft.engine import CometEngine
from tallystick.network.cometbft.server import listen
from tallystick.network.local import free_ports

GENESIS = make_genesis()
LIMIT_SECONDS = 30


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)


class Mempool:
    """Takes what it is given, unless it is told to refuse."""

    def __init__(self, wanted: int) -> None:
        self.taken: list[bytes] = []
        self.refusals: list[str] = []
        """Texts of errors, for the next calls."""
        self.whole = asyncio.Event()
        self._wanted = wanted

    async def take(self, transaction: bytes) -> str | None:
        if self.refusals:
            return self.refusals.pop(0)
        self.taken.append(transaction)
        if len(self.taken) == self._wanted:
            self.whole.set()
        return None


@asynccontextmanager
async def engine(home: Path, port: int) -> AsyncIterator[CometEngine]:
    app = App(home, GENESIS)
    with listen(app.address) as listening:
        made = CometEngine(app.node, app.server, listening, f"http://127.0.0.1:{port}")
        task = asyncio.create_task(made.run())
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def payments(count: int) -> list[bytes]:
    payer = Payer(GENESIS, CLIENT)
    return [payer.sign(Deposit(1)) for _ in range(count)]


def test_many_go_in_order_and_few_at_a_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, mempool, txs = free_ports(1)[0], Mempool(35), payments(35)
        rpc = Rpc(mempool.take)
        async with await asyncio.start_server(rpc.serve, "127.0.0.1", port), engine(tmp_path, port) as made:
            for tx in txs:
                made.submit(tx)
            await mempool.whole.wait()
        assert mempool.taken == txs and max(rpc.requests) == module.BATCH

    asyncio.run(scenario())


def test_a_node_that_comes_later_gets_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, mempool, txs = free_ports(1)[0], Mempool(12), payments(12)
        async with engine(tmp_path, port) as made:
            for tx in txs:
                made.submit(tx)
            await asyncio.sleep(0.05)
            assert made.waiting == 12
            async with await asyncio.start_server(Rpc(mempool.take).serve, "127.0.0.1", port):
                await mempool.whole.wait()
        assert mempool.taken == txs

    asyncio.run(scenario())


def test_a_full_mempool_is_tried_again_and_what_it_will_not_take_is_dropped(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, mempool, txs = free_ports(1)[0], Mempool(3), payments(5)
        full = "mempool is full: number of txs 5000 (max: 5000), total txs bytes 9 (max: 10)"
        mempool.refusals = [full] * 5 + ["tx already exists in cache", "Tx too large. Max size is 1, but got 170"]
        rpc = Rpc(mempool.take)
        async with await asyncio.start_server(rpc.serve, "127.0.0.1", port), engine(tmp_path, port) as made:
            for tx in txs:
                made.submit(tx)
            await mempool.whole.wait()
        assert mempool.taken == txs[2:] and rpc.requests == [5, 5]

    asyncio.run(scenario())


@pytest.mark.parametrize("nonsense", [b"", b"<html>", b"[]", b'"x"', b"[" * 5000, b'{"error": 5}', b"\xff" * 2**17])
def test_nonsense_for_an_answer_is_no_answer(tmp_path: Path, nonsense: bytes) -> None:
    async def scenario() -> None:
        port, mempool, txs = free_ports(1)[0], Mempool(2), payments(2)
        rpc = Rpc(mempool.take)
        rpc.say = nonsense
        async with await asyncio.start_server(rpc.serve, "127.0.0.1", port), engine(tmp_path, port) as made:
            for tx in txs:
                made.submit(tx)
            await rpc.asked.acquire()
            await rpc.asked.acquire()
            assert made.waiting == 2
            rpc.say = None
            await mempool.whole.wait()
        assert mempool.taken == txs

    asyncio.run(scenario())


def test_what_the_ledger_refuses_is_not_handed_over_and_the_queue_is_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tx,) = payments(1)
        async with engine(tmp_path, free_ports(1)[0]) as made:
            with pytest.raises(Refused, match="bad_signature"):
                made.submit(tx[:-1] + b"!")
            for _ in range(module.MAX_WAITING):
                made.submit(tx)
            with pytest.raises(Refused, match="mempool_full"):
                made.submit(tx)
            assert made.waiting == module.MAX_WAITING

    asyncio.run(scenario())

"""Four engines over TLS on loopback, each with its SQLite file: they commit, and one of them may die and come back."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from pbft_sockets import free_ports, validators_at

from tallystick.canon.identity import Key
from tallystick.consensus.pbft import Group, verify_certificate
from tallystick.consensus.pbft.messages import Forward, seal_message
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.network.engine import PbftEngine
from tallystick.network.peers import split_address
from tallystick.network.store import Store
from tallystick.network.tls import client_context

KEYS = [Key.from_seed(bytes([i]) * 32) for i in range(4)]
GROUP = Group("test", tuple(key.identity for key in KEYS))
SECONDS = 20


class Journal:
    """An application that keeps what it executed in the engine's store, in one transaction with its height."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.changed = asyncio.Condition()
        height, state = store.executed() or (0, b"")
        self.height = height
        self.executed = [line for line in state.split(b"\n") if line]
        self.blocks: list[CommittedBlock] = []
        self.deadline_ms: int | None = None
        self._told: set[asyncio.Task[None]] = set()

    def check(self, transaction: bytes) -> None:
        if transaction.startswith(b"bad"):
            raise Refused("bad_transaction", "begins with bad")

    def admit(self, transaction: bytes) -> None:
        self.check(transaction)
        if transaction in self.executed:
            raise Refused("stale", "executed already")

    def next_deadline_ms(self) -> int | None:
        return self.deadline_ms if self.height == 0 else None

    def validators(self) -> tuple[str, ...]:
        return GROUP.validators

    def snapshot(self) -> bytes:
        return b"\n".join(self.executed)

    def restore(self, snapshot: bytes) -> None:
        self.executed = [line for line in snapshot.split(b"\n") if line]

    def execute(self, block: CommittedBlock) -> None:
        assert block.height == self.height + 1
        self.height = block.height
        self.executed += block.transactions
        self.blocks.append(block)
        with self.store.transaction():
            self.store.save_executed(self.height, b"\n".join(self.executed))
        self._tell()

    def _tell(self) -> None:
        """Wakes whoever waits for this application; there is nobody while an engine recovers outside the loop."""
        task = asyncio.ensure_future(self._notify())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, transactions: set[bytes]) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: transactions <= set(self.executed))


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.validators = validators_at(KEYS, free_ports(4))
        self.engines: dict[int, PbftEngine] = {}
        self.apps: dict[int, Journal] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, index: int, deadline_ms: int | None = None) -> None:
        store = Store(self.folder / f"{index}.db", "test", KEYS[index].identity)
        self.apps[index] = Journal(store)
        self.apps[index].deadline_ms = deadline_ms
        engine = PbftEngine(KEYS[index], self.validators, "test", self.apps[index], store)
        self.engines[index] = engine
        self.tasks[index] = asyncio.create_task(engine.run())

    async def stop(self, index: int) -> None:
        task = self.tasks.pop(index)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.apps[index].store.close()

    async def until(self, *transactions: bytes) -> None:
        for index in self.tasks:
            await self.apps[index].until(set(transactions))


def on_four(folder: Path, scenario: Callable[[Cluster], Coroutine[None, None, None]]) -> None:
    async def limited() -> None:
        cluster = Cluster(folder)
        async with asyncio.timeout(SECONDS):
            await scenario(cluster)
            for index in list(cluster.tasks):
                await cluster.stop(index)
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(limited())


def test_four_engines_execute_the_same_blocks_whoever_was_told_of_the_transactions(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for index in range(4):
            cluster.start(index)
        sent = [b"transaction %d" % i for i in range(40)]
        for i, transaction in enumerate(sent):
            cluster.engines[i % 4].submit(transaction)
        await cluster.until(*sent)
        assert len({tuple(app.executed) for app in cluster.apps.values()}) == 1
        assert sorted(cluster.apps[0].executed) == sorted(sent)
        for stored in cluster.apps[3].store.blocks(1, 99):
            verify_certificate(GROUP, stored.block, stored.certificate)
        status = cluster.engines[1].status()
        assert (status.view, status.primary, status.waiting) == (0, KEYS[0].identity, 0)
        assert not status.rejections

    on_four(tmp_path, scenario)


def test_a_stopped_validator_catches_up_from_its_file_and_the_others_go_on_without_it(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for index in range(4):
            cluster.start(index)
        cluster.engines[0].submit(b"before")
        await cluster.until(b"before")
        await cluster.stop(3)
        for i in range(5):
            cluster.engines[1].submit(b"meanwhile %d" % i)
            await cluster.until(b"meanwhile %d" % i)
        cluster.start(3)
        assert cluster.apps[3].executed == [b"before"]
        await cluster.until(*(b"meanwhile %d" % i for i in range(5)))
        cluster.engines[3].submit(b"after")
        await cluster.until(b"after")
        assert len({tuple(app.executed) for app in cluster.apps.values()}) == 1

    on_four(tmp_path, scenario)


def test_a_primary_that_comes_back_goes_on_proposing(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for index in range(4):
            cluster.start(index)
        cluster.engines[0].submit(b"before")
        await cluster.until(b"before")
        await cluster.stop(0)
        cluster.engines[2].submit(b"in its absence")
        cluster.start(0)
        await cluster.until(b"in its absence")

    on_four(tmp_path, scenario)


def test_blocks_that_were_stored_and_not_executed_are_executed_at_the_start(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for index in range(4):
            cluster.start(index)
        cluster.engines[0].submit(b"one")
        await cluster.until(b"one")
        await cluster.stop(2)
        store = Store(tmp_path / "2.db", "test", KEYS[2].identity)
        store.connection.execute("DELETE FROM executed")  # as if it had died between the two
        store.close()
        cluster.start(2)
        assert cluster.apps[2].executed == [b"one"]
        assert cluster.apps[2].blocks[0].digest == cluster.apps[1].blocks[0].digest

    on_four(tmp_path, scenario)


def test_an_empty_block_comes_when_the_application_says_one_is_due(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for index in range(4):
            cluster.start(index, deadline_ms=1)
        for index in range(4):
            app = cluster.apps[index]
            async with app.changed:
                await app.changed.wait_for(lambda app=app: app.height == 1)  # type: ignore[misc]
            assert app.blocks[0].transactions == ()

    on_four(tmp_path, scenario)


def test_what_the_application_does_not_admit_is_refused_to_the_sender(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start(0)
        with pytest.raises(Refused, match="bad_transaction"):
            cluster.engines[0].submit(b"bad one")
        assert cluster.engines[0].status().waiting == 0

    on_four(tmp_path, scenario)


def test_a_validator_that_sends_garbage_is_counted_and_stops_nobody(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for index in range(3):
            cluster.start(index)
        cluster.engines[0].submit(b"one")
        await cluster.until(b"one")
        host, port = split_address(cluster.validators[0].address)
        context = client_context(KEYS[3], [cluster.validators[0].certificate])
        _, writer = await asyncio.open_connection(host, port, ssl=context)
        last = seal_message(KEYS[3], GROUP, Forward(0, [b"three"]))
        for frame in (b"", b"\x00", b"\xff" * 500, last):
            writer.write(len(frame).to_bytes(4) + frame)
        await cluster.until(b"three")  # so the garbage before it has been read
        cluster.engines[1].submit(b"two")
        await cluster.until(b"two")
        assert cluster.engines[0].status().rejections == {"truncated": 2, "bad_signature": 1}
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    on_four(tmp_path, scenario)

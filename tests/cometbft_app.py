"""A ledger served to the scripted engine (`cometbft_engine.py`): the real node, adapter and socket, in this process."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cometbft_engine import BLOCK_BYTES, Chain, Comet, at
from ledger_network import key
from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft import values as v
from tallystick.consensus.cometbft.adapter import Adapter
from tallystick.consensus.cometbft.chain import comet_chain
from tallystick.consensus.cometbft.validators import update_of
from tallystick.ledger.genesis import Genesis, chain_id
from tallystick.ledger.transactions import AnyBody, sign_transaction
from tallystick.network.cometbft.ledger import CometLedger
from tallystick.network.cometbft.server import AbciServer, listen
from tallystick.network.cometbft.shelf import FileShelf
from tallystick.network.node import Node

PLACES = itertools.count()


class App:
    """One application process, as far as its engine can tell."""

    def __init__(self, home: Path, genesis: Genesis, **options: int) -> None:
        home.mkdir(exist_ok=True)
        self.path = str(home / f"abci-{next(PLACES)}.sock")
        self.address = f"unix://{self.path}"
        self.node = Node(genesis, home / "ledger.db")
        self.ledger = CometLedger(self.node, genesis)
        self.shelf = FileShelf(home / "snapshots")
        self.server = AbciServer(Adapter(self.ledger, self.shelf, version="test", **options))
        self._home, self._genesis, self._options = home, genesis, options

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["App"]:
        task = asyncio.create_task(self.server.run(listen(self.address)))
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def again(self) -> "App":
        """What a new process finds after this one was killed: nothing is flushed."""
        self.node.journal.abandon()
        return App(self._home, self._genesis, **self._options)

    def found(self) -> "App":
        """The same while this one goes on: in a copy, since one process holds its files."""
        copy = self._home.with_name(f"{self._home.name}-{next(PLACES)}")
        shutil.copytree(self._home, copy, ignore=shutil.ignore_patterns("*.sock"))
        return App(copy, self._genesis, **self._options)


def make_chain(genesis: Genesis) -> Chain:
    validators = tuple(update_of(info.identity) for info in genesis.validators)
    params = v.ConsensusParams(v.BlockParams(BLOCK_BYTES, -1), abci=v.ABCIParams())
    name = comet_chain(chain_id(genesis))
    return Chain(m.RequestInitChain(at(genesis.time_ms), name, params, validators, b"", 1))


class Payer:
    """Signs transactions of one member with ever larger nonces."""

    def __init__(self, genesis: Genesis, who: str) -> None:
        self._key, self._chain, self.nonce = key(who), chain_id(genesis), 0

    def sign(self, body: AnyBody) -> bytes:
        self.nonce += 1
        return sign_transaction(self._key, self._chain, self.nonce, body)


async def agree(nodes: list[Comet], txs: tuple[bytes, ...], time_ms: int, *misbehavior: v.Misbehavior) -> bytes:
    """One height: the first node proposes, all accept, execute and commit; returns the app hash, the same for all."""
    proposed = await nodes[0].propose(txs, time_ms)
    assert [await node.process(proposed, time_ms) for node in nodes] == [True] * len(nodes)
    block = nodes[0].chain.decide(proposed, time_ms, misbehavior)
    (app_hash,) = {(await node.run_block(block)).app_hash for node in nodes}
    return app_hash

"""What CometBFT does to its application, as a script over real sockets: handshake, blocks, restart, state sync.

It follows CometBFT v0.38.25: abci/client/socket_client.go (frames, flush, order of answers), consensus/replay.go (what
a restart sends again), state/execution.go (a block's life, and what is saved on the way) and statesync/syncer.go.
It agrees with nobody: what it decides is decided. Nothing of the application is replaced here.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft import values as v
from tallystick.consensus.cometbft.connection import Frames, frame

CONSENSUS, MEMPOOL, QUERY, SNAPSHOT = range(4)
INFO: Final = m.RequestInfo("0.38.25", 11, 8, "2.0.0")
BLOCK_BYTES: Final = 4 * 2**20


class StoppedError(Exception):
    """The application sent an exception or hung up; CometBFT stops then, too."""


class Link:
    """One connection to the application."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._frames = reader, writer, Frames()

    async def call(self, *requests: Any) -> list[Any]:
        """Sends all requests and a flush, then reads as many answers and the answer to the flush."""
        self._writer.write(b"".join(map(frame, [*requests, m.RequestFlush()])))
        answers = [await self._answer() for _ in requests]
        assert isinstance(await self._answer(), m.ResponseFlush)
        for request, answer in zip(requests, answers, strict=True):
            assert type(answer).__name__.removeprefix("Response") == type(request).__name__.removeprefix("Request")
        return answers

    async def _answer(self) -> Any:
        while (content := self._frames.next()) is None:
            data = await self._reader.read(2**16)
            if not data:
                raise StoppedError("the application hung up")
            self._frames.feed(data)
        answer = m.unwrap(m.RESPONSES, content)
        if isinstance(answer, m.ResponseException):
            raise StoppedError(answer.error)
        return answer

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@dataclass
class Chain:
    """The genesis document and the decided blocks, which all nodes share."""

    init: m.RequestInitChain
    blocks: list[m.RequestFinalizeBlock] = field(default_factory=list)

    def decide(
        self, txs: Iterable[bytes], time_ms: int, misbehavior: tuple[v.Misbehavior, ...] = ()
    ) -> m.RequestFinalizeBlock:
        """Makes a block of these transactions, whoever would refuse it."""
        height = len(self.blocks) + 1
        parent = self.blocks[-1].hash if self.blocks else b""
        name = sha256(parent + time_ms.to_bytes(8, "big") + b"".join(sha256(tx).digest() for tx in txs)).digest()
        block = m.RequestFinalizeBlock(
            tuple(txs), v.CommitInfo(), misbehavior, name, height, at(time_ms), sha256(b"next").digest(), b"p" * 20
        )
        self.blocks.append(block)
        return block


def at(time_ms: int) -> v.Timestamp:
    return v.Timestamp(time_ms // 1000, time_ms % 1000 * 10**6 + 999_999)  # CometBFT's time has nanoseconds


class Comet:
    """One CometBFT node. What it has on disk survives `restart`; connections do not."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.stored = 0
        """Height of its block store."""
        self.base = 1
        """Its first stored block; later after state sync."""
        self.state_height = 0
        self.app_hash = b""
        self.responses: dict[int, m.ResponseFinalizeBlock] = {}
        """What FinalizeBlock answered: saved before Commit."""
        self.validators: dict[bytes, int] = {}
        self.links: list[Link] = []

    async def connect(self, path: str) -> None:
        for _ in range(4):
            self.links.append(Link(*await asyncio.open_unix_connection(path)))

    async def hang_up(self) -> None:
        for link in self.links:
            await link.close()
        self.links = []

    async def __aenter__(self) -> "Comet":
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.hang_up()

    async def ask(self, link: int, request: Any) -> Any:
        (answer,) = await self.links[link].call(request)
        return answer

    async def start(self, path: str) -> m.ResponseInfo:
        """Connects, and brings the application to where the block store is (Handshaker.ReplayBlocks)."""
        await self.hang_up()
        await self.connect(path)
        info: m.ResponseInfo = await self.ask(QUERY, INFO)
        height = info.last_block_height
        if height == 0:
            await self._init_chain()
        assert height >= self.base - 1, "the application is behind what the store still has"
        assert height <= self.stored, "the application is ahead of the block store: CometBFT refuses to start"
        for block in self.chain.blocks[height : self.stored]:
            await self._apply(block)
        if height == self.stored and self.state_height == self.stored - 1:
            self._save_state(self.responses[height], height)  # "replay last block using mock app"
        assert self.state_height == self.stored
        last = await self.ask(QUERY, INFO)
        assert last.last_block_height == self.stored
        assert self.stored == 0 or last.last_block_app_hash == self.app_hash, "state.AppHash does not match"
        return info

    async def _init_chain(self) -> None:
        answer = await self.ask(CONSENSUS, self.chain.init)
        if self.state_height == 0:
            self.app_hash = answer.app_hash
            updates = answer.validators or self.chain.init.validators
            self.validators = {_key_of(entry): entry.power for entry in updates}
            assert self.validators, "validator set is nil in genesis and still empty after InitChain"

    async def run_block(self, block: m.RequestFinalizeBlock) -> m.ResponseFinalizeBlock:
        """A decided block's life: stored, executed, committed."""
        self.stored = block.height
        return await self._apply(block)

    async def _apply(self, block: m.RequestFinalizeBlock) -> m.ResponseFinalizeBlock:
        response = await self.finalize(block)
        await self.commit(block.height)
        return response

    async def finalize(self, block: m.RequestFinalizeBlock) -> m.ResponseFinalizeBlock:
        self.stored = max(self.stored, block.height)
        response: m.ResponseFinalizeBlock = await self.ask(CONSENSUS, block)
        assert len(response.tx_results) == len(block.txs)
        known = self.responses.setdefault(block.height, response)
        assert _agreed(known) == _agreed(response), "executing a block again gave something else"
        return response

    async def commit(self, height: int) -> m.ResponseCommit:
        answer: m.ResponseCommit = await self.ask(CONSENSUS, m.RequestCommit())
        self.base = max(self.base, answer.retain_height)  # older blocks are deleted
        if height > self.state_height:
            self._save_state(self.responses[height], height)
        return answer

    def _save_state(self, response: m.ResponseFinalizeBlock, height: int) -> None:
        self.state_height, self.app_hash = height, response.app_hash
        for update in response.validator_updates:
            if update.power:
                self.validators[_key_of(update)] = update.power
            else:
                assert self.validators.pop(_key_of(update), None), "removes a validator that is none"
        assert self.validators, "applying the validator changes would result in empty set"

    async def propose(self, txs: Iterable[bytes], time_ms: int) -> tuple[bytes, ...]:
        """The transactions that its application makes of those in the mempool."""
        request = m.RequestPrepareProposal(
            BLOCK_BYTES, tuple(txs), v.ExtendedCommitInfo(), (), len(self.chain.blocks) + 1, at(time_ms)
        )
        answer = await self.ask(CONSENSUS, request)
        return tuple(answer.txs)

    async def process(self, txs: Iterable[bytes], time_ms: int) -> bool:
        request = m.RequestProcessProposal(
            tuple(txs), v.CommitInfo(), (), b"h" * 32, len(self.chain.blocks) + 1, at(time_ms)
        )
        answer = await self.ask(CONSENSUS, request)
        assert answer.status != m.Verdict.UNKNOWN, "CometBFT panics"
        return bool(answer.status == m.Verdict.ACCEPT)

    async def check(self, *txs: bytes, again: bool = False) -> list[m.ResponseCheckTx]:
        kind = m.CheckTxType.RECHECK if again else m.CheckTxType.NEW
        return await self.links[MEMPOOL].call(*(m.RequestCheckTx(tx, kind) for tx in txs))

    async def sync(self, peers: "dict[str, Peer]", snapshot: v.Snapshot, app_hash: bytes) -> str:
        """Restores a snapshot from chunks of `peers`, who are left out once they are rejected (statesync/syncer.go).
        Returns `restored`, or why not."""
        validators = dict(next(iter(peers.values())).node.validators)  # CometBFT has them from its light client
        while True:
            offer = await self.ask(SNAPSHOT, m.RequestOfferSnapshot(snapshot, app_hash))
            if offer.result != m.Offer.ACCEPT:
                return m.Offer(offer.result).name
            verdict = await self._apply_chunks(peers, snapshot)
            if verdict == "RETRY_SNAPSHOT":
                continue
            if verdict != "restored":
                return verdict
            info = await self.ask(QUERY, INFO)
            assert (info.last_block_height, info.last_block_app_hash) == (snapshot.height, app_hash)
            self.stored = self.state_height = snapshot.height
            self.base, self.app_hash, self.validators = snapshot.height + 1, app_hash, validators
            return "restored"

    async def _apply_chunks(self, peers: "dict[str, Peer]", snapshot: v.Snapshot) -> str:
        index = 0
        while index < snapshot.chunks:
            assert peers, "nobody is left to ask"
            sender = min(peers)
            chunk = await peers[sender].chunk(snapshot, index)
            answer = await self.ask(SNAPSHOT, m.RequestApplySnapshotChunk(index, chunk, sender))
            for rejected in answer.reject_senders:
                peers.pop(rejected, None)
            if answer.result == m.Applied.ACCEPT:
                index += 1
            elif answer.result != m.Applied.RETRY:
                return m.Applied(answer.result).name
        return "restored"


@dataclass
class Peer:
    """Another node that serves snapshots; it may serve something else than it has."""

    node: Comet
    spoiled: frozenset[int] = frozenset()
    """Chunks that it spoils."""

    async def snapshots(self) -> tuple[v.Snapshot, ...]:
        answer = await self.node.ask(SNAPSHOT, m.RequestListSnapshots())
        return tuple(answer.snapshots)

    async def chunk(self, snapshot: v.Snapshot, index: int) -> bytes:
        request = m.RequestLoadSnapshotChunk(snapshot.height, snapshot.format, index)
        answer = await self.node.ask(SNAPSHOT, request)
        return answer.chunk + b"!" if index in self.spoiled else bytes(answer.chunk)


def _agreed(response: m.ResponseFinalizeBlock) -> Any:
    """The part that goes into block headers, or changes what others do."""
    results = tuple(replace(result, log="", info="", events=()) for result in response.tx_results)
    return response.app_hash, response.validator_updates, results


def _key_of(update: v.ValidatorUpdate) -> bytes:
    assert update.pub_key is not None and update.pub_key.ed25519 is not None
    return update.pub_key.ed25519

"""State sync between ledgers under the scripted engine: a whole state in chunks, from peers that may lie."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from cometbft_app import App, Payer, agree, make_chain
from cometbft_engine import SNAPSHOT, Comet, Peer
from ledger_network import CLIENT, key, make_genesis
from tallystick.canon import chunks
from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft import snapshots
from tallystick.consensus.cometbft import values as v
from tallystick.ledger.state import dump_state
from tallystick.ledger.transactions import Transfer

CROWD = 8_000
"""Accounts enough for a state of three chunks."""
GENESIS = make_genesis(people=[CLIENT, "ann"])
BIG = changed(
    GENESIS, balances=GENESIS.balances | {sha256(index.to_bytes(4, "big")).hexdigest(): 1 for index in range(CROWD)}
)
START = BIG.time_ms
LIMIT_SECONDS = 60


@dataclass
class Scene:
    """A node with a snapshot of height 2, at height 3, and a new one beside it."""

    old: App
    serving: Comet
    new: App
    joining: Comet
    app_hashes: list[bytes]

    async def offered(self) -> v.Snapshot:
        return (await Peer(self.serving).snapshots())[0]


@asynccontextmanager
async def scene(home: Path) -> AsyncIterator[Scene]:
    async with asyncio.timeout(LIMIT_SECONDS):
        chain, payer = make_chain(BIG), Payer(BIG, CLIENT)
        old, new = App(home / "old", BIG, snapshot_interval=2), App(home / "new", BIG, snapshot_interval=2)
        async with old.serving(), new.serving(), Comet(chain) as serving, Comet(chain) as joining:
            await serving.start(old.path)
            pay = Transfer(key("ann").identity, 7)
            hashes = [await agree([serving], (payer.sign(pay),), START + height) for height in (1, 2, 3)]
            await joining.connect(new.path)
            yield Scene(old, serving, new, joining, hashes)


def test_a_new_node_takes_a_snapshot_and_goes_on_from_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            snapshot = await it.offered()
            assert (snapshot.height, snapshot.format, snapshot.chunks) == (2, 1, 3)
            assert await it.joining.sync({"a": Peer(it.serving)}, snapshot, it.app_hashes[1]) == "restored"
            killed = it.new.again()  # right after: what was restored is on disk
            async with killed.serving():
                info = await it.joining.start(killed.path)
                assert (info.last_block_height, info.last_block_app_hash) == (2, it.app_hashes[1])
                await it.joining.run_block(it.joining.chain.blocks[2])
                assert it.joining.app_hash == it.app_hashes[2]
                assert dump_state(killed.node.state) == dump_state(it.old.node.state)
                await it.joining.hang_up()

    asyncio.run(scenario())


def test_spoiled_chunks_are_fetched_from_others_and_their_senders_rejected(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            peers = {
                "a": Peer(it.serving, spoiled=frozenset({0})),
                "b": Peer(it.serving, spoiled=frozenset({2})),
                "c": Peer(it.serving),
            }
            assert await it.joining.sync(peers, await it.offered(), it.app_hashes[1]) == "restored"
            assert set(peers) == {"c"}
            assert snapshots.app_hash(it.new.node.snapshot()) == it.app_hashes[1]

    asyncio.run(scenario())


DATA = bytes(2 * chunks.CHUNK_BYTES + 5)
TRUE = snapshots.describe(2, DATA)
OTHER = snapshots.describe(2, DATA[1:])


@pytest.mark.parametrize(
    ("offer", "verdict"),
    [
        (replace(TRUE, format=2), m.Offer.REJECT_FORMAT),
        (replace(TRUE, chunks=TRUE.chunks + 1), m.Offer.REJECT_SENDER),
        (replace(TRUE, chunks=0), m.Offer.REJECT_SENDER),
        (replace(TRUE, metadata=TRUE.metadata[::-1]), m.Offer.REJECT_SENDER),
        (replace(TRUE, metadata=TRUE.metadata[:-1]), m.Offer.REJECT_SENDER),
        (replace(TRUE, metadata=TRUE.metadata + TRUE.metadata[-32:]), m.Offer.REJECT_SENDER),
        (replace(TRUE, metadata=b""), m.Offer.REJECT_SENDER),
        (OTHER, m.Offer.REJECT_SENDER),
        (replace(OTHER, hash=TRUE.hash), m.Offer.REJECT_SENDER),
        (None, m.Offer.REJECT),
    ],
)
def test_an_offer_of_another_state_is_refused_before_anything_is_fetched(
    offer: v.Snapshot | None, verdict: m.Offer
) -> None:
    agreed = snapshots.app_hash(DATA)
    assert snapshots.judge(m.RequestOfferSnapshot(TRUE, agreed)) == m.Offer.ACCEPT
    assert snapshots.judge(m.RequestOfferSnapshot(offer, agreed)) == verdict


@pytest.mark.parametrize("wrong", [b"", bytes(32), snapshots.app_hash(DATA[1:]), snapshots.app_hash(DATA)[:-1]])
def test_only_the_app_hash_that_was_agreed_on_makes_an_offer_true(wrong: bytes) -> None:
    assert snapshots.judge(m.RequestOfferSnapshot(TRUE, wrong)) == m.Offer.REJECT_SENDER


def test_a_snapshot_of_nothing_is_refused() -> None:
    empty = snapshots.describe(2, b"")
    assert snapshots.judge(m.RequestOfferSnapshot(empty, snapshots.app_hash(b""))) == m.Offer.REJECT_SENDER


def test_a_state_that_cannot_be_read_is_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            before = it.new.node.state
            foreign = dump_state(changed(it.old.node.state, chain="test-" + "0" * 32))
            for data in (b"noise", foreign):
                it.old.shelf.save(6, data)
                offer = snapshots.describe(6, data)
                peers = {"a": Peer(it.serving)}
                assert await it.joining.sync(peers, offer, snapshots.app_hash(data)) == "REJECT_SNAPSHOT"
                assert peers and it.new.node.state is before and it.new.found().node.height == 0
            true = await it.offered()
            assert await it.joining.sync({"a": Peer(it.serving)}, true, it.app_hashes[1]) == "restored"

    asyncio.run(scenario())


def test_chunks_that_nobody_asked_for_end_the_restoration(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            ask, snapshot = it.joining.ask, await it.offered()
            stray = m.RequestApplySnapshotChunk(0, b"x", "a")
            assert (await ask(SNAPSHOT, stray)).result == m.Applied.ABORT
            await ask(SNAPSHOT, m.RequestOfferSnapshot(snapshot, it.app_hashes[1]))
            ahead = m.RequestApplySnapshotChunk(1, chunks.chunk(it.old.shelf.load(2) or b"", 1), "a")
            assert (await ask(SNAPSHOT, ahead)).result == m.Applied.RETRY_SNAPSHOT
            assert await it.joining.sync({"a": Peer(it.serving)}, snapshot, it.app_hashes[1]) == "restored"

    asyncio.run(scenario())


def test_a_ledger_with_a_state_keeps_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            offer = m.RequestOfferSnapshot(await it.offered(), it.app_hashes[1])
            assert (await it.serving.ask(SNAPSHOT, offer)).result == m.Offer.ABORT
            assert it.old.node.height == 3

    asyncio.run(scenario())


def test_what_is_not_on_the_shelf_is_an_empty_chunk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            for height, form, index in [(2, 1, 3), (2, 1, 2**32 - 1), (2, 2, 0), (1, 1, 0), (2**64 - 1, 1, 0)]:
                request = m.RequestLoadSnapshotChunk(height, form, index)
                assert (await it.serving.ask(SNAPSHOT, request)).chunk == b""

    asyncio.run(scenario())

"""State sync between ledgers under the scripted engine: a whole state in chunks, from peers that may lie."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from cometbft_app import App, Payer, agree, make_chain
from cometbft_engine import SNAPSHOT, Comet, Peer
from ledger_network import CLIENT, key, make_genesis
from tallystick.canon.hashing import digest
from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft import snapshots
from tallystick.ledger.state import dump_state, state_digest
from tallystick.ledger.transactions import Transfer

CROWD = 500
"""Accounts enough for a state of three small chunks."""
GENESIS = make_genesis(people=[CLIENT, "ann"])
BIG = changed(
    GENESIS, balances=GENESIS.balances | {sha256(index.to_bytes(4, "big")).hexdigest(): 1 for index in range(CROWD)}
)
START = BIG.time_ms
LIMIT_SECONDS = 60


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", 2**14)


@dataclass
class Scene:
    """A node with a snapshot of height 2, at height 3, and a new one beside it."""

    old: App
    serving: Comet
    new: App
    joining: Comet
    app_hashes: list[bytes]

    async def offered(self) -> m.Snapshot:
        (snapshot,) = await Peer(self.serving).snapshots()
        return snapshot


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
            assert state_digest(it.new.node.state) == it.app_hashes[1]

    asyncio.run(scenario())


def rebuilt(snapshot: m.Snapshot, **fields: object) -> m.Snapshot:
    """An offer that is consistent in itself, whatever it says."""
    other = replace(snapshot, **fields)  # type: ignore[arg-type]
    name = digest("tallystick/snapshot", (1).to_bytes(4, "big"), other.height.to_bytes(8, "big"), other.metadata)
    return replace(other, hash=name)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda offer: offer, m.Offer.ACCEPT),
        (lambda offer: rebuilt(offer, height=7), m.Offer.ACCEPT),  # found out when all is there
        (lambda offer: replace(offer, format=2), m.Offer.REJECT_FORMAT),
        (lambda offer: replace(offer, height=7), m.Offer.REJECT_SENDER),
        (lambda offer: replace(offer, chunks=4), m.Offer.REJECT_SENDER),
        (lambda offer: replace(offer, hash=b""), m.Offer.REJECT_SENDER),
        (lambda offer: replace(offer, metadata=offer.metadata[::-1]), m.Offer.REJECT_SENDER),
        (lambda offer: rebuilt(offer, metadata=offer.metadata[:-1]), m.Offer.REJECT_SENDER),
        (lambda offer: rebuilt(offer, chunks=0, metadata=b""), m.Offer.REJECT_SENDER),
        (lambda offer: rebuilt(offer, chunks=1025, metadata=b"x" * 32 * 1025), m.Offer.REJECT_SENDER),
        (lambda offer: rebuilt(offer, height=0), m.Offer.REJECT_SENDER),
        (lambda offer: rebuilt(offer, height=2**63), m.Offer.REJECT_SENDER),
    ],
)
def test_offers_that_cannot_be_are_refused(change: Callable[[m.Snapshot], m.Snapshot], verdict: m.Offer) -> None:
    offer = change(snapshots.describe(2, bytes(2 * snapshots.CHUNK_BYTES + 5)))
    assert snapshots.judge(m.RequestOfferSnapshot(offer, b"h" * 32)) == verdict
    assert snapshots.judge(m.RequestOfferSnapshot(offer, b"h" * 31)) == m.Offer.REJECT
    assert snapshots.judge(m.RequestOfferSnapshot(None, b"h" * 32)) == m.Offer.REJECT


def test_a_state_that_was_not_agreed_on_is_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            before = it.new.node.state
            rich = changed(it.old.node.state, minted=it.old.node.state.minted + 1)
            it.old.shelf.save(6, dump_state(changed(rich, height=6)))
            false = (await Peer(it.serving).snapshots())[-1]
            peers = {"a": Peer(it.serving), "b": Peer(it.serving)}
            assert await it.joining.sync(peers, false, it.app_hashes[1]) == "REJECT_SNAPSHOT"
            assert set(peers) == {"b"} and it.new.node.state is before and it.new.again().node.height == 0
            true, _ = await Peer(it.serving).snapshots()
            assert await it.joining.sync(peers, true, it.app_hashes[1]) == "restored"

    asyncio.run(scenario())


def test_a_true_state_of_another_height_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            moved = rebuilt(await it.offered(), height=5)
            answer = await it.joining.ask(SNAPSHOT, m.RequestOfferSnapshot(moved, it.app_hashes[1]))
            assert answer.result == m.Offer.ACCEPT
            data = it.old.shelf.load(2) or b""
            results = [
                await it.joining.ask(
                    SNAPSHOT, m.RequestApplySnapshotChunk(index, snapshots.chunk_of(data, index), f"peer{index}")
                )
                for index in range(3)
            ]
            assert [result.result for result in results] == [
                m.Applied.ACCEPT,
                m.Applied.ACCEPT,
                m.Applied.REJECT_SNAPSHOT,
            ]
            assert results[-1].reject_senders == ("peer0", "peer1", "peer2")
            assert it.new.node.height == 0

    asyncio.run(scenario())


def test_chunks_that_nobody_asked_for_end_the_restoration(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scene(tmp_path) as it:
            ask, snapshot = it.joining.ask, await it.offered()
            stray = m.RequestApplySnapshotChunk(0, b"x", "a")
            assert (await ask(SNAPSHOT, stray)).result == m.Applied.ABORT
            await ask(SNAPSHOT, m.RequestOfferSnapshot(snapshot, it.app_hashes[1]))
            ahead = m.RequestApplySnapshotChunk(1, snapshots.chunk_of(it.old.shelf.load(2) or b"", 1), "a")
            assert (await ask(SNAPSHOT, ahead)).result == m.Applied.RETRY_SNAPSHOT
            assert await it.joining.sync({"a": Peer(it.serving)}, snapshot, it.app_hashes[1]) == "restored"

    asyncio.run(scenario())


def test_an_oversized_chunk_of_a_made_up_list_is_refused() -> None:
    chunk = bytes(snapshots.CHUNK_BYTES + 1)
    offer = rebuilt(m.Snapshot(2, 1, 2), metadata=sha256(chunk).digest() * 2)
    assert snapshots.judge(m.RequestOfferSnapshot(offer, b"h" * 32)) == m.Offer.ACCEPT
    kept: list[bytes] = []
    restoration = snapshots.Restoration(offer, b"h" * 32, lambda data, height, wanted: kept.append(data))
    answer = restoration.apply(m.RequestApplySnapshotChunk(0, chunk, "liar"))
    assert answer == m.ResponseApplySnapshotChunk(m.Applied.REJECT_SNAPSHOT, (), ("liar",))
    assert not kept and not restoration.chunks


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

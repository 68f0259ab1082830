"""Transactions over HTTP: one, many, and again. The engine orders whatever it is given at once, alone."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from immutables import Map
from msgspec.structs import replace
from pbft_cluster import FOUR, KEYS, block_at, certify, content_of, stable_proof

from ledger_network import CLIENT, POLICY, RICH, beacon_of, key, make_genesis, name
from tallystick.canon.chunks import manifest_of
from tallystick.canon.hashing import blob_name
from tallystick.consensus.pbft.io import CheckpointRecord
from tallystick.consensus.pbft.limits import MAX_BLOCK_BYTES
from tallystick.consensus.port import CommittedBlock
from tallystick.ledger.state import Account, Task, Worker
from tallystick.ledger.transactions import AddValidator, Anchor, AnyBody, Batch, Deposit, Transfer, sign_transaction
from tallystick.network import views
from tallystick.network.api import CHECKS, MAX_BULK, MAX_BULK_BYTES, WALKED, Api
from tallystick.network.dial import MAX_BLOCKS_REPLY_BYTES
from tallystick.network.journal import Journal
from tallystick.network.node import Node
from tallystick.network.store import Store, StoredBlock, create_store
from tallystick.network.tables import DamagedError

PAY = Transfer(key("ann").identity, 7)
STATUS = views.Status("", "", "", 0, 0, 0, "", 0, 0, {})


LIMIT_SECONDS = 10
"""For a story; less than what some in it are ready to wait, so that whoever is not woken fails it."""


class Alone:
    """An engine of one: it admits, and executes in the loop's next turn unless it is told to hold."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.held: list[bytes] | None = None
        self.height = node.height

    def submit(self, transaction: bytes) -> None:
        self.node.admit(transaction)
        if self.held is None:
            asyncio.get_running_loop().call_soon(self.execute, transaction)
        else:
            self.held.append(transaction)

    def execute(self, *transactions: bytes) -> None:
        self.height += 1
        beacon = beacon_of(self.height, 2_000_000, transactions)
        self.node.execute(CommittedBlock(self.height, 2_000_000, beacon, transactions, b""))

    async def run(self) -> None:
        return


class Face:
    """A validator's HTTP face in this process."""

    def __init__(self, node: Node) -> None:
        self.node, self.engine = node, Alone(node)
        api = Api(node, self.engine, lambda: STATUS, lambda: b"metrics")
        transport = httpx.ASGITransport(api.application())
        self.http = httpx.AsyncClient(transport=transport, base_url="http://validator")

    def sign(self, nonce: int, body: AnyBody = PAY, who: str = CLIENT) -> bytes:
        return sign_transaction(key(who), self.node.state.chain, nonce, body)

    async def post(self, data: bytes, wait_ms: int = 5_000) -> views.Submitted:
        reply = await self.http.post(f"/v1/transactions?wait_ms={wait_ms}", content=data)
        assert reply.status_code == 200, reply.text
        return msgspec.json.decode(reply.content, type=views.Submitted)

    async def bulk(self, *transactions: bytes, wait_ms: int = 5_000) -> list[views.Submitted]:
        content = msgspec.msgpack.encode(list(transactions))
        reply = await self.http.post(f"/v1/transactions/bulk?wait_ms={wait_ms}", content=content)
        assert reply.status_code == 200, reply.text
        return msgspec.json.decode(reply.content, type=views.SubmittedMany).answers


@pytest.fixture
def face(tmp_path: Path) -> Face:
    return Face(Node(make_genesis(), tmp_path / "ledger.db"))


def run(story: Coroutine[None, None, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            await story

    asyncio.run(limited())


def test_a_transaction_sent_again_is_answered_with_its_result_and_not_executed_again(face: Face) -> None:
    async def story() -> None:
        raw = face.sign(1)
        first = await face.post(raw)
        assert first.outcome is not None and (first.outcome.code, first.outcome.height) == ("ok", 1)
        assert await face.post(raw) == first
        assert face.engine.height == 1
        refused = face.sign(2, Transfer(key("ann").identity, 10 * RICH))
        outcome = (await face.post(refused)).outcome
        assert outcome is not None and outcome.code == "insufficient_balance"
        assert (await face.post(refused)).outcome == outcome

    run(story())


def test_after_a_state_transfer_the_reply_comes_from_the_state(face: Face, tmp_path: Path) -> None:
    async def story() -> None:
        earlier, last = face.sign(1), face.sign(2)
        await face.bulk(earlier, last)
        newcomer = Face(Node(make_genesis(), tmp_path / "newcomer.db"))
        newcomer.node.restore(face.node.snapshot())
        assert newcomer.node.journal.result(blob_name(last)) is None
        assert (await newcomer.post(last)).outcome == views.TransactionView(blob_name(last), 2, "ok", "")
        reply = await newcomer.http.post("/v1/transactions", content=earlier)
        assert (reply.status_code, reply.json()["code"]) == (400, "stale_nonce")
        assert newcomer.engine.height == 0, "neither was ordered again"

    run(story())


def test_a_forged_copy_of_an_executed_transaction_gets_no_reply_from_the_state(face: Face, tmp_path: Path) -> None:
    async def story() -> None:
        raw = face.sign(1)
        await face.post(raw)
        reply = await face.http.post("/v1/transactions", content=raw[:-1] + bytes([raw[-1] ^ 1]))
        assert reply.json()["code"] == "bad_signature"

    run(story())


def test_many_at_once_have_an_answer_each(face: Face) -> None:
    async def story() -> None:
        batch = Batch([PAY, Transfer(key("bob").identity, 2 * RICH)])
        sent = [face.sign(1), b"noise", face.sign(2, batch), face.sign(1), face.sign(3, who="nobody")]
        await face.post(sent[0])
        answers = await face.bulk(*sent)
        assert [answer.hash for answer in answers] == [blob_name(raw) for raw in sent]
        codes = [answer.refusal.code if answer.refusal else None for answer in answers]
        assert codes == [None, "truncated", None, None, "unknown_sender"]
        outcomes = [answer.outcome.code if answer.outcome else None for answer in answers]
        assert outcomes == ["ok", None, "items_refused", "ok", None]
        assert answers[2].outcome is not None and answers[2].outcome.items == ("ok", "insufficient_balance")

    run(story())


def test_whoever_waits_is_told_when_its_transaction_is_executed_and_not_before(face: Face) -> None:
    async def story() -> None:
        face.engine.held = []
        raw, other = face.sign(1), face.sign(2)
        waiting = asyncio.create_task(face.post(raw, wait_ms=30_000))
        looking = asyncio.create_task(face.http.get(f"/v1/transactions/{blob_name(raw)}?wait_ms=30000"))
        assert (await face.post(other, wait_ms=1)).outcome is None
        assert not waiting.done() and not looking.done()
        face.engine.execute(raw)
        outcome = (await waiting).outcome
        assert outcome is not None and (await looking).json()["hash"] == outcome.hash == blob_name(raw)
        assert not face.node.awaited, "nobody is left behind"

    run(story())


def test_a_bulk_request_is_bounded_in_number_bytes_and_form(face: Face) -> None:
    async def story() -> None:
        most = msgspec.msgpack.encode([b""] * MAX_BULK)
        assert (await face.http.post("/v1/transactions/bulk", content=most)).status_code == 200
        more = msgspec.msgpack.encode([b""] * (MAX_BULK + 1))
        for bad, status in ((more, 400), (bytes(MAX_BULK_BYTES + 1), 413), (b"\x91\x01", 400), (b"", 400)):
            assert (await face.http.post("/v1/transactions/bulk", content=bad)).status_code == status

    run(story())


class Slices:
    """How often something was done between two turns of everything else, at most."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0

    def counting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.now, self.all = self.now + 1, self.all + 1
            self.most = max(self.most, self.now)
            return original(*arguments)

        return counted

    def turn(self) -> None:
        self.now = 0
        asyncio.get_running_loop().call_soon(self.turn)


@pytest.mark.parametrize("requests", [(2 * CHECKS,) * 5, (1,) * (3 * CHECKS)])
def test_however_many_transactions_come_at_once_consensus_has_its_turn(
    face: Face, monkeypatch: pytest.MonkeyPatch, requests: tuple[int, ...]
) -> None:
    slices, nonces = Slices(), count(1)
    monkeypatch.setattr(face.engine, "submit", slices.counting(face.engine.submit))

    async def story() -> None:
        sent = [[face.sign(next(nonces), who="nobody") for _ in range(size)] for size in requests]
        slices.turn()
        if requests[0] > 1:
            answers = await asyncio.gather(*(face.bulk(*each) for each in sent))
            codes = {answer.refusal.code for each in answers for answer in each if answer.refusal}
        else:
            replies = await asyncio.gather(*(face.http.post("/v1/transactions", content=one) for (one,) in sent))
            codes = {reply.json()["code"] for reply in replies}
        assert codes == {"unknown_sender"}
        assert (slices.all, slices.most) == (sum(requests), CHECKS)

    run(story())


COSTLY: dict[str, tuple[Any, str]] = {
    "/v1/validators": (views, "validators"),
    "/v1/tasks": (views, "task_page"),
    "/v1/tasks/{task}": (views, "task_view"),
    "/v1/tasks/{task}/history": (views, "history"),
    "/v1/assignments/nobody": (views, "work"),
    "/v1/events": (Journal, "events"),
    "/v1/blocks/1": (Store, "blocks"),
    "/v1/blocks": (Store, "blocks_within"),
    "/v1/history": (Store, "history"),
}


@pytest.mark.parametrize("path", COSTLY)
def test_however_many_ask_at_once_consensus_has_its_turn_between_two_answers(
    face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    slices = Slices()
    where, what = COSTLY[path]
    monkeypatch.setattr(where, what, slices.counting(getattr(where, what)))

    async def story() -> None:
        await face.bulk(face.sign(1, Deposit(100), "ann"), face.sign(1, Anchor(name("digest"))))
        task = task_of(name("task"))
        face.node.state = replace(face.node.state, tasks=Map({task.id: task}))
        create_store(tmp_path / "consensus.db", "test", KEYS[0].identity, muted=False)
        with closing(Store(tmp_path / "consensus.db", "test", KEYS[0].identity)) as store:
            fill(store, 4)
            api = Api(face.node, face.engine, lambda: STATUS, lambda: b"", store)
            transport = httpx.ASGITransport(api.application())
            async with httpx.AsyncClient(transport=transport, base_url="http://validator") as http:
                slices.now = slices.most = slices.all = 0
                slices.turn()
                replies = await asyncio.gather(*(http.get(path.format(task=task.id)) for _ in range(10)))
        assert {reply.status_code for reply in replies} == {200}
        assert slices.all == 10 and slices.most == 1

    run(story())


def test_money_is_counted_once_for_all_who_ask_and_some_accounts_at_a_time(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices, counts = Slices(), Slices()
    monkeypatch.setattr(views, "held_by", slices.counting(views.held_by))
    monkeypatch.setattr(views, "money", counts.counting(views.money))

    async def story() -> None:
        state = face.node.state
        others = {name(i): Account(balance=1, stake=2) for i in range(2 * WALKED)}
        face.node.state = replace(state, accounts=state.accounts.update(others), minted=state.minted + 3 * len(others))
        slices.turn()
        replies = await asyncio.gather(*(face.http.get("/v1/money") for _ in range(10)))
        (shown,) = {msgspec.json.decode(reply.content, type=views.Money).held for reply in replies}
        assert shown == face.node.state.minted - face.node.state.burned
        assert (counts.all, slices.all, slices.most) == (1, 3, 1)
        await face.post(face.sign(1))
        later = msgspec.json.decode((await face.http.get("/v1/money")).content, type=views.Money)
        assert later.height == 1 and later.conserved and counts.all == 2

    run(story())


def task_of(task: str, workers: int = 0) -> Task:
    joined = Map({name(i): Worker("active", 0) for i in range(workers)})
    return Task(task, "", "", "", "", 1, 1, POLICY, 1, 1, 1, workers=joined)


def test_tasks_are_shown_page_by_page_in_the_order_of_their_ids(face: Face) -> None:
    async def page(after: str) -> list[str]:
        reply = await face.http.get(f"/v1/tasks?after={after}")
        return [task.id for task in msgspec.json.decode(reply.content, type=list[views.TaskView])]

    async def story() -> None:
        ids = sorted(name(i) for i in range(WALKED + 10))
        face.node.state = replace(face.node.state, tasks=Map({task: task_of(task) for task in ids}))
        assert await page("") == ids[: views.MAX_TASKS]
        assert await page(ids[99]) == ids[100 : 100 + views.MAX_TASKS]
        assert await page(ids[-3]) == ids[-2:] and await page(ids[-1]) == []
        most = views.MAX_TASK_ENTRIES
        sizes = dict(zip(ids, (most // 2, most // 2, 1, most + 1), strict=False))
        face.node.state = replace(face.node.state, tasks=Map({task: task_of(task, sizes[task]) for task in sizes}))
        assert await page("") == ids[:2] and await page(ids[1]) == ids[2:3] and await page(ids[2]) == ids[3:4]

    run(story())


def test_blocks_and_the_checkpoints_that_prove_them_are_shown_page_by_page(face: Face, tmp_path: Path) -> None:
    async def story() -> None:
        create_store(tmp_path / "consensus.db", "test", KEYS[0].identity, muted=False)
        with closing(Store(tmp_path / "consensus.db", "test", KEYS[0].identity, retain=3)) as store:
            api = Api(face.node, face.engine, lambda: STATUS, lambda: b"", store)
            transport = httpx.ASGITransport(api.application())
            async with httpx.AsyncClient(transport=transport, base_url="http://validator") as http:
                assert (await http.get("/v1/history")).json() == {"changes": [], "stable": ""}
                assert (await http.get("/v1/blocks/1")).json()["code"] == "no_such_block"
                proofs = fill(store, blocks=4 * (views.MAX_PROOFS + 2))
                pages = [await http.get(f"/v1/history?start={start}") for start in (0, views.MAX_PROOFS, 1000)]
                shown = [msgspec.json.decode(page.content, type=views.Checkpoints) for page in pages]
                assert [page.changes for page in shown] == [proofs[:64], proofs[64:], []]
                assert {page.stable for page in shown} == {proofs[-1]}
                last = 4 * len(proofs)
                for height in (last, last - 2):
                    found = await http.get(f"/v1/blocks/{height}")
                    (stored,) = store.blocks(height, height)
                    view = views.BlockView(stored.block, stored.certificate)
                    assert msgspec.json.decode(found.content, type=views.BlockView) == view
                for start, heights in ((0, 3), (last - 1, 2), (last + 1, 0)):
                    reply = await http.get(f"/v1/blocks?start={start}")
                    page = msgspec.json.decode(reply.content, type=views.Blocks).blocks
                    kept = [found.block for found in store.blocks(last + 1 - heights, last)]
                    assert [each.block for each in page] == kept, start
                for height in (last + 1, last - 3, 0):
                    missing = await http.get(f"/v1/blocks/{height}")
                    assert (missing.status_code, missing.json()["code"]) == (404, "no_such_block")
                    assert f"{last - 2} to " in missing.json()["reason"], "forgotten below"
                for bad in ("/v1/blocks/-1", "/v1/blocks/x", "/v1/history?start=-1", f"/v1/blocks/{10**30}"):
                    assert (await http.get(bad)).json()["code"] == "malformed"

    run(story())


def test_a_page_of_blocks_is_bounded_in_number_and_in_bytes(face: Face, tmp_path: Path) -> None:
    async def story() -> None:
        create_store(tmp_path / "consensus.db", "test", KEYS[0].identity, muted=False)
        with closing(Store(tmp_path / "consensus.db", "test", KEYS[0].identity)) as store:
            api = Api(face.node, face.engine, lambda: STATUS, lambda: b"", store)
            transport = httpx.ASGITransport(api.application())
            async with httpx.AsyncClient(transport=transport, base_url="http://validator") as http:
                small = views.MAX_BLOCKS + 10
                for height in range(1, small + 8):
                    block = b"x" * (MAX_BLOCK_BYTES if height > small else 10)
                    store.save_block(StoredBlock(height, bytes(32), height, block, b"certificate"))
                for start, count in ((1, views.MAX_BLOCKS), (small - 1, 3), (small + 1, 1), (small + 7, 1)):
                    reply = await http.get(f"/v1/blocks?start={start}")
                    assert len(msgspec.json.decode(reply.content, type=views.Blocks).blocks) == count
                    assert len(reply.content) < MAX_BLOCKS_REPLY_BYTES

    run(story())


def test_a_block_that_is_not_what_was_written_ends_the_validator_and_is_not_shown(face: Face, tmp_path: Path) -> None:
    path, found = tmp_path / "consensus.db", list[DamagedError]()

    async def story() -> None:
        create_store(path, "test", KEYS[0].identity, muted=False)
        with closing(Store(path, "test", KEYS[0].identity)) as store:
            store.save_snapshot(8, manifest_of(b"state"), b"state")
            fill(store, blocks=8)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE blocks SET block = x'00' WHERE height = 2")
        with closing(Store(path, "test", KEYS[0].identity)) as store:
            api = Api(face.node, face.engine, lambda: STATUS, lambda: b"", store, damaged=found.append)
            transport = httpx.ASGITransport(api.application())
            async with httpx.AsyncClient(transport=transport, base_url="http://validator") as http:
                assert (await http.get("/v1/blocks/1")).status_code == 200
                assert not found
                reply = await http.get("/v1/blocks/2")
                assert (reply.status_code, reply.json()["code"]) == (503, "damaged")

    run(story())
    assert "validator recover" in str(found[0])


def fill(store: Store, blocks: int) -> list[bytes]:
    """Blocks, and a checkpoint at every fourth at which the validators change; returns its proofs."""
    proofs = []
    for height in range(1, blocks + 1):
        block = block_at(height)
        store.save_block(StoredBlock(height, bytes(32), height, block, certify(FOUR, block, (0, 1, 2), height=height)))
        if height % 4 == 0:
            proofs.append(stable_proof(FOUR, content_of(FOUR, height), (0, 1, 2)))
            store.save(CheckpointRecord(0, height, proofs[-1], ends=True))
    return proofs


def test_under_another_engine_blocks_are_not_here(face: Face) -> None:
    async def story() -> None:
        for path in ("/v1/blocks/1", "/v1/history"):
            reply = await face.http.get(path)
            assert (reply.status_code, reply.json()["code"]) == (404, "not_kept")

    run(story())


def test_the_validators_and_what_waits_for_endorsement_are_shown(face: Face) -> None:
    async def story() -> None:
        change = AddValidator(key("ann").identity, "ann:7000", "", "PEM", 100)
        await face.bulk(face.sign(1, Deposit(100), "ann"), face.sign(1, change, "v0"))
        reply = await face.http.get("/v1/validators")
        shown = msgspec.json.decode(reply.content, type=views.Validators)
        assert [v.identity for v in shown.validators] == [key(f"v{i}").identity for i in range(4)]
        assert [v.address for v in shown.validators] == [f"v{i}.example:7000" for i in range(4)]
        assert shown.proposals == [views.ProposalView(change, (key("v0").identity,), 3)]

    run(story())

"""Engines over TLS on loopback, each with its SQLite file: they commit, and some of them die, come back, or lie."""

import asyncio
import errno
import json
import os
import random
import sqlite3
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from pbft_sockets import validators_at

from tallystick.canon.identity import Key, save_key
from tallystick.canon.votes import Commit, Prepare
from tallystick.consensus.pbft import ChainOfTrust, Group, Parameters, verify_certificate
from tallystick.consensus.pbft.messages import Forward, Proposal, open_message, seal_message
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.network.admission import Admission
from tallystick.network.channels import Outgoing
from tallystick.network.engine import HaltedError, PbftEngine, Shell
from tallystick.network.local import free_ports
from tallystick.network.peers import Peers, Validator, split_address
from tallystick.network.store import RETAIN_BLOCKS, Store, create_store
from tallystick.network.tables import DamagedError, StoreError
from tallystick.network.tls import client_context, make_certificate
from tallystick.network.validator import NEXT_KEY, next_key_can_take_over

KEYS = [Key.from_seed(bytes([i]) * 32) for i in range(5)]
NAMES = [key.identity for key in KEYS]
GROUP = Group("test", tuple(NAMES[:4]), parameters=Parameters(interval=4, epoch_length=16, window=3))
SECONDS = 30
TIMEOUT_MS = 500


class Ledger:
    """An application that keeps its transactions in a file. `validators 0 1 2 3 4` decides who agrees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed = asyncio.Condition()
        self.height = 0
        self.executed: list[bytes] = []
        self.names = tuple(NAMES[:4])
        self.blocks: list[CommittedBlock] = []
        self.deadline_ms: int | None = None
        self.salt = ""
        self._told: set[asyncio.Task[None]] = set()
        if path.exists():
            self._load(path.read_bytes())

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
        return self.names

    def snapshot(self) -> bytes:
        lines = [line.decode() for line in self.executed]
        return json.dumps([self.height, lines, self.names, self.salt]).encode()

    def restore(self, snapshot: bytes) -> None:
        self._load(snapshot)
        self.path.write_bytes(snapshot)
        self._tell()

    def execute(self, block: CommittedBlock) -> None:
        assert block.height == self.height + 1
        self.height = block.height
        self.blocks.append(block)
        for transaction in block.transactions:
            self.executed.append(transaction)
            if transaction.startswith(b"validators "):
                self.names = tuple(NAMES[int(number)] for number in transaction.split()[1:])
        self.path.write_bytes(self.snapshot())
        self._tell()

    def _load(self, snapshot: bytes) -> None:
        self.height, lines, names, _ = json.loads(snapshot)
        self.executed, self.names = [line.encode() for line in lines], tuple(names)

    def _tell(self) -> None:
        """Wakes whoever waits for this application."""
        task = asyncio.ensure_future(self._notify())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, ready: Callable[["Ledger"], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: ready(self))


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed = {v.identity: v for v in validators_at(KEYS, free_ports(5))}
        self.engines: dict[int, PbftEngine] = {}
        self.ledgers: dict[int, Ledger] = {}
        self.stores: dict[int, Store] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.accused: list[str] = []
        self.newcomers: tuple[str, ...] = ()
        self.settled: dict[int, asyncio.Event] = {}
        """Set when a checkpoint has become stable."""

    def start(
        self, index: int, deadline_ms: int | None = None, *, retain: int = RETAIN_BLOCKS, muted: bool = False
    ) -> None:
        if not self.path(index).exists():
            create_store(self.path(index), "test", NAMES[index], muted=muted)
        self.stores[index] = Store(self.path(index), "test", NAMES[index], retain=retain)
        ledger = self.ledgers[index] = Ledger(self.folder / f"{index}.json")
        ledger.deadline_ms = deadline_ms
        accuse = lambda culprit, first, second: self.accused.append(culprit)  # noqa: E731
        settled = self.settled[index] = asyncio.Event()
        shell = Shell(
            self.directory,
            accuse,
            settled=settled.set,
            newcomers=lambda: self.newcomers,
            jitter=random.Random(index),
        )
        self.engines[index] = PbftEngine(
            KEYS[index],
            GROUP,
            ledger,
            self.stores[index],
            shell,
            listen=self.listed[NAMES[index]].address,
            timeout_ms=TIMEOUT_MS,
        )
        self.tasks[index] = asyncio.create_task(self.engines[index].run())

    def start_four(self, deadline_ms: int | None = None, *, retain: int = RETAIN_BLOCKS) -> None:
        for index in range(4):
            self.start(index, deadline_ms, retain=retain)

    def path(self, index: int) -> Path:
        return self.folder / f"{index}.db"

    def directory(self, identity: str) -> Validator | None:
        return self.listed.get(identity)

    async def stop(self, index: int) -> None:
        task = self.tasks.pop(index)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.stores[index].close()

    async def until(self, *transactions: bytes) -> None:
        await self.reach(lambda ledger: set(transactions) <= set(ledger.executed))

    async def reach(self, ready: Callable[[Ledger], bool]) -> None:
        for index in self.tasks:
            await self.ledgers[index].until(ready)

    async def fill(self, by: int, blocks: int, word: str) -> None:
        """Lets `blocks` blocks be agreed on, one transaction in each."""
        for number in range(blocks):
            transaction = f"{word} {number}".encode()
            self.engines[by].submit(transaction)
            await self.ledgers[by].until(lambda ledger, wanted=transaction: wanted in ledger.executed)  # type: ignore[misc]


def run_cluster(folder: Path, scenario: Callable[[Cluster], Coroutine[None, None, None]]) -> None:
    async def limited() -> None:
        cluster = Cluster(folder)
        try:
            async with asyncio.timeout(SECONDS):
                await scenario(cluster)
                assert len({ledger.snapshot() for i, ledger in cluster.ledgers.items() if i in cluster.tasks}) <= 1
                for index in list(cluster.tasks):
                    await cluster.stop(index)
                await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        except TimeoutError:
            for index, task in cluster.tasks.items():
                print(index, task, cluster.engines[index].status(), sep="\n")
            raise

    uvloop.run(limited())


def test_four_engines_execute_the_same_blocks_whoever_was_told_of_the_transactions(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        sent = [b"transaction %d" % i for i in range(40)]
        for i, transaction in enumerate(sent):
            cluster.engines[i % 4].submit(transaction)
        await cluster.until(*sent)
        assert len({tuple(ledger.executed) for ledger in cluster.ledgers.values()}) == 1
        assert sorted(cluster.ledgers[0].executed) == sorted(sent)
        for stored in cluster.stores[3].blocks(1, 99):
            verify_certificate(GROUP, stored.block, stored.certificate)
        status = cluster.engines[1].status()
        assert (status.epoch, status.waiting) == (0, 0)
        assert status.voting and status.active

    run_cluster(tmp_path, scenario)


def test_a_stopped_validator_catches_up_from_its_file_and_the_others_go_on_without_it(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        cluster.engines[0].submit(b"before")
        await cluster.until(b"before")
        await cluster.stop(3)
        await cluster.fill(1, 5, "meanwhile")
        cluster.start(3)
        assert cluster.ledgers[3].executed == [b"before"]
        await cluster.until(*(b"meanwhile %d" % i for i in range(5)))
        cluster.engines[3].submit(b"after")
        await cluster.until(b"after")

    run_cluster(tmp_path, scenario)


def test_the_others_replace_a_primary_that_stopped(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        cluster.engines[0].submit(b"before")
        await cluster.until(b"before")
        await cluster.stop(0)
        cluster.engines[2].submit(b"in its absence")
        await cluster.until(b"in its absence")
        status = cluster.engines[2].status()
        assert status.view >= 1 and status.view_changes >= 1 and status.primary != NAMES[0]
        assert status.last_view_change_ms is not None
        cluster.start(0)
        await cluster.until(b"in its absence")
        cluster.engines[0].submit(b"after")
        await cluster.until(b"after")

    run_cluster(tmp_path, scenario)


def test_all_stop_and_start_again_in_the_view_they_were_in(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        await cluster.stop(0)
        await cluster.fill(1, 6, "first life")
        for index in (1, 2, 3):
            await cluster.stop(index)
        for index in (1, 2, 3):
            cluster.start(index)
            assert cluster.engines[index].status().view >= 1
        await cluster.fill(1, 6, "second life")
        await cluster.until(b"second life 5")

    run_cluster(tmp_path, scenario)


def test_blocks_that_were_stored_and_not_executed_are_executed_at_the_start(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        await cluster.fill(0, 5, "block")
        await cluster.until(b"block 4")
        executed, digests = cluster.ledgers[2].executed, [block.digest for block in cluster.ledgers[2].blocks]
        await cluster.stop(2)
        (tmp_path / "2.json").unlink()  # as if the machine had lost it
        cluster.start(2)
        assert cluster.ledgers[2].executed == executed
        assert [block.digest for block in cluster.ledgers[2].blocks] == digests

    run_cluster(tmp_path, scenario)


def test_who_is_far_behind_takes_a_snapshot_and_says_so_in_its_store(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four(retain=1)
        await cluster.fill(0, 2, "before")
        await cluster.until(b"before 1")
        await cluster.stop(3)
        await cluster.fill(0, 26, "meanwhile")
        cluster.start(3)
        await cluster.until(b"meanwhile 25")
        assert cluster.stores[3].first_height() > 3, "blocks of the gap are not there"
        cluster.engines[3].submit(b"after")
        await cluster.until(b"after")
        executed = cluster.ledgers[3].executed
        await cluster.stop(3)
        (tmp_path / "3.json").unlink()  # as if it had died between taking note of the snapshot and using it
        cluster.start(3)
        assert cluster.ledgers[3].executed == executed

    run_cluster(tmp_path, scenario)


def test_a_validator_joins_and_another_one_leaves(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        await cluster.fill(0, 3, "before")
        cluster.start(4)
        cluster.engines[0].submit(b"validators 0 1 2 3 4")
        await cluster.until(b"validators 0 1 2 3 4")
        await cluster.fill(1, 3, "five")
        await cluster.until(b"five 2")
        assert cluster.engines[4].status().voting
        assert cluster.engines[4].status().epoch == 1
        cluster.engines[4].submit(b"validators 1 2 3 4")
        await cluster.until(b"validators 1 2 3 4")
        await cluster.stop(0)
        await cluster.fill(4, 6, "four")
        await cluster.until(b"four 5")
        assert cluster.engines[2].status().epoch == 2
        last = ChainOfTrust(GROUP, cluster.stores[2].history()).group
        assert last.validators == tuple(NAMES[1:])
        assert set(cluster.engines[1].status().connected) >= set(NAMES[2:])

    run_cluster(tmp_path, scenario)


@pytest.mark.parametrize("retain", [100, 0])
def test_a_newcomer_that_is_endorsed_catches_up_before_its_epoch_begins(tmp_path: Path, retain: int) -> None:
    """By blocks, and by a snapshot where these are gone; and when those that let it in have been started again."""

    async def scenario(cluster: Cluster) -> None:
        cluster.start_four(retain=retain)
        await cluster.fill(0, 30, "before")
        await cluster.until(b"before 29")
        cluster.start(4)
        cluster.newcomers = (NAMES[4],)
        await cluster.stop(3)
        cluster.start(3)
        while not cluster.engines[3].status().load["guests"]:  # noqa: ASYNC110  # before any block says so
            await asyncio.sleep(0)
        await cluster.fill(0, 1, "endorsed")
        await cluster.until(b"endorsed 0")
        assert not cluster.engines[4].status().voting and cluster.engines[4].status().height >= 31
        cluster.newcomers = ()
        await cluster.fill(0, 1, "withdrawn")
        assert NAMES[4] not in cluster.engines[0].status().connected

    run_cluster(tmp_path, scenario)


BAD_ENTRIES: dict[str, Callable[[Validator], Validator]] = {
    "no certificate": lambda listed: replace(listed, certificate=""),
    "another's certificate": lambda listed: replace(listed, certificate=make_certificate(KEYS[1])),
    "a certificate with more behind it": lambda listed: replace(
        listed, certificate=listed.certificate + "é\n-----BEGIN"
    ),
    "no address": lambda listed: replace(listed, address="nowhere"),
    "a certificate of version 9": lambda listed: altered(listed, "a003020102", "a003020109"),
    "a certificate of a key of no kind": lambda listed: altered(listed, "06032b6570032100", "06032b657f032100"),
}


def altered(listed: Validator, old: str, new: str) -> Validator:
    """With other bytes, in hex, in the place of the last `old` of its certificate."""
    before, _, after = ssl.PEM_cert_to_DER_cert(listed.certificate).hex().rpartition(old)
    assert before
    return replace(listed, certificate=ssl.DER_cert_to_PEM_cert(bytes.fromhex(before + new + after)))


@pytest.mark.parametrize("what", BAD_ENTRIES)
def test_who_gives_the_ledger_a_bad_certificate_harms_nobody_else(tmp_path: Path, what: str) -> None:
    """The ledger takes any text, and one validator alone can change its own by changing its key."""

    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        await cluster.fill(0, 2, "before")
        cluster.listed[NAMES[4]] = BAD_ENTRIES[what](cluster.listed[NAMES[4]])
        cluster.engines[0].submit(b"validators 0 1 2 4")
        await cluster.fill(1, 6, "after")
        await cluster.stop(3)
        await cluster.until(b"after 5")
        assert [cluster.engines[index].status().epoch for index in range(3)] == [1, 1, 1]
        usable = what == "a certificate with more behind it"
        counted = ["bad_entry" in cluster.engines[index].status().rejections for index in range(3)]
        assert counted == [not usable] * 3
        await cluster.stop(1)
        cluster.start(1)
        await cluster.fill(1, 2, "again")
        await cluster.until(b"again 1")

    run_cluster(tmp_path, scenario)


def test_a_node_that_lost_its_store_follows_in_silence_and_votes_again_later(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        await cluster.fill(0, 3, "before")
        await cluster.until(b"before 2")
        await cluster.stop(3)
        for name in ("3.db", "3.turn", "3.json"):
            (tmp_path / name).unlink()
        cluster.start(3, muted=True)
        await cluster.until(b"before 2")
        assert not cluster.engines[3].status().voting
        epochs = 3
        await cluster.fill(0, epochs * GROUP.parameters.epoch_length, "meanwhile")
        await cluster.until(b"meanwhile %d" % (epochs * GROUP.parameters.epoch_length - 1))
        assert cluster.engines[3].status().voting

    run_cluster(tmp_path, scenario)


def test_an_application_that_is_ahead_of_the_log_is_refused(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        (tmp_path / "0.json").write_bytes(json.dumps([7, [], NAMES[:4], ""]).encode())
        with pytest.raises(DamagedError, match="block 7"):
            cluster.start(0)
        cluster.stores[0].close()

    run_cluster(tmp_path, scenario)


def test_a_node_whose_state_differs_from_what_a_quorum_computed_stops(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        cluster.ledgers[3].salt = "a wrong bit"
        await cluster.fill(0, 5, "block")
        with pytest.raises(HaltedError, match="not what a quorum of validators computed"):
            await cluster.tasks.pop(3)
        cluster.stores[3].close()
        await cluster.fill(0, 5, "after")

    run_cluster(tmp_path, scenario)


def test_a_node_whose_disk_fails_stops_before_it_says_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        await cluster.fill(0, 1, "before")
        await cluster.until(b"before 0")

        def fail() -> bool:
            raise sqlite3.OperationalError("database or disk is full")

        said: list[int] = []
        peers = cluster.engines[3]._peers
        monkeypatch.setattr(cluster.stores[3], "commit", fail)
        monkeypatch.setattr(peers, "flush", lambda: said.extend(filter(None, peers.queued.values())))
        cluster.engines[0].submit(b"one more")
        with pytest.raises(HaltedError, match="disk is full"):
            await cluster.tasks.pop(3)
        assert not said
        monkeypatch.undo()
        cluster.stores[3].close()
        await cluster.until(b"one more")

    run_cluster(tmp_path, scenario)


def test_what_could_not_be_forced_to_disk_once_never_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux says of a failed write-back once that it failed, and takes the pages for written then."""

    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        await cluster.fill(0, 1, "before")
        await cluster.until(b"before 0")
        log, peers, force = cluster.stores[3]._tables._log, cluster.engines[3]._peers, os.fdatasync
        unsaid: set[bytes] = set()
        left: list[bytes] = []
        write = Outgoing.flush

        def flush(channel: Outgoing) -> None:
            left.extend(unsaid.intersection(channel._frames))
            write(channel)

        def fail_once(descriptor: int) -> None:
            waits = queued(peers)
            if descriptor == log and not unsaid and any(is_vote(frame) for frame in waits):
                unsaid.update(waits)
                soon = asyncio.get_running_loop().call_soon
                soon(cluster.engines[3]._turn)  # a frame that has just come asks for it
                for channel in peers._outgoing.values():
                    soon(channel.resume_writing)
                raise OSError(errno.EIO, "Input/output error")
            force(descriptor)

        monkeypatch.setattr(os, "fdatasync", fail_once)
        monkeypatch.setattr(Outgoing, "flush", flush)
        cluster.engines[0].submit(b"one more")
        with pytest.raises(HaltedError, match="Input/output error"):
            await cluster.tasks.pop(3)
        assert unsaid and not left
        with pytest.raises(StoreError, match="a write to it failed"):
            cluster.stores[3].commit()
        cluster.stores[3].close()
        await cluster.until(b"one more")

    run_cluster(tmp_path, scenario)


def test_a_transaction_on_its_way_to_the_primary_waits_for_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()
        await cluster.fill(0, 1, "before")
        await cluster.until(b"before 0")
        peers, commit = cluster.engines[3]._peers, cluster.stores[3].commit
        assert cluster.engines[3].status().primary != NAMES[3]
        flush = peers.flush
        left, waited = list[bytes](), list[set[bytes]]()

        def watched_flush() -> None:
            left.extend(filter(is_forward, queued(peers)))
            flush()

        def watched_commit() -> bool:
            waited.append(queued(peers))
            return commit()

        monkeypatch.setattr(peers, "flush", watched_flush)
        monkeypatch.setattr(cluster.stores[3], "commit", watched_commit)
        cluster.engines[3].submit(b"ours")
        await cluster.until(b"ours")
        assert left and waited
        assert not any(all(map(is_forward, frames)) for frames in waited)

    run_cluster(tmp_path, scenario)


def queued(peers: Peers) -> set[bytes]:
    return {frame for channel in peers._outgoing.values() for frame in channel._frames}


def is_forward(frame: bytes) -> bool:
    return isinstance(open_message(GROUP, frame)[1], Forward)


def is_vote(frame: bytes) -> bool:
    return isinstance(open_message(GROUP, frame)[1], Prepare | Commit | Proposal)


def test_a_node_whose_application_raises_stops_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four()

        def fail(block: CommittedBlock) -> None:
            raise ValueError("block 1 cannot be")

        monkeypatch.setattr(cluster.ledgers[3], "execute", fail)
        cluster.engines[0].submit(b"one")
        with pytest.raises(HaltedError, match="ValueError: block 1 cannot be"):
            await cluster.tasks.pop(3)
        cluster.stores[3].close()
        await cluster.until(b"one")

    run_cluster(tmp_path, scenario)


def test_a_validator_that_votes_twice_is_accused(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for index in range(3):
            cluster.start(index)
        await cluster.fill(0, 1, "before")
        await cluster.until(b"before 0")
        listed = cluster.listed[NAMES[2]]
        context = client_context(KEYS[3], [listed.certificate])
        _, writer = await asyncio.open_connection(*split_address(listed.address), ssl=context)
        status = cluster.engines[2].status()
        for word in (b"one", b"another"):
            vote = Prepare(status.epoch, status.view, status.height + 1, GROUP.block_digest(word))
            frame = seal_message(KEYS[3], GROUP, vote)
            writer.write(len(frame).to_bytes(4) + frame)
        while not cluster.accused:
            await cluster.fill(0, 1, f"meanwhile {cluster.ledgers[0].height}")
        assert cluster.accused == [NAMES[3]]
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    run_cluster(tmp_path, scenario)


def test_an_empty_block_comes_when_the_application_says_one_is_due(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start_four(deadline_ms=1)
        await cluster.reach(lambda ledger: ledger.height == 1)
        assert all(cluster.ledgers[index].blocks[0].transactions == () for index in range(4))

    run_cluster(tmp_path, scenario)


def test_what_may_not_enter_the_pool_is_refused_to_the_sender_and_counted(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.start(0)
        with pytest.raises(Refused, match="bad_transaction"):
            cluster.engines[0].submit(b"bad one")
        assert cluster.engines[0].status().waiting == 0
        cluster.engines[0]._admission = Admission(held=1)
        cluster.engines[0].submit(b"s" * 32 + b"first")
        with pytest.raises(Refused, match="pool_share"):
            cluster.engines[0].submit(b"s" * 32 + b"second")
        cluster.engines[0].submit(b"t" * 32 + b"first")
        assert cluster.engines[0].status().waiting == 2
        assert cluster.engines[0].status().not_admitted == {"bad_transaction": 1, "pool_share": 1}
        assert cluster.engines[0].status().rejections == {}, "no peer has done anything"

    run_cluster(tmp_path, scenario)


def test_a_validator_that_sends_garbage_is_counted_and_stops_nobody(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for index in range(3):
            cluster.start(index)
        cluster.engines[0].submit(b"one")
        await cluster.until(b"one")
        listed = cluster.listed[NAMES[0]]
        context = client_context(KEYS[3], [listed.certificate])
        _, writer = await asyncio.open_connection(*split_address(listed.address), ssl=context)
        last = seal_message(KEYS[3], GROUP, Forward(0, False, [b"three"]))
        for frame in (b"", b"\x00", b"\xff" * 500, last):
            writer.write(len(frame).to_bytes(4) + frame)
        await cluster.until(b"three")  # so the garbage before it has been read
        cluster.engines[1].submit(b"two")
        await cluster.until(b"two")
        assert cluster.engines[0].status().rejections == {"truncated": 2, "bad_signature": 1}
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    run_cluster(tmp_path, scenario)


def test_who_is_started_again_still_reaches_the_leaver_whose_vote_it_needs(tmp_path: Path) -> None:
    """Validator 3 is faulty and never says a word: the checkpoint at which 0 leaves needs the votes of 0, 1 and 2."""

    async def scenario(cluster: Cluster) -> None:
        cluster.newcomers = (NAMES[4],)
        for index in (0, 1, 2, 4):
            cluster.start(index)
        await cluster.fill(1, 3, "before")
        lose_checkpoints(cluster.engines[0])
        cluster.engines[1].submit(b"validators 4 1 2 3")
        await cluster.until(b"validators 4 1 2 3")
        assert cluster.engines[0].group.epoch == 1 and cluster.engines[1].status().checkpoint == 0
        for index in (1, 2, 4):
            await cluster.stop(index)
        del cluster.engines[0]._peers.broadcast, cluster.engines[0]._peers.send  # nothing is lost any more
        for index in (1, 2, 4):
            cluster.start(index)
            assert NAMES[0] in cluster.engines[index].members
        await cluster.fill(1, 6, "after")
        await cluster.until(b"after 5")

    run_cluster(tmp_path, scenario)


def lose_checkpoints(engine: PbftEngine) -> None:
    """From now on nobody hears of the checkpoints that this node executes to."""
    peers = engine._peers
    broadcast, send = peers.broadcast, peers.send
    peers.broadcast = lambda frame: None if is_checkpoint(frame) else broadcast(frame)  # type: ignore[method-assign]
    peers.send = lambda peer, frame: None if is_checkpoint(frame) else send(peer, frame)  # type: ignore[method-assign]


def is_checkpoint(frame: bytes) -> bool:
    return b"\xaacheckpoint" in frame


def test_an_old_key_stays_until_nobody_needs_its_vote_any_more(tmp_path: Path) -> None:
    """The next key cannot vote for the checkpoint that brought it in."""
    home = tmp_path / "home"
    save_key(KEYS[4], home / NEXT_KEY)

    async def scenario(cluster: Cluster) -> None:
        for index in (0, 1, 2):
            cluster.start(index)
        for index in (1, 2):
            lose_checkpoints(cluster.engines[index])
        await cluster.fill(0, 3, "before")
        old = cluster.engines[0]
        assert not next_key_can_take_over(home, KEYS[0], old), "it is not in office"
        old.submit(b"validators 4 1 2 3")
        await cluster.until(b"validators 4 1 2 3")
        assert NAMES[4] in old.group.validators
        assert not next_key_can_take_over(home, KEYS[0], old), "its vote may not have come"
        for index in (1, 2):
            del cluster.engines[index]._peers.broadcast, cluster.engines[index]._peers.send
        await cluster.settled[0].wait()
        assert next_key_can_take_over(home, KEYS[0], old)

    run_cluster(tmp_path, scenario)

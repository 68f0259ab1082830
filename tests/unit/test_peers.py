"""Channels over real sockets: only pinned keys get in, bounds hold, and a peer may die at any moment."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pbft_sockets import free_ports, validators_at

from tallystick.canon.identity import Key
from tallystick.consensus.pbft.limits import MAX_FRAME_BYTES
from tallystick.errors import Refused
from tallystick.network.inbox import MAX_WAITING_BYTES, Inbox
from tallystick.network.peers import MAX_QUEUED_BYTES, Peers, Validator, split_address
from tallystick.network.tls import client_context, make_certificate, pinned_form, server_context

KEYS = [Key.from_seed(bytes([i]) * 32) for i in range(3)]
A, B = KEYS[0], KEYS[1]
STRANGER = Key.from_seed(b"s" * 32)
SECONDS = 10


class Side:
    """One end: its peers, what came in, and who has been reached."""

    def __init__(self, key: Key, validators: list[Validator]) -> None:
        self.inbox = Inbox()
        self.reached: asyncio.Queue[str] = asyncio.Queue()
        listen = next(v.address for v in validators if v.identity == key.identity)
        self.peers = Peers(key, validators, listen, self.inbox, self.reached.put_nowait)

    async def frames(self, count: int) -> list[tuple[str, bytes]]:
        got: list[tuple[str, bytes]] = []
        while len(got) < count:
            await self.inbox.wait(SECONDS)
            got += await self.inbox.take(count)
        return got


@asynccontextmanager
async def running(side: Side) -> AsyncIterator[Side]:
    task = asyncio.create_task(side.peers.run())
    try:
        yield side
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def on_loopback(scenario: Callable[[list[Validator]], Coroutine[None, None, None]]) -> None:
    """Runs `scenario` with two validators, and checks that it leaves nothing running."""

    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await scenario(validators_at(KEYS[:2], free_ports(2)))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(limited())


async def dial(key: Key, validator: Validator) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A hand-made channel to `validator` under `key`, as a hostile program would open it."""
    context = client_context(key, [validator.certificate])
    host, port = split_address(validator.address)
    while True:
        try:
            return await asyncio.open_connection(host, port, ssl=context)
        except ConnectionRefusedError:
            await asyncio.sleep(0)


async def closed(reader: asyncio.StreamReader) -> bool:
    """Waits for the other side to close, by alert, reset or end of stream; whether it said nothing before."""
    try:
        return await reader.read() == b""
    except OSError:
        return True


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def test_frames_arrive_in_order_under_the_identity_that_the_channel_proved() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a, running(Side(B, validators)) as b:
            assert await b.reached.get() == A.identity
            sent = [bytes([i]) * size for i, size in enumerate((1, 0, 100_000, MAX_FRAME_BYTES, 3))]
            for frame in sent:
                b.peers.broadcast(frame)
            assert await a.frames(5) == [(B.identity, frame) for frame in sent]
            assert b.peers.connected == (A.identity,)

    on_loopback(scenario)


def test_a_peer_with_an_unpinned_certificate_is_refused_and_others_are_still_served() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            try:
                reader, writer = await dial(STRANGER, validators[0])
            except ssl.SSLError:
                pass
            else:
                writer.write((5).to_bytes(4) + b"hello")
                assert await closed(reader)
                await hang_up(writer)
            reader, writer = await dial(B, validators[0])
            writer.write((5).to_bytes(4) + b"howdy")
            assert await a.frames(1) == [(B.identity, b"howdy")]
            await hang_up(writer)

    on_loopback(scenario)


def test_our_own_certificate_is_no_peers() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            reader, writer = await dial(A, validators[0])
            assert await closed(reader)
            assert a.peers.rejections == {"unpinned_certificate": 1}
            await hang_up(writer)

    on_loopback(scenario)


def test_an_oversized_frame_ends_its_channel_before_it_takes_memory_and_nothing_else() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            for size in (MAX_FRAME_BYTES + 1, 2**32 - 1):
                reader, writer = await dial(B, validators[0])
                writer.write(size.to_bytes(4) + b"the first of many")
                assert await closed(reader)
                await hang_up(writer)
            assert a.peers.rejections == {"oversized_frame": 2}
            async with running(Side(B, validators)) as b:
                await b.reached.get()
                b.peers.send(A.identity, b"hello")
                assert await a.frames(1) == [(B.identity, b"hello")]

    on_loopback(scenario)


def test_a_channel_cut_in_the_middle_of_a_frame_brings_nothing() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            _, writer = await dial(B, validators[0])
            writer.write((100).to_bytes(4) + b"half")
            await writer.drain()
            await hang_up(writer)
            _, writer = await dial(B, validators[0])
            writer.write((5).to_bytes(4) + b"whole")
            assert await a.frames(1) == [(B.identity, b"whole")]
            await hang_up(writer)

    on_loopback(scenario)


def test_a_newer_channel_of_a_peer_replaces_the_older() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            reader, old = await dial(B, validators[0])
            old.write((3).to_bytes(4) + b"old")
            assert await a.frames(1) == [(B.identity, b"old")]
            _, new = await dial(B, validators[0])
            new.write((3).to_bytes(4) + b"new")
            assert await a.frames(1) == [(B.identity, b"new")]
            assert await closed(reader)
            await hang_up(old)
            await hang_up(new)

    on_loopback(scenario)


def test_a_peer_that_died_is_reached_again_when_it_is_back() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            for word in (b"first life", b"second life"):
                async with running(Side(B, validators)) as b:
                    assert await a.reached.get() == B.identity
                    a.peers.send(B.identity, word)
                    assert await b.frames(1) == [(A.identity, word)]

    on_loopback(scenario)


def test_a_validator_that_answers_at_anothers_address_is_not_talked_to() -> None:
    async def scenario(validators: list[Validator]) -> None:
        here, there = validators
        misled = Side(A, [here, Validator(KEYS[2].identity, there.address, make_certificate(KEYS[2])), there])
        silent: asyncio.Queue[bool] = asyncio.Queue()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            wordless = await closed(reader)
            await hang_up(writer)
            silent.put_nowait(wordless)

        context = server_context(B, [here.certificate])
        server = await asyncio.start_server(listen, *split_address(there.address), ssl=context)
        async with running(misled):
            assert await silent.get(), "it hangs up without a word"
            assert misled.peers.rejections == {"wrong_peer": 1}
            assert misled.reached.get_nowait() == B.identity
            assert misled.peers.connected == (B.identity,)
        assert await silent.get()
        server.close()

    on_loopback(scenario)


def test_frames_for_a_peer_that_is_away_are_forgotten() -> None:
    peers = Peers(A, validators_at(KEYS[:2], [1, 2]), "127.0.0.1:1", Inbox(), lambda peer: None)
    peers.broadcast(b"x")
    assert peers._outgoing[B.identity].size == 0


def test_a_full_queue_loses_its_oldest_frames() -> None:
    peers = Peers(A, validators_at(KEYS[:2], [1, 2]), "127.0.0.1:1", Inbox(), lambda peer: None)
    outgoing = peers._outgoing[B.identity]
    outgoing.connected = True
    for i in range(20):
        peers.send(B.identity, bytes([i]) * 1024 * 1024)
    assert outgoing.size <= MAX_QUEUED_BYTES
    assert [frame[0] for frame in outgoing.take()] == list(range(4, 20))


def test_a_fast_peer_is_held_back_and_the_others_are_not() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        await inbox.put("fast", b"x" * MAX_WAITING_BYTES)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await inbox.put("fast", b"x")
        await inbox.put("slow", b"z")
        assert [peer for peer, _ in await inbox.take(10)] == ["fast", "slow"]
        await inbox.put("fast", b"y")
        assert await inbox.take(10) == [("fast", b"y")]

    asyncio.run(scenario())


def test_the_inbox_takes_from_each_peer_in_turn() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        for frame in (b"1", b"2", b"3"):
            await inbox.put("loud", frame)
        await inbox.put("quiet", b"4")
        assert await inbox.take(2) == [("loud", b"1"), ("quiet", b"4")]
        assert await inbox.take(9) == [("loud", b"2"), ("loud", b"3")]

    asyncio.run(scenario())


def test_a_certificate_is_the_same_each_time_and_holds_the_identity() -> None:
    assert make_certificate(A) == make_certificate(A)
    assert pinned_form(A.identity, make_certificate(A)) != pinned_form(B.identity, make_certificate(B))


@pytest.mark.parametrize("certificate", [make_certificate(B), "", "not a certificate", "x" * 5000])
def test_a_certificate_that_does_not_hold_its_validators_key_is_refused(certificate: str) -> None:
    with pytest.raises(Refused, match="bad_certificate"):
        pinned_form(A.identity, certificate)


def test_no_key_material_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client_context(A, [make_certificate(B)])
    assert list(tmp_path.iterdir()) == []


def test_addresses_are_host_and_port() -> None:
    assert split_address("[::1]:26650") == ("::1", 26650)
    for wrong in ("localhost", ":1", "host:", "host:x", "host:70000"):
        with pytest.raises(ValueError, match="host:port"):
            split_address(wrong)

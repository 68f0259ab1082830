"""Channels over real sockets: only pinned keys get in, bounds hold, and a peer may die at any moment."""

import asyncio
import random
import resource
import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import uvloop
from pbft_sockets import validators_at

from tallystick.canon.identity import Key
from tallystick.consensus.pbft.limits import MAX_FRAME_BYTES
from tallystick.errors import Refused
from tallystick.network import channels, peers
from tallystick.network.channels import MAX_QUEUED_BYTES, SMALL_BYTES, Incoming, Outgoing
from tallystick.network.inbox import FRAME_BYTES, MAX_WAITING_BYTES, Inbox
from tallystick.network.local import free_ports
from tallystick.network.peers import FIRST_RETRY_SECONDS, ListenError, Peers, Validator, listen_on, split_address
from tallystick.network.tls import client_context, make_certificate, pinned_form, server_context

KEYS = [Key.from_seed(bytes([i]) * 32) for i in range(3)]
A, B = KEYS[0], KEYS[1]
STRANGER = Key.from_seed(b"s" * 32)
SECONDS = 10


class Side:
    """One end: its peers, what came in, and who has been reached."""

    def __init__(self, key: Key, validators: list[Validator]) -> None:
        self.news = asyncio.Event()
        self.inbox = Inbox(self.news.set)
        self.reached: asyncio.Queue[str] = asyncio.Queue()
        listen = next(v.address for v in validators if v.identity == key.identity)
        self.peers = Peers(key, validators, listen, self.inbox, self.reached.put_nowait, random.Random(1))

    async def frames(self, count: int) -> list[tuple[str, bytes]]:
        got = self.inbox.take(count)
        while len(got) < count:
            self.news.clear()
            await self.news.wait()
            got += self.inbox.take(count - len(got))
        return got

    def send(self, peer: str, frame: bytes) -> None:
        self.peers.send(peer, frame)
        self.peers.flush()


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

    uvloop.run(limited())


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


async def says_howdy(key: Key, side: Side, validator: Validator) -> None:
    """`side`, which is `validator`, still hears whoever comes with `key`."""
    _, writer = await dial(key, validator)
    writer.write((5).to_bytes(4) + b"howdy")
    assert await side.frames(1) == [(key.identity, b"howdy")]
    await hang_up(writer)


def test_frames_arrive_in_order_under_the_identity_that_the_channel_proved() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a, running(Side(B, validators)) as b:
            assert await b.reached.get() == A.identity
            sent = [bytes([i]) * size for i, size in enumerate((1, 0, 100_000, MAX_FRAME_BYTES, 3))]
            for frame in sent:
                b.peers.broadcast(frame)
            b.peers.flush()
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
            await says_howdy(B, a, validators[0])

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
                b.send(A.identity, b"hello")
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
                    a.send(B.identity, word)
                    assert await b.frames(1) == [(A.identity, word)]

    on_loopback(scenario)


def test_strangers_who_say_nothing_give_way_to_those_who_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            _, first = await dial(B, validators[0])  # then A listens
            await hang_up(first)
            silent = [await asyncio.open_connection(*split_address(validators[0].address)) for _ in range(5)]
            for reader, _ in silent[:2]:
                assert await closed(reader)
            assert a.peers.rejections == {"too_many_handshakes": 2}
            await says_howdy(B, a, validators[0])
            for _, writer in silent:
                await hang_up(writer)

    monkeypatch.setattr(peers, "MAX_HANDSHAKES", 3)
    on_loopback(scenario)


def test_a_system_that_gives_out_no_connections_is_asked_again() -> None:
    async def scenario(validators: list[Validator]) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with running(Side(A, validators)) as a:
            _, writer = await dial(B, validators[0])  # then A listens
            waiting = socket.create_connection(split_address(validators[0].address))
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                while not a.peers.rejections:  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert set(a.peers.rejections) == {"not_accepted"}
            waiting.close()
            await hang_up(writer)
            await says_howdy(B, a, validators[0])

    on_loopback(scenario)


def test_an_address_where_something_else_listens_is_named() -> None:
    async def scenario(validators: list[Validator]) -> None:
        with listen_on(validators[0].address), pytest.raises(ListenError, match=f"{validators[0].address}: cannot"):
            await Side(A, validators).peers.run()

    on_loopback(scenario)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999", "no.such.host.invalid:1"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ListenError, match=f"{address}: cannot listen there"):
        listen_on(address)


class Half(random.Random):
    """Cuts every wait by half, the most there is."""

    def random(self) -> float:
        return 1.0


class Rude(asyncio.Protocol):
    """Hangs up at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def test_a_peer_that_hangs_up_at_once_is_dialed_ever_more_seldom() -> None:
    async def scenario(validators: list[Validator]) -> None:
        loop, openings = asyncio.get_running_loop(), list[float]()
        enough = asyncio.Event()

        def opened(peer: str) -> None:
            openings.append(loop.time())
            if len(openings) == 6:
                enough.set()

        here, there = validators
        context = server_context(B, [here.certificate])
        server = await loop.create_server(Rude, *split_address(there.address), ssl=context)
        side = Side(A, validators)
        side.peers = Peers(A, validators, here.address, side.inbox, opened, Half())
        try:
            async with running(side):
                await enough.wait()
        finally:
            server.close()
        least = sum(FIRST_RETRY_SECONDS * 2**i / 2 for i in range(5))
        assert openings[5] - openings[0] >= least

    on_loopback(scenario)


class Listener(asyncio.Protocol):
    """Hands on what it hears."""

    def __init__(self, heard: asyncio.Queue[bytes]) -> None:
        self._heard = heard

    def data_received(self, data: bytes) -> None:
        self._heard.put_nowait(data)


@pytest.mark.parametrize("code", ["changed_key", "wrong_peer"])
def test_a_validator_that_answers_at_anothers_address_is_not_talked_to(code: str) -> None:
    """It has had the other key before, if both are listed there."""

    async def scenario(validators: list[Validator]) -> None:
        here, there = validators
        name = "localhost" if code == "wrong_peer" else "127.0.0.1"
        address = f"{name}:{split_address(there.address)[1]}"
        misled = Side(A, [here, Validator(KEYS[2].identity, address, make_certificate(KEYS[2])), there])
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        context, loop = server_context(B, [here.certificate]), asyncio.get_running_loop()
        server = await loop.create_server(lambda: Listener(heard), *split_address(there.address), ssl=context)
        try:
            async with running(misled):
                assert await misled.reached.get() == B.identity
                while not misled.peers.rejections:  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0)
                assert set(misled.peers.rejections) == {code}
                assert misled.peers.connected == (B.identity,)
                misled.peers.broadcast(b"x")
                misled.peers.flush()
                assert await heard.get() == (1).to_bytes(4) + b"x"
            assert heard.empty(), "B was told once, and nobody else"
        finally:
            server.close()

    on_loopback(scenario)


def test_nothing_leaves_before_it_is_let_go() -> None:
    """What a turn says may leave only when what it must not lose is on disk."""

    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a, running(Side(B, validators)) as b:
            assert await a.reached.get() == B.identity
            a.peers.broadcast(b"first")
            assert a.peers.queued == {B.identity: 5}
            await asyncio.sleep(0.05)
            assert not b.inbox
            a.peers.flush()
            assert await b.frames(1) == [(A.identity, b"first")]

    on_loopback(scenario)


def test_frames_for_a_peer_that_is_away_are_forgotten() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            a.send(B.identity, b"x")
            a.peers.broadcast(b"x")
            async with running(Side(B, validators)) as b:
                assert await a.reached.get() == B.identity
                a.send(B.identity, b"hello")
                assert await b.frames(1) == [(A.identity, b"hello")]

    on_loopback(scenario)


class Deaf(asyncio.Transport):
    """A transport that takes nothing."""

    def __init__(self, waiting: Iterable[int] = ()) -> None:
        """`waiting`: what it says to hold when it is asked, one after another; then nothing goes on."""
        super().__init__()
        self.aborted = False
        self.ended = asyncio.Event()
        self._waiting = [*waiting, 0]

    def get_write_buffer_size(self) -> int:
        return self._waiting.pop(0) if len(self._waiting) > 1 else self._waiting[0]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True
        self.ended.set()


def test_a_line_is_given_up_when_it_takes_nothing_and_not_for_being_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "STALL_SECONDS", 0.01)

    async def scenario() -> None:
        channel, transport = Outgoing(Counter()), Deaf([500, 400, 300, 200, 100, 100])
        channel.connection_made(transport)
        channel.pause_writing()
        await asyncio.wait_for(transport.ended.wait(), 10)
        assert transport.get_write_buffer_size() == 0, "it was asked until it took nothing"

    asyncio.run(scenario())


def deaf() -> tuple[Outgoing, Deaf, Counter[str]]:
    rejections: Counter[str] = Counter()
    channel, transport = Outgoing(rejections), Deaf()
    channel.connection_made(transport)
    channel.pause_writing()
    return channel, transport, rejections


def test_a_full_queue_loses_its_oldest_large_frames_and_no_vote() -> None:
    async def scenario() -> None:
        channel, transport, rejections = deaf()
        for i in range(28):
            channel.add(bytes([i]) * SMALL_BYTES)
            channel.add(bytes([i]) * 1024 * 1024)
            channel.flush()
        assert channel.queued <= MAX_QUEUED_BYTES
        kept = [(frame[0], len(frame)) for frame in channel._frames]
        assert [number for number, size in kept if size == SMALL_BYTES] == list(range(28))
        assert [number for number, size in kept if size > SMALL_BYTES] == list(range(5, 28))
        assert rejections == {"peer_queue_full": 5}
        assert not transport.aborted

    asyncio.run(scenario())


def test_a_queue_full_of_votes_ends_the_channel() -> None:
    async def scenario() -> None:
        channel, transport, rejections = deaf()
        for _ in range(MAX_QUEUED_BYTES // SMALL_BYTES + 1):
            channel.add(bytes(SMALL_BYTES))
        assert transport.aborted and channel.queued == 0
        assert rejections == {"peer_too_slow": 1}

    asyncio.run(scenario())


def test_a_peer_that_takes_nothing_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.network.channels.STALL_SECONDS", 0.01)

    async def scenario() -> None:
        _, transport, _ = deaf()
        lively, other, _ = deaf()
        lively.resume_writing()
        await asyncio.sleep(0.05)
        assert transport.aborted and not other.aborted

    asyncio.run(scenario())


def test_a_peer_that_speaks_on_our_channel_is_hung_up_on() -> None:
    async def scenario() -> None:
        channel, transport, rejections = deaf()
        channel.data_received(b"hello")
        assert transport.aborted
        assert rejections == {"unexpected_bytes": 1}

    asyncio.run(scenario())


def test_a_peer_that_sends_too_fast_is_held_back_until_we_have_caught_up() -> None:
    async def scenario(validators: list[Validator]) -> None:
        async with running(Side(A, validators)) as a:
            _, writer = await dial(B, validators[0])
            frame = bytes(1024 * 1024)
            sender = asyncio.create_task(flood(writer, frame, 64))
            while a.inbox.waiting <= MAX_WAITING_BYTES:
                a.news.clear()
                await a.news.wait()
            await asyncio.wait({sender}, timeout=1.0)
            assert a.inbox.waiting <= MAX_WAITING_BYTES + 2 * len(frame)
            assert not sender.done()
            assert len(await a.frames(64)) == 64
            await sender
            await hang_up(writer)

    on_loopback(scenario)


class Paused(asyncio.Transport):
    """The side of a channel from which frames come."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return False


def incoming(inbox: Inbox) -> tuple[Incoming, Paused]:
    channel, transport = Incoming(inbox, Counter(), lambda channel: "peer", lambda channel: None), Paused()
    channel.connection_made(transport)
    return channel, transport


@pytest.mark.parametrize("size", [0, 2, 200])
def test_many_small_frames_take_no_more_memory_than_a_few_large_ones(size: int) -> None:
    inbox = Inbox(lambda: None)
    channel, transport = incoming(inbox)
    wire, sent = (size.to_bytes(4) + bytes(size)) * 10_000, 0
    while not transport.paused:
        channel.data_received(wire)
        sent += 10_000
        assert sent <= MAX_WAITING_BYTES // FRAME_BYTES + 10_000
    assert inbox.waiting <= MAX_WAITING_BYTES + size + FRAME_BYTES
    taken = 0
    while inbox:
        taken += len(inbox.take(256))
    assert taken == sent and not transport.paused, "what was read already came when there was room"


def test_a_channel_that_is_opened_anew_brings_no_new_room() -> None:
    inbox, frame = Inbox(lambda: None), (200).to_bytes(4) + bytes(200)
    for _ in range(50):
        channel, transport = incoming(inbox)
        while not transport.paused:
            channel.data_received(frame * 1000)
        assert inbox.waiting <= MAX_WAITING_BYTES + 200 + FRAME_BYTES


async def flood(writer: asyncio.StreamWriter, frame: bytes, count: int) -> None:
    for _ in range(count):
        writer.write(len(frame).to_bytes(4) + frame)
        await writer.drain()


def test_the_inbox_takes_from_each_peer_in_turn() -> None:
    inbox = Inbox(lambda: None)
    for frame in (b"1", b"2", b"3"):
        inbox.put("loud", frame)
    inbox.put("quiet", b"4")
    assert inbox.take(2) == [("loud", b"1"), ("quiet", b"4")]
    assert inbox.take(9) == [("loud", b"2"), ("loud", b"3")]
    assert not inbox


def test_a_validator_that_left_is_shut_out_and_one_that_joined_is_let_in() -> None:
    async def scenario(validators: list[Validator]) -> None:
        newcomer = validators_at([KEYS[2]], free_ports(1))[0]
        async with running(Side(A, validators)) as a, running(Side(B, validators)):
            assert await a.reached.get() == B.identity
            a.peers.regroup([validators[0], newcomer])
            async with running(Side(KEYS[2], [validators[0], newcomer])) as c:
                assert await a.reached.get() == newcomer.identity
                assert a.peers.connected == (newcomer.identity,)
                assert await c.reached.get() == A.identity
                c.send(A.identity, b"hello")
                assert await a.frames(1) == [(newcomer.identity, b"hello")]
                reader, writer = await dial(B, validators[0])
                assert await closed(reader)
                await hang_up(writer)

    on_loopback(scenario)


def test_a_certificate_is_looked_at_when_its_validator_is_named_first() -> None:
    """It takes as long as checking a few signatures, and most validators stay from epoch to epoch."""

    async def scenario(validators: list[Validator]) -> None:
        bad = replace(validators[1], certificate="none")
        peers = Side(A, [validators[0], bad]).peers
        peers.regroup([validators[0], bad])
        assert peers.rejections == {"bad_entry": 1}
        peers.regroup(validators)
        peers.regroup([validators[0], bad])
        assert peers.rejections == {"bad_entry": 2}, "it was not named in between"

    on_loopback(scenario)


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
    for wrong in ("localhost", ":1", "host:", "host:x", "host:70000", "::1:26650", "[::1", "[::1:1"):
        with pytest.raises(ValueError, match="host:port"):
            split_address(wrong)


def test_the_address_of_all_is_that_of_both_families() -> None:
    with listen_on("[::]:0") as listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=SECONDS).close()

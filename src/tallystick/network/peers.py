"""Channels between validators: mutually authenticated, one for each direction of each pair.

Nothing here is reliable and nothing needs to be: a peer may vanish at any moment, what it missed is sent again by the
state machine or fetched as blocks. So queues are short-lived: a full one loses its oldest frames, and those of a
channel that broke are forgotten.
"""

import asyncio
import errno
import random
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tallystick.canon.identity import Key
from tallystick.errors import Refused, TallystickError
from tallystick.network.channels import Incoming, Outgoing, certificate_of
from tallystick.network.inbox import Inbox
from tallystick.network.tls import client_context, pinned_form, server_context

BACKLOG: Final = 2048
HANDSHAKE_SECONDS: Final = 5.0
MAX_HANDSHAKES: Final = 128
"""Under way at a time with whoever dials us; the oldest gives way. Strangers who say nothing would use up our file
descriptors; a validator needs a moment, and comes back."""
ACCEPT_AGAIN_SECONDS: Final = 0.1
"""After the system could not give us a connection, for want of descriptors or memory."""
FIRST_RETRY_SECONDS: Final = 0.05
LAST_RETRY_SECONDS: Final = 1.0
"""Waits between attempts double from the first to the last; each is cut by up to half, at random, so that validators
which lost one another at one moment do not come back at one moment. A channel that held for less than the last is an
attempt that failed: each costs both a handshake, and us all that we tell a peer that was away."""

WAYS_OUT: Final = {
    errno.EADDRINUSE: "something else is listening already; stop it, or listen elsewhere",
    errno.EADDRNOTAVAIL: "this machine has no such address; listen at one that it has, such as 0.0.0.0",
}


class ListenError(TallystickError):
    """Nothing can be served at this address."""


@dataclass(frozen=True)
class Validator:
    """A validator as the ledger lists it."""

    identity: str
    address: str
    """`host:port` where it accepts channels."""
    certificate: str
    """PEM, as `make_certificate` gives it."""


class Peers:
    """Keeps a channel to every other validator, and accepts theirs.

    Args:
        listen: `host:port` to accept on.
        inbox: where incoming frames go, under the identity that the channel has proven.
        opened: called with a peer's identity when the channel to it is open.
        jitter: draws the random part of waits.
    """

    def __init__(
        self,
        key: Key,
        validators: Sequence[Validator],
        listen: str,
        inbox: Inbox,
        opened: Callable[[str], None],
        jitter: random.Random,
    ) -> None:
        self.rejections: Counter[str] = Counter()
        """How often a channel was closed, or a frame lost, by reason code."""
        self._key, self._listen, self._inbox, self._opened, self._jitter = key, listen, inbox, opened, jitter
        self._forms: dict[Validator, bytes | None] = {}
        """What `_pinned_form` made of those that were named last: it takes long, and most of them stay."""
        self._others: dict[str, Validator] = {}
        self._pins: dict[bytes, str] = {}
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming: dict[str, Incoming] = {}
        self._dialing: dict[str, asyncio.Task[None]] = {}
        self._shaking: dict[asyncio.Task[None], None] = {}
        """Handshakes with those who dialed us, oldest first."""
        self._running = False
        self._server_tls, self._client_tls = server_context(key), client_context(key)
        self.regroup(validators)

    @property
    def connected(self) -> tuple[str, ...]:
        """Peers that what we send now will go to."""
        return tuple(self._outgoing)

    @property
    def queued(self) -> dict[str, int]:
        """Bytes that wait for each peer."""
        return {peer: channel.queued for peer, channel in self._outgoing.items()}

    def send(self, peer: str, frame: bytes) -> None:
        """Queues `frame` for `peer` until `flush`; forgets it if there is no channel."""
        channel = self._outgoing.get(peer)
        if channel is not None:
            channel.add(frame)

    def broadcast(self, frame: bytes) -> None:
        for channel in list(self._outgoing.values()):
            channel.add(frame)

    def flush(self) -> None:
        """Lets everything leave that was queued."""
        for channel in list(self._outgoing.values()):
            channel.flush()

    def fall_silent(self) -> None:
        """Forgets what was queued: it must never leave."""
        for channel in self._outgoing.values():
            channel.forget()

    def regroup(self, validators: Sequence[Validator]) -> None:
        """Keeps channels to these validators from now on, and to no others.

        The ledger takes any text for an address or certificate. A bad one leaves its own validator without channels.
        """
        self._forms = {v: self._forms[v] if v in self._forms else self._pinned_form(v) for v in validators}
        forms = {v.identity: form for v, form in self._forms.items()}
        pins = {form: identity for identity, form in forms.items() if form and identity != self._key.identity}
        others = {v.identity: v for v in validators if v.identity in pins.values()}
        gone = [peer for peer, before in self._others.items() if others.get(peer) != before]
        new = [peer for peer, now in others.items() if self._others.get(peer) != now]
        self._others, self._pins = others, pins
        for peer in gone:
            self._leave(peer)
        for peer in new:
            if self._running:
                self._dial(peer)

    def _pinned_form(self, validator: Validator) -> bytes | None:
        """The certificate that is `validator`'s, after making TLS trust it; None if nobody could reach it."""
        try:
            split_address(validator.address)
            form = pinned_form(validator.identity, validator.certificate)
            # What was trusted once stays so in these; `_pins` is what decides.
            self._server_tls.load_verify_locations(cadata=form)
            self._client_tls.load_verify_locations(cadata=form)
        except (Refused, ValueError, ssl.SSLError):
            self.rejections["bad_entry"] += 1
            return None
        return form

    async def run(self, on_listening: Callable[[], None] = lambda: None) -> None:
        """Works until cancelled, and then leaves no channel open.

        Raises:
            ListenError: peers could not reach us.
        """
        with listen_on(self._listen) as listening:
            listening.setblocking(False)
            on_listening()
            self._running = True
            try:
                for peer in self._others:
                    self._dial(peer)
                await self._answer_those_who_dial(listening)
            finally:
                self._running = False
                waited = [*self._dialing.values(), *self._shaking]
                for peer in list(self._others):
                    self._leave(peer)
                for shaking in self._shaking:
                    shaking.cancel()
                await asyncio.gather(*waited, return_exceptions=True)

    # ---- opening

    def _dial(self, peer: str) -> None:
        self._dialing[peer] = asyncio.get_running_loop().create_task(self._keep_open(self._others[peer]))

    def _leave(self, peer: str) -> None:
        """Ends both channels with a peer, and what was under way on them."""
        if (dialing := self._dialing.pop(peer, None)) is not None:
            dialing.cancel()
        if (incoming := self._incoming.pop(peer, None)) is not None:
            incoming.transport.abort()
        self._inbox.forget(peer)

    async def _keep_open(self, validator: Validator) -> None:
        wait, now = FIRST_RETRY_SECONDS, asyncio.get_running_loop().time
        while True:
            channel = await self._open(validator)
            if channel is not None:
                opened = now()
                try:
                    self._outgoing[validator.identity] = channel
                    self._opened(validator.identity)
                    await channel.lost
                finally:
                    del self._outgoing[validator.identity]
                    channel.transport.abort()
                if now() - opened >= LAST_RETRY_SECONDS:
                    wait = FIRST_RETRY_SECONDS
            await asyncio.sleep(wait * (1 - self._jitter.random() / 2))
            wait = min(2 * wait, LAST_RETRY_SECONDS)

    async def _open(self, validator: Validator) -> Outgoing | None:
        """A channel to `validator`; None if it cannot be reached or is another."""
        host, port = split_address(validator.address)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                transport, channel = await asyncio.get_running_loop().create_connection(
                    lambda: Outgoing(self.rejections), host, port, ssl=self._client_tls
                )
        except (OSError, TimeoutError):
            return None
        there = self._pins.get(certificate_of(transport))
        if there == validator.identity:
            return channel
        same = there is not None and self._others[there].address == validator.address
        self.rejections["changed_key" if same else "wrong_peer"] += 1
        transport.abort()
        return None

    # ---- accepting

    async def _answer_those_who_dial(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:
                self.rejections["not_accepted"] += 1
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            shaking = loop.create_task(self._shake_hands(accepted))
            self._shaking[shaking] = None
            shaking.add_done_callback(self._shaking.pop)
            if len(self._shaking) > MAX_HANDSHAKES:
                self.rejections["too_many_handshakes"] += 1
                next(iter(self._shaking)).cancel()

    async def _shake_hands(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Incoming(self._inbox, self.rejections, self._accept, self._forget),
                accepted,
                ssl=self._server_tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except (OSError, TimeoutError):
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise

    def _accept(self, channel: Incoming) -> str | None:
        """The peer on the other side of a new channel, which takes the place of its older one."""
        peer = self._pins.get(certificate_of(channel.transport))
        if peer is None:
            self.rejections["unpinned_certificate"] += 1
            return None
        older = self._incoming.get(peer)
        if older is not None:
            older.transport.abort()  # the peer came back before we noticed that it was gone
        self._incoming[peer] = channel
        return peer

    def _forget(self, channel: Incoming) -> None:
        if channel.peer is not None and self._incoming.get(channel.peer) is channel:
            del self._incoming[channel.peer]


def listen_on(address: str) -> socket.socket:
    """A socket that accepts at `host:port`.

    Raises:
        ListenError: naming the address, and why not.
    """
    try:
        host, port = split_address(address)
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # [::] is every address, as 0.0.0.0 is
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except ValueError as error:
        raise ListenError(f"{address}: cannot listen there: {error}") from None
    except OSError as error:
        way = WAYS_OUT.get(error.errno or 0, "listen elsewhere")
        raise ListenError(f"{address}: cannot listen there: {error.strerror}; {way}") from None


def http_address(url: str) -> str:
    """`"http://127.0.0.1:26651/"` -> `"127.0.0.1:26651"`."""
    return url.removeprefix("http://").rstrip("/")


def split_address(address: str) -> tuple[str, int]:
    """`"[::1]:26650"` -> `("::1", 26650)`.

    Raises:
        ValueError: not of the form `host:port`.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or not port.isdecimal() or int(port) > 65535 or "[" in bare or "]" in bare:
        raise ValueError(f"{address!r} is not of the form host:port")
    if bare == host and ":" in host:
        raise ValueError(
            f"{address!r} is not of the form host:port; an IPv6 address goes in brackets, as in [::1]:26650"
        )
    return bare, int(port)

"""A validator process: consensus, ledger, auditor and HTTP face over one folder.

key             its identity, mode 0600
key.next        the identity that takes its place when the ledger's change of keys takes effect
genesis.json    the network that it belongs to
card.json       where it is reached; not needed if that is in genesis.json or in the ledger
consensus.db    blocks, votes and what else must not be lost, with consensus.turn beside it
ledger.db       what executing the blocks gave
peers.json      where the validators of the last two epochs are reached
"""

import asyncio
import logging
import random
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from tallystick import __version__
from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.identity import Key, load_key
from tallystick.consensus.pbft import Group
from tallystick.consensus.pbft.limits import TIMEOUT_MS, TRANSFER_GAP
from tallystick.errors import Refused, TallystickError
from tallystick.ledger.genesis import Genesis, ValidatorInfo, chain_id
from tallystick.ledger.membership import newcomers
from tallystick.ledger.state import Validator as Listed
from tallystick.ledger.transactions import Accuse, AnyBody, sign_transaction
from tallystick.network import views
from tallystick.network.addresses import AddressBook
from tallystick.network.api import Api
from tallystick.network.auditor import Auditor
from tallystick.network.blobs import BlobStore
from tallystick.network.engine import PbftEngine, Shell
from tallystick.network.genesis import first_group, read_genesis
from tallystick.network.metrics import EngineMetrics, StatusCollector
from tallystick.network.node import Node
from tallystick.network.peers import Validator
from tallystick.network.serving import http_server, listen_http, run_until
from tallystick.network.store import RETAIN_BLOCKS, Store
from tallystick.network.tables import DamagedError, StoreError, owner_of
from tallystick.network.tls import make_certificate
from tallystick.proof.durable import sync, write_whole

log = logging.getLogger(__name__)

KEY, NEXT_KEY, OLD_KEY = "key", "key.next", "key.old"
GENESIS, CARD, CONSENSUS, LEDGER, PEERS = "genesis.json", "card.json", "consensus.db", "ledger.db", "peers.json"
MAX_CARD_BYTES: Final = 64 * 1024


class ValidatorError(TallystickError):
    """The folder does not hold a validator that can run."""


def read_card(home: Path, genesis: Genesis, identity: str) -> ValidatorInfo:
    """Where the validator with `identity` is reached: from its card, or else from the genesis document.

    Raises:
        ValidatorError: there is neither.
        Refused: the card is not one.
    """
    if (home / CARD).exists():
        return from_json((home / CARD).read_bytes(), ValidatorInfo, limit=MAX_CARD_BYTES, what=f"{home / CARD}")
    found = next((info for info in genesis.validators if info.identity == identity), None)
    if found is None:
        reason = f"key {identity[:12]} is not a validator of chain {genesis.chain} from its start"
        raise ValidatorError(f"{home}: {reason}, and there is no {CARD}; make one with `tallystick validator init`")
    return found


async def run_validator(
    home: Path,
    blobs: str,
    on_ready: Callable[[views.Status], None],
    *,
    listen: str = "",
    http: str = "",
    retain: int = RETAIN_BLOCKS,
    timeout_ms: int = TIMEOUT_MS,
) -> None:
    """Runs the validator of folder `home` until SIGINT or SIGTERM, then stops in order.

    Args:
        blobs: fsspec URL of the network's blobs.
        on_ready: called when requests are accepted.
        listen: `host:port` for peers, and
        http: for requests, where they are not those by which others reach it.
        retain: how many blocks are kept below the last stable checkpoint, if consensus needs no more.
        timeout_ms: patience with the first primary of an epoch.

    Raises:
        DamagedError: the folder does not hold what was written. Most of that is noticed before anything is signed.
        HaltedError: it stopped by itself, since going on could do harm.
        ValidatorError, GenesisFileError, KeyFileError, StoreError, Refused: it cannot start; the message says why.
    """
    genesis = read_genesis(home / GENESIS)
    while True:
        key = own_key(home, genesis)
        card = read_card(home, genesis, key.identity)
        with listen_http(http or card.url) as listening:
            process = _Process(home, genesis, key, listen or card.address, retain, timeout_ms, on_ready)
            try:
                await process.serve(listening, BlobStore(blobs))
            except BaseException:
                with suppress(OSError, sqlite3.Error, StoreError):  # of one disk that fails, this says less
                    process.close()
                raise
            process.close()
        if not process.key_is_old:
            return
        _take_new_key(home, genesis)


def own_key(home: Path, genesis: Genesis) -> Key:
    """The key of the validator in folder `home`; finishes a change of keys that was interrupted.

    Raises:
        ValidatorError: there is none.
        KeyFileError: it cannot be used.
    """
    present = key_in_use(home)
    if (home / NEXT_KEY).exists() and owner_of(home / CONSENSUS) == load_key(home / NEXT_KEY).identity:
        _take_new_key(home, genesis)
        return load_key(home / KEY)
    return present


def key_in_use(home: Path) -> Key:
    """The key of the validator in folder `home`, as its file is now.

    Raises:
        ValidatorError: there is none.
        KeyFileError: it cannot be used.
    """
    if not home.is_dir():
        raise ValidatorError(f"{home}: no such folder; name that of a validator")
    if not (home / KEY).exists():
        way = "bring it back from a backup (a new key would be another validator's)"
        raise ValidatorError(f"{home / KEY}: missing; {way}")
    return load_key(home / KEY)


def _take_new_key(home: Path, genesis: Genesis) -> None:
    """The key that was agreed on is the key from now on; the old one stays, in case somebody asks.

    The store's owner is what decides, so it changes before the files do. After a crash at any point there is a `key`,
    and doing all of it again ends in the same place.
    """
    old, new = load_key(home / KEY), load_key(home / NEXT_KEY)
    card = replace(read_card(home, genesis, old.identity), identity=new.identity, certificate=make_certificate(new))
    write_whole(home / CARD, to_json(card))
    if owner_of(home / CONSENSUS) != new.identity:
        Store(home / CONSENSUS, chain_id(genesis), old.identity).hand_over(new.identity)
    (home / OLD_KEY).unlink(missing_ok=True)
    (home / OLD_KEY).hardlink_to(home / KEY)
    sync(home)
    (home / NEXT_KEY).rename(home / KEY)
    sync(home)
    log.info("key %s has taken the place of %s", new.identity[:12], old.identity[:12])


class _Process:
    """One life of a validator under one key."""

    def __init__(
        self,
        home: Path,
        genesis: Genesis,
        key: Key,
        listen: str,
        retain: int,
        timeout_ms: int,
        on_ready: Callable[[views.Status], None],
    ) -> None:
        self._genesis, self._key, self._chain = genesis, key, chain_id(genesis)
        self._home, self._on_ready = home, on_ready
        self._addresses = AddressBook(home / PEERS, map(_reached_at, genesis.validators))
        self._stopping = asyncio.Event()
        self._metrics = EngineMetrics()
        self._accusations: dict[str, Accuse] = {}
        """By culprit."""
        self._damage: DamagedError | None = None
        self.key_is_old = False
        """Whether this life ended because the next key is in office."""
        retain = max(retain, (TRANSFER_GAP + 1) * genesis.agreement.interval)
        self._store = Store(home / CONSENSUS, self._chain, key.identity, retain=retain)
        self._node: Node | None = None
        try:
            self._node = Node(genesis, home / LEDGER)
            jitter = random.Random(key.identity)  # noqa: S311  # no secret: only when to dial
            shell = Shell(
                self._look_up,
                self._accuse,
                self._regrouped,
                self._look_for_new_key,
                self._newcomers,
                listening=lambda: self._on_ready(self._status()),
                jitter=jitter,
            )
            first = first_group(genesis)
            self._engine = PbftEngine(
                key, first, self._node, self._store, shell, listen=listen, timeout_ms=timeout_ms, metrics=self._metrics
            )
        except BaseException:
            self.close()
            raise

    @property
    def node(self) -> Node:
        assert self._node is not None
        return self._node

    def close(self) -> None:
        try:
            if self._node is not None:
                self._node.close()
        finally:
            self._store.close()

    async def serve(self, listening: socket.socket, blobs: BlobStore) -> None:
        loop = asyncio.get_running_loop()

        def submit(nonce: int, body: AnyBody) -> None:
            loop.call_soon_threadsafe(self._submit, sign_transaction(self._key, self._chain, nonce, body))

        auditor = Auditor(self._key.identity, blobs, submit)
        self.node.listen(auditor.notify)
        self._metrics.registry.register(StatusCollector(self._engine.status))
        api = Api(self.node, self._engine, self._status, self._metrics.text, self._store, damaged=self._stop_damaged)
        server = http_server(api)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        self._look_for_new_key()
        auditor.start()
        auditor.notify(self.node.state)
        try:
            work = server.serve(sockets=[listening])
            await run_until(self._stopping, self._engine.run(), work, server, self.node.let_go)
        finally:
            auditor.stop()
        if self._damage is not None:
            raise self._damage

    def _stop_damaged(self, error: DamagedError) -> None:
        """Ends this life: of a damaged file nobody knows what else is wrong."""
        self._damage = error
        self._stopping.set()

    def _status(self) -> views.Status:
        now = self._engine.status()
        return views.Status(
            chain=self._chain,
            identity=self._key.identity,
            version=__version__,
            height=self.node.height,
            time_ms=self.node.state.time_ms,
            view=now.view,
            primary=now.primary,
            peers=len(now.connected),
            pool=now.waiting,
            rejections=now.rejections,
            not_admitted=now.not_admitted,
            epoch=now.epoch,
            active=now.active,
            voting=now.voting,
            checkpoint=now.checkpoint,
            transferring=now.transferring,
            view_changes=now.view_changes,
            last_view_change_ms=now.last_view_change_ms,
            connected=sorted(now.connected),
        )

    def _submit(self, transaction: bytes) -> None:
        """A refusal is no fault: the ledger may have moved on since we looked, and we will look again."""
        try:
            self._engine.submit(transaction)
        except Refused as refused:
            log.info("own transaction not admitted: %s", refused)

    # ---- what the engine asks for

    def _look_up(self, identity: str) -> Validator | None:
        """From the ledger, or where it was the last time; a validator that leaves is talked to for an epoch more."""
        self._addresses.learn(map(_reached_at, (*newcomers(self.node.state), *self.node.state.validators)))
        return self._addresses.find(identity)

    def _newcomers(self) -> tuple[str, ...]:
        state = self.node.state
        return tuple(listed.identity for listed in (*newcomers(state), *state.validators))

    def _accuse(self, culprit: str, first: bytes, second: bytes) -> None:
        log.warning("%s has signed two votes that exclude each other", culprit[:12])
        self._accusations[culprit] = Accuse(first, second)
        self._press_charges()

    def _press_charges(self) -> None:
        """Hands in the accusations that the ledger has not followed yet. One may be lost, or come too late: the auditor
        gives out nonces as well, and other validators have seen the same."""
        state, loop = self.node.state, asyncio.get_running_loop()
        self._accusations = {c: body for c, body in self._accusations.items() if c not in state.culprits}
        account = state.accounts.get(self._key.identity)
        for offset, body in enumerate(self._accusations.values(), 1):
            nonce = (account.nonce if account else 0) + offset
            loop.call_soon(self._submit, sign_transaction(self._key, self._chain, nonce, body))

    def _regrouped(self, group: Group) -> None:
        names = ", ".join(identity[:12] for identity in group.validators)
        log.info("epoch %d after block %d: %s", group.epoch, group.start, names)
        self._addresses.keep(self._engine.members)
        self._look_for_new_key()
        self._press_charges()

    def _look_for_new_key(self) -> None:
        """Ends this life if the next key can take over."""
        self.key_is_old = next_key_can_take_over(self._home, self._key, self._engine)
        if self.key_is_old:
            self._stopping.set()


def _reached_at(listed: ValidatorInfo | Listed) -> Validator:
    return Validator(listed.identity, listed.address, listed.certificate)


def next_key_can_take_over(home: Path, key: Key, engine: PbftEngine) -> bool:
    """Whether the next key is in office, and nobody will need another vote of `key`, which the next one cannot give."""
    voters, next_key = engine.group.validators, home / NEXT_KEY
    if key.identity in voters or not engine.may_leave or not next_key.exists():
        return False
    return load_key(next_key).identity in voters

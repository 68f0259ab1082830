"""`tallystick validator`: everything that an operator of a validator does."""

import gc
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table

from tallystick.cli.entry import stop_at_once
from tallystick.cli.money import MOST
from tallystick.cli.network import BLOBS, JOIN, JOIN_ALL, STOP_ON_EOF
from tallystick.cli.output import JSON, fail, print_json, say, show_outcome

if TYPE_CHECKING:
    from tallystick.ledger.transactions import AnyBody
    from tallystick.network.export import Header
    from tallystick.network.views import Status, TransactionView

DAMAGED, HALTED = 3, 4
"""Exit codes of `run`: the folder does not hold what was written to it; the node stopped by itself."""

validator = typer.Typer(
    help="Run a validator and look after it.\n\nExit codes: 0 done, 1 could not or wrong usage; of `run` also "
    "3 damaged files (see `recover`) and 4 stopped by itself (the message says why).",
    no_args_is_help=True,
)

HOME = typer.Argument(help="The validator's folder: `key`, `genesis.json`, and the databases.")


@validator.command()
def init(
    home: Path = typer.Argument(help="New folder for the validator."),
    genesis: Path = typer.Option(..., "--genesis", help="The network's genesis document."),
    address: str = typer.Option(..., "--address", help="`host:port` where other validators reach it."),
    url: str = typer.Option(..., "--url", help="Where it serves HTTP, such as http://203.0.113.7:26651."),
    stake: int = typer.Option(500_000, min=1, max=MOST, help="What it answers with for its votes."),
    key: Path | None = typer.Option(None, "--key", help="An existing key to use; else a new one is made."),
    json: bool = JSON,
) -> None:
    """Prepare a validator that is to join a running network: key, genesis document, and a card that says who it is.

    Send the card to the operators of the network, who vote with `tallystick validator add`. The identity needs a
    balance first, from whoever has one (`tallystick transfer`); `tallystick validator deposit` turns it into the stake.
    A key that exists may have voted before, so with `--key` the validator is silent for two epochs after it has found
    the others.

    Example: tallystick validator init node-5 --genesis net/genesis.json --address 127.0.0.1:26700 \
--url http://127.0.0.1:26701
    """
    from tallystick.canon.encoding import to_json
    from tallystick.canon.identity import Key, load_key, save_key
    from tallystick.ledger.genesis import ValidatorInfo, chain_id
    from tallystick.network.genesis import read_genesis
    from tallystick.network.peers import http_address, split_address
    from tallystick.network.store import create_store
    from tallystick.network.tls import make_certificate
    from tallystick.network.validator import CARD, CONSENSUS, GENESIS, KEY

    chain = chain_id(read_genesis(genesis))
    for option, given in (("--address", address), ("--url", http_address(url))):
        try:
            name, _ = split_address(given)
        except ValueError as error:
            fail(f"{option}: {error}")
        if name in ("0.0.0.0", "::"):  # noqa: S104  # refused, not bound
            fail(f"{option} {given}: nobody reaches it there; name its address, and that one with `run --listen`")
    if home.exists() and any(home.iterdir()):
        fail(f"{home}: not empty; name a new folder")
    secret = load_key(key) if key else Key.generate()
    save_key(secret, home / KEY)
    shutil.copyfile(genesis, home / GENESIS)
    card = ValidatorInfo(secret.identity, address, url, make_certificate(secret), stake)
    (home / CARD).write_bytes(to_json(card))
    create_store(home / CONSENSUS, chain, secret.identity, muted=key is not None)
    if json:
        print_json({"identity": secret.identity, "card": str(home / CARD)})
        return
    typer.echo(secret.identity)
    say(f"send {home / CARD} to the operators of the network")


@validator.command()
def run(
    home: Path = HOME,
    blobs: str = BLOBS,
    retain: int = typer.Option(100_000, min=0, help="Blocks kept; whoever is further behind fetches a snapshot."),
    timeout_ms: int = typer.Option(
        1000, "--timeout-ms", min=50, max=600_000, help="Patience with a primary before it is replaced, at first."
    ),
    listen: str = typer.Option("", "--listen", help="`host:port` to take peers at, if not at its `--address`."),
    listen_http: str = typer.Option("", "--listen-http", help="The same for HTTP, if not at its `--url`."),
    stop_on_eof: bool = STOP_ON_EOF,
) -> None:
    """Run a validator: agrees on blocks, re-runs contributions, attests results. Stops on SIGINT or SIGTERM.

    Behind a router or in a container, where others reach it at an address that this machine does not have, say with
    `--listen` and `--listen-http` where they arrive.

    Examples:
    tallystick validator run net/validator-0 --blobs net/blobs
    tallystick validator run node-5 --blobs s3://bucket/blobs --listen 0.0.0.0:26700 --listen-http 0.0.0.0:26701
    """
    stop_at_once()  # until the event loop takes signals over
    import uvloop

    from tallystick.network import running
    from tallystick.network.engine import HaltedError
    from tallystick.network.tables import DamagedError
    from tallystick.network.validator import run_validator
    from tallystick.network.views import Status

    running.start_logging()
    running.raise_descriptor_limit()
    running.one_torch_thread()
    running.require_exact_arithmetic()
    if stop_on_eof:
        running.stop_on_eof()

    def ready(status: Status) -> None:
        gc.collect()
        gc.freeze()  # what was loaded so far stays, and is not looked through again while others wait for us
        said = f"validator {status.identity[:12]} of {status.chain}: height {status.height}, ready"
        say(said)

    try:
        life = run_validator(home, blobs, ready, listen=listen, http=listen_http, retain=retain, timeout_ms=timeout_ms)
        uvloop.run(life)
    except DamagedError as error:
        fail(str(error), DAMAGED)
    except HaltedError as error:
        fail(str(error), HALTED)


@validator.command()
def status(join: list[str] = JOIN_ALL, json: bool = JSON) -> None:
    """Show what an operator needs to know of each named validator. Exits with 1 if one does not answer.

    Example: tallystick validator status --join http://127.0.0.1:26651 --join http://127.0.0.1:26653
    """
    from tallystick.errors import Refused
    from tallystick.network.dial import UnreachableError, Validators

    seen: dict[str, Status | None] = {}
    for url in join:
        try:
            with Validators([url]) as one:
                seen[url] = one.status()
        except (UnreachableError, Refused) as error:
            say(f"{url}: {error}")
            seen[url] = None
    best = max((found.height for found in seen.values() if found), default=0)
    if json:
        rows = [
            {"url": url, "lag": best - found.height if found else None, "status": found} for url, found in seen.items()
        ]
        print_json({"height": best, "validators": rows})
    else:
        _print_status(seen, best)
    if None in seen.values():
        raise typer.Exit(1)


def _print_status(seen: "dict[str, Status | None]", best: int) -> None:
    from tallystick.network.peers import http_address

    names = ("height", "lag", "checkpoint", "epoch/view", "peers", "pool", "state")
    url_column = Column("validator", overflow="fold")  # in a narrow terminal nothing is cut off
    table = Table(url_column, *names, box=None, pad_edge=False, collapse_padding=True)
    console = Console()
    for url, found in seen.items():
        where = http_address(url)
        if found is None:
            table.add_row(where, "", "", "", "", "", "", "[red]no answer[/]")
            continue
        state = "votes" if found.voting else "follows"
        state = "fetches a snapshot" if found.transferring else state if found.active else f"{state}, changes its view"
        numbers = (found.height, best - found.height, found.checkpoint, f"{found.epoch}/{found.view}")
        table.add_row(where, *map(str, (*numbers, len(found.connected), found.pool)), state)
    console.print(table)
    for url, found in seen.items():
        if found is None:
            continue
        console.print(f"{http_address(url)}: {found.identity[:12]}, its primary {found.primary[:12]}", soft_wrap=True)
        ago = "never" if found.last_view_change_ms is None else f"{_seconds_since(found.last_view_change_ms):.0f} s ago"
        refused = f"{_counts(found.rejections)}; transactions not admitted: {_counts(found.not_admitted)}"
        console.print(f"  last view change {ago} ({found.view_changes} since its start); refused: {refused}")


def _counts(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(by_reason.items())) or "none"


def _seconds_since(time_ms: int) -> float:
    return max(0.0, time.time() - time_ms / 1000)


# ---- membership


@validator.command()
def deposit(
    home: Path = HOME,
    amount: int = typer.Argument(min=1, max=MOST, help="How much of its balance."),
    join: list[str] = JOIN,
    json: bool = JSON,
) -> None:
    """Put a part of the validator's balance at stake, which it needs before it can be added.

    Example: tallystick validator deposit node-5 500000 --join http://127.0.0.1:26651
    """
    from tallystick.ledger.transactions import Deposit

    show_outcome(_send(home, Deposit(amount), join), json)


@validator.command()
def add(
    home: Path = HOME,
    card: Path = typer.Argument(help="The newcomer's `card.json`."),
    join: list[str] = JOIN,
    json: bool = JSON,
) -> None:
    """Vote, with the validator's key, for a newcomer. It becomes a validator when a quorum has voted for it.

    Example: tallystick validator add net/validator-0 node-5/card.json --join http://127.0.0.1:26651
    """
    from tallystick.canon.encoding import from_json
    from tallystick.errors import Refused
    from tallystick.ledger.genesis import ValidatorInfo
    from tallystick.ledger.transactions import AddValidator
    from tallystick.network.peers import split_address
    from tallystick.network.tls import pinned_form
    from tallystick.network.validator import MAX_CARD_BYTES

    try:
        info = from_json(card.read_bytes(), ValidatorInfo, limit=MAX_CARD_BYTES, what="card")
        split_address(info.address)
        pinned_form(info.identity, info.certificate)
    except OSError as error:
        fail(f"{card}: {error.strerror}")
    except (Refused, ValueError) as error:
        fail(f"{card}: not a validator's card: {error}; `tallystick validator init` makes one, card.json")
    body = AddValidator(info.identity, info.address, info.url, info.certificate, info.stake)
    show_outcome(_send(home, body, join), json)


@validator.command()
def remove(
    home: Path = HOME,
    identity: str = typer.Argument(help="Of the validator that is to leave; may be the folder's own."),
    join: list[str] = JOIN,
    json: bool = JSON,
) -> None:
    """Vote, with the validator's key, for another's leaving or its own. It leaves when a quorum has voted for it.

    Example: tallystick validator remove net/validator-0 $IDENTITY --join http://127.0.0.1:26651
    """
    from tallystick.canon.identity import parse_identity
    from tallystick.ledger.transactions import RemoveValidator

    show_outcome(_send(home, RemoveValidator(parse_identity(identity, "remove")), join), json)


@validator.command()
def rotate_key(home: Path = HOME, join: list[str] = JOIN, json: bool = JSON) -> None:
    """Give the validator a new key. The running process changes over by itself at the next checkpoint.

    The new key is `key.next` until then; afterwards it is `key`, and the old one `key.old`. Saying it twice before then
    asks for nothing more.

    Example: tallystick validator rotate-key net/validator-0 --join http://127.0.0.1:26651
    """
    from tallystick.canon.identity import Key, load_key, save_key
    from tallystick.ledger.genesis import chain_id
    from tallystick.ledger.transactions import RotateKey, prove_rotation
    from tallystick.network.dial import Sender, Validators
    from tallystick.network.genesis import read_genesis
    from tallystick.network.tls import make_certificate
    from tallystick.network.validator import GENESIS, NEXT_KEY, key_in_use

    chain, key = chain_id(read_genesis(home / GENESIS)), key_in_use(home)
    if not (home / NEXT_KEY).exists():
        save_key(Key.generate(), home / NEXT_KEY)  # before the ledger knows of it: it must not be lost
    new = load_key(home / NEXT_KEY)
    body = RotateKey(new.identity, make_certificate(new), prove_rotation(new, chain, key.identity))
    with Validators(join) as validators:
        listed = any(each.identity == new.identity for each in validators.validators().validators)
        outcome = None if listed else Sender(key, validators, say).send(body)
    if json:
        print_json({"identity": new.identity, "outcome": outcome})
        return
    typer.echo(new.identity)
    if listed:
        say("the ledger knows this key already; it is in office after the next checkpoint")


def _send(home: Path, body: "AnyBody", join: list[str]) -> "TransactionView":
    from tallystick.network.dial import Sender, Validators
    from tallystick.network.validator import key_in_use

    key = key_in_use(home)
    with Validators(join) as validators:
        return Sender(key, validators, say).send(body)


# ---- files


@validator.command()
def export(
    home: Path = typer.Argument(None, help="The folder of a validator that is stopped."),
    out: Path = typer.Option(None, "--out", help="File to write the blocks to."),
    join: list[str] = typer.Option([], "--join", help="Instead of a folder: URL of a running validator."),
    check: Path = typer.Option(None, "--check", help="Instead, check such a file."),
    genesis: Path = typer.Option(None, "--genesis", help="With --join or --check: the network's genesis document."),
    json: bool = JSON,
) -> None:
    """Write blocks with the proof that a quorum agreed on them; or check such a file, with nothing but the genesis.

    Example: tallystick validator export --join http://127.0.0.1:26651 --genesis net/genesis.json --out blocks && \
tallystick validator export --check blocks --genesis net/genesis.json
    """
    given = {"folder": home, "--out": out, "--join": join, "--check": check, "--genesis": genesis}
    names = {name for name, value in given.items() if value}
    if names == {"--check", "--genesis"}:
        _check_export(check, genesis, json)
    elif names == {"folder", "--out"}:
        _write_export(home, out, json)
    elif names == {"--join", "--genesis", "--out"}:
        _fetch_export(join, genesis, out, json)
    else:
        _usage("name a folder and --out; or --join, --genesis and --out; or --check and --genesis")


def _fetch_export(join: list[str], genesis: Path, out: Path, json: bool) -> None:
    from tallystick.network.dial import Validators
    from tallystick.network.export import fetch_export
    from tallystick.network.genesis import first_group, read_genesis

    _require_new(out)
    with Validators(join) as validators:
        header = fetch_export(validators, first_group(read_genesis(genesis)), out)
    _show_export(out, header, json)


def _write_export(home: Path, out: Path, json: bool) -> None:
    from tallystick.canon.identity import load_key
    from tallystick.network.export import write_export
    from tallystick.network.genesis import first_group, read_genesis
    from tallystick.network.store import Store
    from tallystick.network.tables import StoreError
    from tallystick.network.validator import CONSENSUS, GENESIS, KEY

    _require_new(out)
    genesis = first_group(read_genesis(home / GENESIS))
    try:
        store = Store(home / CONSENSUS, genesis.chain, load_key(home / KEY).identity)
    except StoreError as error:
        fail(f"{error} (If it is running, name its URL with --join instead of its folder.)")
    try:
        header = write_export(store, genesis, out)
    finally:
        store.close()
    _show_export(out, header, json)


def _require_new(out: Path) -> None:
    if out.exists():
        fail(f"{out}: is there already; name another file with --out")


def _show_export(out: Path, header: "Header", json: bool) -> None:
    if json:
        print_json({"file": str(out), "first": header.first, "last": header.last})
    else:
        typer.echo(f"{out}: blocks {header.first} to {header.last}")


def _check_export(file: Path, genesis: Path, json: bool) -> None:
    from tallystick.network.export import check_export
    from tallystick.network.genesis import first_group, read_genesis

    group = first_group(read_genesis(genesis))
    try:
        checked = check_export(file, group)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    if json:
        print_json(checked)
        return
    changes = f"{checked.validator_changes} changes of the validators"
    typer.echo(f"verified: blocks {checked.first} to {checked.last}, {checked.transactions} transactions, {changes}")


@validator.command()
def recover(home: Path = HOME, json: bool = JSON) -> None:
    """Set damaged files of a stopped validator aside, so that it can start again and rejoin from its peers.

    Its key stays. If the log of what it signed is lost, it follows in silence until an epoch that nothing it may have
    signed can reach, and votes again from there.

    Example: tallystick validator recover net/validator-0
    """
    from tallystick.network.recovery import recover as mend

    done = mend(home)
    if json:
        print_json(done)
    elif not done.damage:
        typer.echo("nothing is damaged")
    else:
        say(done.damage)
        if done.moved:
            typer.echo(f"set aside in {done.aside}: {', '.join(done.moved)}")
        typer.echo("start it again; it will be silent for two epochs" if done.muted else "start it again")


def _usage(message: str) -> NoReturn:
    raise typer.BadParameter(message)

"""`tallystick balance`, `transfer` and `withdraw`: what an identity has, and what it does with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from tallystick.cli.network import JOIN, KEY
from tallystick.cli.output import JSON, print_json, say, show_outcome

if TYPE_CHECKING:
    from tallystick.ledger.transactions import AnyBody

MOST: Final = 2**62
"""`ledger.transactions.MAX_AMOUNT`; to import that would take 50 ms of every command."""


def balance(
    identity: str = typer.Argument("", help="Whose, 64 hex digits; `tallystick keygen` prints it."),
    key: Path = typer.Option(None, "--key", help="Instead: the key file of the identity."),
    join: list[str] = JOIN,
    json: bool = JSON,
) -> None:
    """Show what an identity has, as one validator sees it. One that the ledger does not know has nothing.

    Example: tallystick balance --key net/worker-0/key --join http://127.0.0.1:26651
    """
    from tallystick.canon.identity import load_key, parse_identity
    from tallystick.network.dial import Validators

    if bool(identity) == bool(key):
        raise typer.BadParameter("name an identity, or a key file with --key")
    whose = load_key(key).identity if key else parse_identity(identity, "balance")
    with Validators(join) as validators:
        account = validators.account(whose)
    if json:
        print_json(account)
    else:
        typer.echo(f"balance {account.balance}, stake {account.stake}, of which {account.locked} is bound")


def transfer(
    to: str = typer.Argument(help="Identity of the receiver, 64 hex digits; the ledger need not know it yet."),
    amount: int = typer.Argument(min=1, max=MOST, help="How much of your balance."),
    key: Path = KEY,
    join: list[str] = JOIN,
    json: bool = JSON,
) -> None:
    """Give a part of your balance to somebody. Nobody can take that back.

    Example: tallystick transfer $IDENTITY 500000 --key net/client/key --join http://127.0.0.1:26651
    """
    from tallystick.canon.identity import parse_identity
    from tallystick.ledger.transactions import Transfer

    _send(key, Transfer(parse_identity(to, "transfer"), amount), join, json)


def withdraw(
    amount: int = typer.Argument(min=1, max=MOST, help="How much of your stake."),
    key: Path = KEY,
    join: list[str] = JOIN,
    json: bool = JSON,
) -> None:
    """Move a part of your stake back to your balance. What a task or an office binds stays where it is.

    Example: tallystick withdraw 1000 --key net/worker-0/key --join http://127.0.0.1:26651
    """
    from tallystick.ledger.transactions import Withdraw

    _send(key, Withdraw(amount), join, json)


def _send(key: Path, body: "AnyBody", join: list[str], json: bool) -> None:
    from tallystick.canon.identity import load_key
    from tallystick.network.dial import Sender, Validators

    secret = load_key(key)
    with Validators(join) as validators:
        show_outcome(Sender(secret, validators, say).send(body), json)

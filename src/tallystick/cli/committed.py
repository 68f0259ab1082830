"""`tallystick check-transaction`: what a client can know for sure about a transaction, from one validator's reply."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tallystick.cli.network import JOIN
from tallystick.cli.output import JSON, fail, print_json, say
from tallystick.errors import Refused

if TYPE_CHECKING:
    from tallystick.network.committed import Committed

EXIT_UNPROVEN, EXIT_FALSE = 1, 2


def check_transaction(
    transaction: str = typer.Argument(help="Hash of the transaction, in hex. A task's id is one."),
    genesis: Path = typer.Option(..., "--genesis", help="The network's genesis document, from a source you trust."),
    join: list[str] = JOIN,
    height: int | None = typer.Option(
        None, "--height", min=1, max=2**53, help="Of its block; if not given, a validator says."
    ),
    json: bool = JSON,
) -> None:
    """Check that a transaction was committed, with nothing but the genesis document; one honest validator is enough.

    The validators named are asked one after another until one shows a block with the transaction, the votes of a quorum
    for it, and checkpoints that lead from genesis to those who voted. All of that is checked here. It says that the
    transaction is in the order that all agree on, not that the ledger's rules accepted it.

    Exit status: 0 committed, 1 could not check, 2 none showed that, and one showed something false.

    Example: tallystick check-transaction $TASK --genesis net/genesis.json --join http://127.0.0.1:26651
    """
    from tallystick.canon.hashing import is_name
    from tallystick.network.committed import UnprovenError, check_committed
    from tallystick.network.dial import UnreachableError, Validators
    from tallystick.network.genesis import first_group, read_genesis

    if not is_name(transaction):
        fail(f"{transaction[:80]!r} is no transaction's hash: 64 characters of 0-9 and a-f are needed")
    group, code = first_group(read_genesis(genesis)), EXIT_UNPROVEN
    for url in join:
        try:
            with Validators([url]) as one:
                found = check_committed(one, group, transaction, height)
        except Refused as refused:
            code = EXIT_FALSE
            say(f"{url}: shows something false: {refused}")
        except (UnprovenError, UnreachableError) as error:
            say(f"{url}: {error}")
        else:
            _show(found, url, json)
            return
    sys.exit(code)


def _show(found: "Committed", url: str, json: bool) -> None:
    if json:
        print_json({"url": url, "committed": found})
        return
    typer.echo(f"committed: transaction {found.number} of block {found.height} of {found.chain}")
    typer.echo(f"  {found.kind} by {found.sender}")
    typer.echo(f"  votes of {len(found.signers)} of {found.validators} validators, epoch {found.epoch}, shown by {url}")

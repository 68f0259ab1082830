"""How commands speak: values on standard output, everything else on standard error, JSON where asked for."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import typer
from rich.console import Console

if TYPE_CHECKING:
    from tallystick.network.views import TransactionView

JSON = typer.Option(False, "--json", help="Print JSON.")
errors = Console(stderr=True, highlight=False)


def fail(message: str, code: int = 1) -> NoReturn:
    """Prints one clear line and exits."""
    errors.print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True)
    sys.exit(code)


def say(line: str) -> None:
    """A line for who is watching, on standard error."""
    errors.print(line, soft_wrap=True, markup=False)


def require_folder(option: str, path: Path | None) -> None:
    """Ends the command before its work if what it is to write at the end has no folder to go to."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        fail(f"{option} {path}: a file cannot be written there")


def print_json(value: Any) -> None:
    """Indented JSON on standard output, for programs."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def show_outcome(outcome: "TransactionView", json: bool) -> None:
    """What became of a transaction that the ledger accepted."""
    if json:
        print_json(outcome)
    else:
        sys.stdout.write(f"executed in block {outcome.height}: {outcome.code}, transaction {outcome.hash}\n")


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")

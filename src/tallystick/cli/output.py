"""How commands speak: values on standard output, everything else on standard error, JSON where asked for."""

import sys
from typing import Any, NoReturn

import msgspec
from rich.console import Console

errors = Console(stderr=True, highlight=False)


def fail(message: str, code: int = 1) -> NoReturn:
    """Prints one clear line and exits."""
    errors.print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True)
    sys.exit(code)


def print_json(value: Any) -> None:
    """Indented JSON on standard output, for programs."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")

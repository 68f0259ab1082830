"""`tallystick validator`: everything that an operator of a validator does."""

import asyncio
from pathlib import Path

import typer

from tallystick.cli.network import BLOBS, STOP_ON_EOF
from tallystick.cli.output import errors

validator = typer.Typer(help="Run a validator and look after it.", no_args_is_help=True)

HOME = typer.Argument(help="The validator's folder: `key`, `genesis.json`, and the databases.")


@validator.command()
def run(
    home: Path = HOME,
    blobs: str = BLOBS,
    stop_on_eof: bool = STOP_ON_EOF,
) -> None:
    """Run a validator: agrees on blocks, re-runs contributions, attests results. Stops on SIGINT or SIGTERM.

    Example: tallystick validator run net/validator-0 --blobs net/blobs
    """
    from tallystick.network import running
    from tallystick.network.validator import run_validator
    from tallystick.network.views import Status

    running.start_logging()
    running.one_torch_thread()
    running.require_exact_arithmetic()
    if stop_on_eof:
        running.stop_on_eof()

    def ready(status: Status) -> None:
        errors.print(f"validator {status.identity[:12]} of {status.chain}: height {status.height}, ready")

    asyncio.run(run_validator(home, blobs, ready))

"""`tallystick`: one command for training on machines that nobody trusts, and for checking what came of it."""

import signal
import sys

import typer
from typer.rich_utils import rich_format_error

from tallystick import __version__
from tallystick.cli import (
    abci,
    attacks,
    claims,
    committed,
    data,
    demo,
    dispute,
    keys,
    lab,
    money,
    network,
    proofs,
    selftest,
    tolerant,
    train,
    validator,
)
from tallystick.cli.output import fail
from tallystick.errors import TallystickError

app = typer.Typer(
    name="tallystick",
    help="Train PyTorch models on computers you don't trust, and get the same bits you would have got on your own.",
    epilog="Start with: tallystick demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tallystick {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command()(demo.demo)
app.command()(network.init)
app.command()(network.worker)
app.command()(network.submit)
app.command()(network.status)
app.command()(money.balance)
app.command()(money.transfer)
app.command()(money.withdraw)
app.command()(committed.check_transaction)
app.command()(train.train)
app.command()(proofs.verify)
app.command()(train.pack)
app.command()(claims.claim)
app.command()(claims.resolve)
app.command()(claims.export)
app.command()(claims.check_release)
app.command()(tolerant.calibrate)
app.command()(tolerant.check_record)
app.command()(attacks.attacks)
app.command()(keys.keygen)
app.command()(selftest.selftest)
app.add_typer(abci.abci, name="abci")
app.add_typer(validator.validator, name="validator")
app.add_typer(data.data, name="data")
app.add_typer(dispute.dispute, name="dispute")
app.add_typer(lab.lab, name="lab")


def main() -> None:
    """Entry point: what goes wrong is one line on standard error and exit status 1, never a traceback.

    That holds for a wrong option, too: 2 is a verdict here (`verify`, `check-record`, `dispute play`), not wrong usage.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `entry`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        rich_format_error(error)  # type: ignore[arg-type]
        sys.exit(1)
    except TallystickError as error:
        fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}")
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


if __name__ == "__main__":
    main()

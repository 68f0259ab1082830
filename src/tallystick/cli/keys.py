"""`tallystick keygen`."""

from pathlib import Path

import typer

from tallystick.cli.output import fail


def keygen(
    path: Path = typer.Argument(help="File to write the secret key to; it must not exist."),
) -> None:
    """Make a new identity: a secret key in a file that only you can read. Prints the public identity.

    Example: tallystick keygen ~/.tallystick/key
    """
    from tallystick.canon.identity import Key, save_key

    key = Key.generate()
    try:
        save_key(key, path)
    except FileExistsError:
        fail(f"{path}: exists already; a key is never overwritten")
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    typer.echo(key.identity)

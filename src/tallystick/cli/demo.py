"""`tallystick demo`."""

from pathlib import Path

import typer
from rich.console import Console

from tallystick.cli.output import fail

TASK = Path("examples/digits/task.toml")
WIDTH = 120
"""Of tables that go to a file or a pipe."""


def demo(
    out: Path = typer.Option(Path("demo-out"), "--out", help="Folder for everything that the demonstration writes."),
    task: Path = typer.Option(TASK, "--task", help="Task file to train."),
    plain: bool = typer.Option(False, "--plain", help="Plain lines instead of a live table."),
) -> None:
    """Watch a model being trained by machines that nobody trusts, two of which cheat and three of which are killed.

    Starts 4 validators and 6 workers as processes of their own on this machine, trains on real data, compares the
    result bit for bit with a single-machine run, and verifies the proof. Ends within about a minute.

    Exit status: 0 if everything promised held, else 1.

    Example: tallystick demo --plain
    """
    from tallystick.demo.run import run_demo
    from tallystick.demo.summary import first_failure, print_summary

    if not task.is_file():
        fail(f"{task}: no such task file; run this in the project's folder or name one with --task")
    summary = run_demo(task, out, plain=plain)
    console = Console(highlight=False)
    print_summary(summary, console if console.is_terminal else Console(highlight=False, width=WIDTH))
    failure = first_failure(summary)
    if failure is not None:
        fail(failure)
    typer.echo("\nEverything promised held.")

"""`tallystick verify`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tallystick.cli.output import errors, print_json

if TYPE_CHECKING:
    from tallystick.proof.verdict import Verdict


def verify(
    proof: Path = typer.Argument(help="Proof directory."),
    json: bool = typer.Option(False, "--json", help="Print the verdict as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on standard error."),
) -> None:
    """Check a proof by running the training again, on this machine, without any network.

    Exit status: 0 verified, 1 could not check, 2 mismatch.

    Example: tallystick verify demo-out/proof
    """
    from tallystick.network.running import one_torch_thread
    from tallystick.proof.verify import verify as verify_proof

    one_torch_thread()
    columns = (
        TextColumn("verifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=errors, disable=quiet or not errors.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(step: int, steps: int, loss: float) -> None:
            progress.update(bar, completed=step, total=steps, description=f"loss {loss:.4f}")

        verdict = verify_proof(proof, show)
    if json:
        print_json(verdict)
    else:
        _print(verdict)
    sys.exit(verdict.exit_code)


def _print(verdict: "Verdict") -> None:
    """The outcome on its own line, then what is known, digests in full."""
    typer.echo(verdict.outcome.replace("_", " "))
    typer.echo(f"  {verdict.reason} [{verdict.code}]")
    facts = {
        "first differing step": verdict.step,
        "tensor": verdict.tensor,
        "expected": verdict.expected,
        "found": verdict.found,
        "signed by": verdict.prover,
        "specification": verdict.spec,
        "steps run again": verdict.steps,
        "final state root": verdict.final_root,
        "test accuracy": verdict.test_accuracy,
    }
    for name, value in facts.items():
        if value is not None:
            typer.echo(f"  {name}: {value}")

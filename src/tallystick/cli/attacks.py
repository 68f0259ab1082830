"""`tallystick attacks`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from tallystick.cli.output import errors, require_folder

if TYPE_CHECKING:
    from tallystick.proof.attacks.run import Report

ACCEPTED_EXIT_CODE = 2


def attacks(
    json: Path | None = typer.Option(None, "--json", help="Write the rows and the measured rates as JSON."),
    only: int | None = typer.Option(None, "--only", min=1, max=28, help="Run one row of the catalogue."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on standard error."),
) -> None:
    """Run every known attack on proofs of training against three verifiers, on a small model, in about a minute.

    The verifiers: `tallystick verify`, which compares bit for bit; `tallystick check-record`, which compares within a
    tolerance; and the one that was published in 2021 with the idea.

    Exit status: 0 if `tallystick verify` accepted none, 2 otherwise.

    Example: tallystick attacks --only 1
    """
    import msgspec

    from tallystick.network.running import one_torch_thread
    from tallystick.proof.attacks.run import run_attacks

    require_folder("--json", json)
    one_torch_thread()
    report = run_attacks(only, lambda what: None if quiet else errors.print(what))
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    _print(report)
    sys.exit(ACCEPTED_EXIT_CODE if report.accepted else 0)


def _print(report: "Report") -> None:
    table = Table("", "attack", "exact", "tolerant", "2021", box=None, pad_edge=False)
    for result in report.results:
        answers = (
            (result.exact, result.exact_why),
            (result.tolerant, result.tolerant_why),
            (result.baseline2021, result.baseline2021_why),
        )
        if result.standing == "not stopped":
            cells = ["no check can stop it", "", ""]
        elif result.standing == "elsewhere":
            cells = [f"see {result.note}", "", ""]
        else:
            cells = [_cell(answer, why) for answer, why in answers]
        table.add_row(str(result.row), result.name, *cells)
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
    for measured in report.sampling:
        typer.echo(
            f"one bad segment among {measured.segments}, {measured.drawn} drawn besides the ends: met in "
            f"{measured.met} of {measured.trials} draws, {100 * measured.rate:.1f} % "
            f"(95 % interval {100 * measured.low:.1f} to {100 * measured.high:.1f}); "
            f"the verdict says {100 * measured.expected:.1f} %"
        )
    executed = [result for result in report.results if result.standing == "run"]
    typer.echo(f"accepted by the exact verifier: {len(report.accepted)} of {len(executed)} rows that can be run")
    for name in ("tolerant", "baseline2021"):
        asked = [result for result in executed if getattr(result, name) != "not asked"]
        accepted = [result for result in asked if getattr(result, name) == "accepted"]
        typer.echo(f"accepted by {name}: {len(accepted)} of {len(asked)}")


def _cell(answer: str, why: str) -> str:
    return {"accepted": "ACCEPTED", "caught": f"caught ({why})"}.get(answer, "-")

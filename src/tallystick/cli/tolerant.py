"""`tallystick calibrate` and `tallystick check-record`: the tolerant mode, for training outside exact arithmetic."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from tallystick.cli.output import errors, fail, print_json, require_folder

if TYPE_CHECKING:
    from tallystick.proof.tolerant.run import Setup
    from tallystick.proof.tolerant.tolerance import Tolerance
    from tallystick.proof.tolerant.verdict import Report

NONCE_BYTES = 32
TRAINING_HELP = "Your own Python file that defines `setup(seed)`. It is run: never take it from the record."


def calibrate(
    records: list[Path] = typer.Argument(help="Two or more records of your own that differ in the seed."),
    training: Path = typer.Option(help=TRAINING_HELP),
    out: Path = typer.Option(Path("tolerance.json"), help="Where the thresholds go."),
    fraction: float | None = typer.Option(None, min=0, help="Thresholds as a share of d_ref (see docs/tolerant.md)."),
    replays: int = typer.Option(10, min=1, help="Segments of each record to run again."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on standard error."),
) -> None:
    """Make the thresholds that `check-record` compares with, from independent runs of the same training.

    Example: tallystick calibrate run-1 run-2 run-3 --training digits.py
    """
    from tallystick.proof.tolerant.calibrate import calibrate as calibrated
    from tallystick.proof.tolerant.tolerance import encode_tolerance

    require_folder("--out", out)
    with _progress("calibrating", quiet) as (progress, bar):
        tolerance = calibrated(
            records,
            _setup_from(training),
            fraction=fraction,
            replays=replays,
            on_replay=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    try:
        out.write_bytes(encode_tolerance(tolerance))
    except OSError as error:
        fail(f"{out}: {error.strerror}")
    _print_tolerance(out, tolerance)


def check_record(
    record: Path = typer.Argument(help="Directory with a record."),
    training: Path = typer.Option(help=TRAINING_HELP),
    tolerance: Path = typer.Option(help="Thresholds that you made with `tallystick calibrate`."),
    nonce: str | None = typer.Option(None, help="Hex; draws the same samples as the check that printed it."),
    q: int = typer.Option(2, min=0, help="Largest updates per epoch and metric to run again."),
    samples: int = typer.Option(20, min=0, help="Segments to draw at random and run again."),
    html: Path | None = typer.Option(None, help="Write the report as a web page, too."),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on standard error."),
) -> None:
    """Check a record of training that did not run in exact arithmetic, by running parts of it again.

    Exit status: 3 consistent within tolerance, 1 could not check, 2 mismatch. Never 0: nothing is proven here.

    Example: tallystick check-record run-1 --training digits.py --tolerance tolerance.json
    """
    from tallystick.proof.tolerant.html import page
    from tallystick.proof.tolerant.tolerance import decode_tolerance
    from tallystick.proof.tolerant.verify import Policy, check_record

    try:
        limits = decode_tolerance(tolerance.read_bytes())
        drawn = os.urandom(NONCE_BYTES) if nonce is None else bytes.fromhex(nonce)
    except OSError as error:
        fail(f"{tolerance}: {error.strerror}; make it with `tallystick calibrate`")
    except ValueError:
        fail(f"--nonce: {nonce!r} is not hexadecimal")
    setup = _setup_from(training)
    with _progress("running again", quiet) as (progress, bar):
        report = check_record(
            record,
            setup,
            Policy(limits, drawn, q, samples),
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if html is not None:
        try:
            html.write_text(page(report), encoding="utf-8")
        except OSError as error:
            fail(f"{html}: {error.strerror}")
    if json:
        print_json({"report": report})
    else:
        _print_report(report)
    sys.exit(report.exit_code)


def _setup_from(path: Path) -> "Setup":
    """`setup` from the verifier's own file, which may import its neighbors, as when it is run as a script."""
    from tallystick.proof.tolerant.run import SETUP_NAME

    spec = importlib.util.spec_from_file_location("tallystick_training_file", path)
    if spec is None or spec.loader is None or not path.is_file():
        fail(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    setup: Setup | None = getattr(module, SETUP_NAME, None)
    if not callable(setup):
        fail(f"{path}: defines no `{SETUP_NAME}(seed)`; see docs/tolerant.md")
    return setup


@contextmanager
def _progress(what: str, quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=errors, disable=quiet or not errors.is_terminal, transient=True) as progress:
        yield progress, progress.add_task("", total=None)


def _print_tolerance(out: Path, tolerance: "Tolerance") -> None:
    share = tolerance.error.l2 / tolerance.weights.l2
    typer.echo(f"{out}: thresholds at {tolerance.fraction:.3g} of d_ref")
    typer.echo(f"  d_ref of {tolerance.models} models, l2: {tolerance.reference.l2:.4g}")
    typer.echo(f"  threshold for weights, l2: {tolerance.weights.l2:.4g}")
    typer.echo(f"  largest reproduction error in {tolerance.replays} replays, l2: {tolerance.error.l2:.3g} "
               f"({share:.2g} of the threshold)")  # fmt: skip
    typer.echo(f"  smallest movement of a segment, l2: {tolerance.movement:.4g}")


def _print_report(report: "Report") -> None:
    typer.echo(report.outcome.replace("_", " "))
    typer.echo(f"  {report.reason} [{report.code}]")
    if report.record is None:
        return
    typer.echo(f"  record: {report.record}")
    typer.echo(f"  signed by: {report.signed_by or 'nobody'}")
    typer.echo(f"  steps: {report.steps} in {report.segments} segments, of which {len(report.checked)} were run again")
    typer.echo(f"  nonce: {report.nonce}")
    for bad, chance in report.detection.items():
        typer.echo(f"  chance that the {report.samples} uniform samples find it if this is bad: {bad}: {chance:.1%}")
    if report.checked:
        typer.echo(f"  largest distance of weights, l2: {max(c.weights.l2 for c in report.checked):.3g}")
        typer.echo(f"  largest difference of a loss: {max(c.loss_error for c in report.checked):.3g}")
    typer.echo("  known attacks that this does not rule out:")
    for attack in report.attacks:
        typer.echo(f"    {attack.standing:8}  {attack.name}: {attack.why}")

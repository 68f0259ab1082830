"""`tallystick selftest`."""

import sys

import typer

from tallystick.cli.output import print_json, say


def selftest(
    json: bool = typer.Option(False, "--json", help="Print every case as JSON."),
) -> None:
    """Check that this machine's arithmetic gives the bits that exact-v1 says. Workers and validators do so at start.

    Exit status: 0 if every case passed, else 1.

    Example: tallystick selftest
    """
    from tallystick.exact.native import IN_USE
    from tallystick.exact.selftest import run_selftest

    outcomes = list(run_selftest())
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if json:
        print_json([{"case": o.case, "passed": o.passed, "found": o.found, "expected": o.expected} for o in outcomes])
    else:
        for outcome in failed:
            say(f"{outcome.case}: found {outcome.found}, expected {outcome.expected}")
        typer.echo(f"{len(outcomes) - len(failed)} of {len(outcomes)} cases passed by {IN_USE}")
    sys.exit(1 if failed else 0)

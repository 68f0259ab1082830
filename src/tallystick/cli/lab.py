"""`tallystick lab`: experiments on the protocol code itself."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tallystick.cli.output import errors, fail, require_folder

if TYPE_CHECKING:
    from tallystick.lab.consensus.campaign import Seeds
    from tallystick.lab.consensus.run import Verdict

lab = typer.Typer(name="lab", help="Experiments on the protocol code itself.", no_args_is_help=True)


@lab.callback()
def options() -> None:
    pass


@lab.command()
def consensus(
    seeds: str = typer.Option("0..499", help="First and last seed."),
    jobs: int = typer.Option(1, min=1, help="Processes."),
    n: int = typer.Option(0, help="Validators in every run, 4 to 29; 0 lets each seed draw 4, 5, 7, 10 or 16."),
    ledger: bool = typer.Option(False, "--ledger", help="Replicate the real ledger, not the lab's small application."),
    json: Path | None = typer.Option(None, help="Where to write the result (docs/simulation.md tells its form)."),
    transcript: bool = typer.Option(False, "--transcript", help="Print what happened, for a single seed."),
    planted: str | None = typer.Option(None, help="Plant a known bug, or `all` one by one, and tell when it is found."),
) -> None:
    """Simulate whole clusters of validators under attack, one seed after another, and check what must hold.

    Exit status: 0 if every seed passed (with --planted: if every bug was found), else 1. Of the planted bugs three need
    plans of their own (docs/simulation.md) and are found by no seed here.

    Example: tallystick lab consensus --seeds 0..499 --jobs 2
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the other processes as Ctrl-C does
    chosen = _seeds(seeds)
    _require_size(n)
    require_folder("--json", json)
    if planted is not None:
        small = "the bugs are looked for with the lab's small application"
        _refuse("--planted", small, {"--ledger": ledger})
        sizes = "each bug is looked for in one process, and every seed draws its size"
        _refuse("--planted", sizes, {"--n": n, "--jobs": jobs != 1, "--transcript": transcript})
    if transcript:
        if chosen.first != chosen.last:
            fail("--transcript: tells the story of a single seed; name it, as in --seeds 7..7")
        _refuse("--transcript", "one process tells a story, on standard output", {"--json": json, "--jobs": jobs != 1})
    if planted is not None:
        sys.exit(0 if _find(planted, chosen, json) else 1)
    if transcript:
        sys.exit(0 if _tell(chosen, n or None, ledger) else 1)
    sys.exit(0 if _run(chosen, jobs, n or None, ledger, json) else 1)


def _seeds(text: str) -> "Seeds":
    from tallystick.lab.consensus.campaign import Seeds

    first, dots, last = text.partition("..")
    try:
        return Seeds(int(first), int(last if dots else first))
    except ValueError:
        fail(f"--seeds {text}: give a first and a last seed, as in 0..499")


def _refuse(option: str, why: str, others: dict[str, object]) -> None:
    """Ends the command if one of the others, which `option` has no use for, was given."""
    for other, given in others.items():
        if given:
            fail(f"{option}: {why}; leave out {other}")


def _require_size(n: int) -> None:
    from tallystick.lab.consensus.plan import LARGEST, SMALLEST

    if n and not SMALLEST <= n <= LARGEST:
        fail(f"--n {n}: clusters have {SMALLEST} to {LARGEST} validators; 0 lets each seed draw its size")


def _tell(seeds: "Seeds", n: int | None, ledger: bool) -> bool:
    from tallystick.lab.consensus.campaign import run_seed

    verdict = run_seed(seeds.first, n, ledger=ledger, story=True)
    for line in verdict.story:
        typer.echo(line)
    typer.echo(_verdict_line(verdict))
    return verdict.passed


def _run(seeds: "Seeds", jobs: int, n: int | None, ledger: bool, json: Path | None) -> bool:
    from tallystick.lab.consensus.campaign import campaign

    count = seeds.last - seeds.first + 1
    done = 0

    def told(verdict: "Verdict") -> None:
        nonlocal done
        done += 1
        if not verdict.passed:
            typer.echo(_verdict_line(verdict))
        if done % 100 == 0 or done == count:
            errors.print(f"{done} of {count} seeds")

    result = campaign(seeds, jobs=jobs, n=n, ledger=ledger, told=told)
    report = result.report()
    _write(json, report)
    for size, figures in report["by_n"].items():
        errors.print(
            f"n = {size}: {figures['seeds']:.0f} seeds, {1000 * figures['seconds'] / figures['seeds']:.0f} ms each"
        )
    typer.echo(f"{count - len(result.failed)} of {count} seeds passed in {result.seconds:.0f} s")
    return result.passed


def _find(name: str, seeds: "Seeds", json: Path | None) -> bool:
    from tallystick.lab.consensus.planted import BUGS
    from tallystick.lab.consensus.search import find

    names = sorted(BUGS) if name == "all" else [name]
    if unknown := [each for each in names if each not in BUGS]:
        fail(f"--planted {unknown[0]}: no such bug; there are {', '.join(sorted(BUGS))}")
    found = []
    for each in names:
        detection = find(each, seeds)
        found.append(detection)
        typer.echo(detection.line())
    _write(json, [detection.report() for detection in found])
    return all(detection.found for detection in found)


def _write(path: Path | None, value: object) -> None:
    from tallystick.canon.encoding import to_json

    if path is not None:
        path.write_bytes(to_json(value) + b"\n")


def _verdict_line(verdict: "Verdict") -> str:
    from tallystick.lab.consensus.campaign import again

    if verdict.passed:
        return f"seed {verdict.seed} (n = {verdict.n}) passed: {verdict.blocks} blocks, trace {verdict.trace}"
    return f"seed {verdict.seed} (n = {verdict.n}) FAILED: {verdict.failure}\n  again: {again(verdict)}"

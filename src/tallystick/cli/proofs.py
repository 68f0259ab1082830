"""`tallystick verify`."""

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tallystick.cli.output import errors, fail, print_json, require_folder
from tallystick.errors import Refused

if TYPE_CHECKING:
    from tallystick.proof.policy import Policy
    from tallystick.proof.verdict import Verdict

NONCE_BYTES = 32
CACHE = Path.home() / ".cache" / "tallystick" / "verdicts"
"""Where verdicts on parents are remembered."""


def verify(
    proof: Path = typer.Argument(help="Proof directory."),
    full: bool = typer.Option(False, "--full", help="Re-execute every segment."),
    sample: int | None = typer.Option(
        None, "--sample", min=0, help="Re-execute first, last and so many segments drawn at random."
    ),
    segments: str | None = typer.Option(None, "--segments", help="Re-execute exactly these, such as 0,17,99."),
    nonce: str | None = typer.Option(
        None,
        "--nonce",
        help="What the sample is drawn from: 64 hex digits or any text, such as the value of a public beacon after "
        "the proof was signed. Fresh random bytes by default.",
    ),
    data: Path | None = typer.Option(None, "--data", help="File with the training records, if not in the proof."),
    checkpoints: Path | None = typer.Option(None, "--checkpoints", help="Folder with the states between segments."),
    parent: list[Path] = typer.Option([], "--parent", help="Proof that the training started from; repeat for more."),
    alone: bool = typer.Option(False, "--alone", help="Leave out the proofs that the training started from."),
    jobs: int = typer.Option(1, "--jobs", "-j", min=1, max=1024, help="Processes; each takes whole segments."),
    ray: bool = typer.Option(False, "--ray", help="Re-execute on a Ray cluster; needs the extra `ray`."),
    max_steps: int | None = typer.Option(None, min=1, help="Refuse if more steps would have to be re-executed."),
    spec: str | None = typer.Option(
        None, "--spec", help="Take no proof but of the training with this SHA-256 of spec.json."
    ),
    html: Path | None = typer.Option(None, "--html", help="Write a report: one file that any browser opens."),
    json: bool = typer.Option(False, "--json", help="Print the verdict as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on standard error."),
) -> None:
    """Check a proof by running the training, or a sample of it, again on this machine, without any network.

    By default a long proof is sampled, so that up to 2.7 % of its steps are run again (more where that is less than
    three segments), and a short one (up to 200 steps) is re-executed in full. The verdict says how much that was and
    how likely it was to find a fault. A proof that started from another one's model is verified together with that
    one.

    Exit status: 0 verified, 1 could not check, 2 mismatch.

    Example: tallystick verify demo-out/proof
    """
    from tallystick.canon.hashing import is_name
    from tallystick.network.running import one_torch_thread
    from tallystick.proof.directory import Places
    from tallystick.proof.lineage import Remembered, verify_lineage
    from tallystick.proof.report import write_report
    from tallystick.proof.tolerant.record import MANIFEST as RECORD
    from tallystick.proof.verify import How
    from tallystick.proof.verify import verify as verify_proof

    if (proof / RECORD).is_file():
        fail(f"{proof}: is a record of the tolerant mode, and never verified; use `tallystick check-record`")
    if spec is not None and not is_name(spec):
        fail(f"--spec {spec}: is not a SHA-256, 64 lower-case hex digits")
    require_folder("--html", html)
    one_torch_thread()
    how = How(_policy(full, sample, segments, nonce), jobs, ray, max_steps, spec)
    places = Places(proof, data, checkpoints)
    columns = (
        TextColumn("verifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=errors, disable=quiet or not errors.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show(step: int, steps: int, loss: float | None) -> None:
            description = "" if loss is None else f"loss {loss:.4f}"
            progress.update(bar, completed=step, total=steps, description=description)

        def check(places: Places) -> "Verdict":
            return verify_proof(places, how, show)

        if alone:
            verdict = check(places)
        else:
            ancestors = [Places(path, data, checkpoints) for path in parent]
            policy = type(how.policy).__name__.lower()
            verdict = verify_lineage(places, ancestors, policy, check, Remembered(CACHE))
    if json:
        print_json(verdict)
    else:
        _print(verdict)
    if html is not None:
        write_report(html, places, verdict)
    sys.exit(verdict.exit_code)


def _policy(full: bool, sample: int | None, segments: str | None, nonce: str | None) -> "Policy":
    from tallystick.proof.policy import FULL, Listed, Sample

    if full + (sample is not None) + (segments is not None) > 1:
        fail("--full, --sample and --segments exclude each other; name one")
    if (full or segments is not None) and nonce is not None:
        fail("--nonce belongs to a sample; leave it out, or use --sample")
    if full:
        return FULL
    if segments is not None:
        try:
            return Listed(tuple(int(number) for number in segments.split(",")))
        except ValueError:
            raise Refused("no_such_segment", f"--segments: {segments!r} is not a list such as 0,17,99") from None
    return Sample(_nonce(nonce), sample)


def _nonce(given: str | None) -> bytes:
    """Hexadecimal as it is printed, or any other text."""
    if given is None:
        return secrets.token_bytes(NONCE_BYTES)
    try:
        return bytes.fromhex(given)
    except ValueError:
        return given.encode()


def _print(verdict: "Verdict") -> None:
    """The outcome on its own line, then what is known, digests in full."""
    typer.echo(verdict.outcome.replace("_", " "))
    typer.echo(f"  {verdict.reason} [{verdict.code}]")
    facts = {
        "first differing segment": verdict.segment,
        "first differing step": verdict.step,
        "tensor": verdict.tensor,
        "expected": verdict.expected,
        "found": verdict.found,
        "signed by": verdict.prover,
        "attempt": verdict.attempt,
        "specification": verdict.spec,
        "steps run again": f"{verdict.steps} of {verdict.total_steps}" if verdict.total_steps else None,
        "segments run again": f"{_listed(verdict.checked)} of {verdict.segments}" if verdict.checked else None,
        "drawn from nonce": verdict.nonce,
        "final state root": verdict.final_root,
        "model": verdict.model,
        "test accuracy": verdict.test_accuracy,
    }
    for name, value in facts.items():
        if value is not None:
            typer.echo(f"  {name}: {value}")
    for generation, ancestor in enumerate(verdict.parents, start=1):
        outcome = ancestor.outcome.replace("_", " ")
        named = f"{ancestor.proof}: " if ancestor.proof else ""
        typer.echo(f"  ancestor {generation}: {named}{outcome}, {ancestor.reason}")
    for chance in verdict.detection:
        share = f"{chance.bad} bad segment{'s' if chance.bad > 1 else ''}"
        typer.echo(f"  chance to have met one of {share}: {100 * chance.probability:.1f} %")


def _listed(checked: list[int], most: int = 20) -> str:
    shown = ", ".join(map(str, checked[:most]))
    return f"{len(checked)} ({shown}{', ...' if len(checked) > most else ''})"

"""`tallystick train` and `tallystick pack`: a proof made on one machine, and the part of it that is published."""

import signal
import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tallystick.cli.output import errors, fail, print_json, say

if TYPE_CHECKING:
    from tallystick.canon.identity import Key
    from tallystick.proof.recorder import Recorder

EXIT_STOPPED: Final = 130
"""As a shell says of a program that Ctrl-C ended."""
EXIT_DIVERGED: Final = 2
CURVE: Final = "▁▂▃▄▅▆▇█"
CURVE_WIDTH: Final = 60


def train(
    task: Path = typer.Argument(help="Task file, such as examples/digits/task.toml; it needs no \\[reward]."),
    out: Path = typer.Option(Path("proof"), "--out", help="Where the proof goes; an unfinished one is resumed."),
    key: Path | None = typer.Option(None, "--key", help="Your key file; by default a new one beside --out."),
    attempt: int | None = typer.Option(None, min=1, help="How often you have begun this training; it is signed."),
    parent: Path | None = typer.Option(
        None, "--parent", help="Proof whose final model this training starts from, by the names of its tensors."
    ),
    segment: int | None = typer.Option(None, min=1, help="Steps of a segment; by default 3/4 of the root of all."),
    roots_every: int | None = typer.Option(
        None, min=1, help="Name the state in every so many steps; by default once in a segment."
    ),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on standard error."),
) -> None:
    """Train on this machine and prove it. Run the same command again to resume after a stop or a crash.

    Exit status: 0 done, 1 could not train, 2 training has diverged, 130 stopped by Ctrl-C.

    Example: tallystick train examples/digits/task.toml --out digits-proof
    """
    from tallystick.canon.hashing import blob_name
    from tallystick.network.running import one_torch_thread, require_exact_arithmetic
    from tallystick.network.task_file import load_task_file, prepare_run
    from tallystick.program.spec import encode_spec
    from tallystick.proof.commitment import commitment_of
    from tallystick.proof.directory import Places, open_proof
    from tallystick.proof.lineage import final_model, parent_of
    from tallystick.proof.recorder import DivergedError, Recorder
    from tallystick.proof.resume import begun

    one_torch_thread()
    require_exact_arithmetic()
    ancestor = open_proof(Places(parent)) if parent else None
    run = prepare_run(task, load_task_file(task), start=final_model(ancestor) if ancestor else None)
    secret, before = _key(key, out), begun(out)
    same_segment = before is not None and segment in {None, before.segment}
    commitment = commitment_of(
        run.training.spec,
        blob_name(encode_spec(run.training.spec)),
        run.training.program,
        segment=before.segment if before and segment is None else segment,
        roots_every=before.roots_every if before and same_segment and roots_every is None else roots_every,
        parent=parent_of(ancestor) if ancestor else None,
        attempt=before.attempt if before and attempt is None else attempt or 1,
    )
    with Recorder(out, secret, run, commitment) as recorder:
        if recorder.step and not recorder.finished:
            say(f"{out}: resumed at step {recorder.step} of {commitment.steps}")
        try:
            losses = _train(recorder, quiet)
        except DivergedError as error:
            fail(str(error), EXIT_DIVERGED)
        _report(recorder, losses, json)
        if not recorder.finished:
            lost = recorder.step - recorder.durable
            errors.print(
                f"stopped after step {recorder.step}; {recorder.durable} steps are saved, {lost} will be done again. "
                "Run the same command to resume.",
                soft_wrap=True,
            )
            sys.exit(EXIT_STOPPED)


def pack(
    proof: Path = typer.Argument(help="Proof directory, finished."),
    out: Path = typer.Argument(help="Where the published part goes; must not exist or be empty."),
    without_data: bool = typer.Option(False, "--without-data", help="Leave the records out; the proof names them."),
) -> None:
    """Copy the part of a proof that is published: everything but the checkpoints, which an auditor asks for by name.

    Example: tallystick pack digits-proof digits-core --without-data
    """
    from tallystick.proof.packing import pack as pack_proof

    size, archive = pack_proof(proof, out, without_data=without_data)
    say(f"{out}: {size} bytes; {archive} bytes of checkpoints stay in {proof}")


def _key(path: Path | None, out: Path) -> "Key":
    """The named key; without a name, one beside the proof, made when there is none."""
    from tallystick.canon.identity import Key, load_key, save_key

    if path is not None:
        return load_key(path)
    beside = out.absolute().with_name(f"{out.name}.key")
    if not beside.exists():
        if out.exists() and any(out.iterdir()):
            fail(f"{out}: is there already, and its key {beside} is not; name your key with --key, or another --out")
        beside.parent.mkdir(parents=True, exist_ok=True)
        save_key(Key.generate(), beside)
        say(f"signing with a new key, {beside}; use your own with --key")
    return load_key(beside)


def _train(recorder: "Recorder", quiet: bool) -> list[float]:
    """Trains, shows how it goes, and returns the losses of this session. Ctrl-C stops after the step."""
    from tallystick.proof.recorder import train as train_recorded

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}{task.description}"),
    )
    losses: list[float] = []
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            raise KeyboardInterrupt
        stopping = True

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Progress(*columns, console=errors, disable=quiet or not errors.is_terminal, transient=True) as progress:
            steps = recorder.commitment.steps
            bar = progress.add_task("", total=steps, completed=recorder.step, speed="")

            def show(step: int, steps: int, loss: float) -> None:
                losses.append(loss)
                speed = progress.tasks[0].speed
                each = f"{speed:.1f} steps/s, " if speed else ""
                progress.update(bar, completed=step, description=f"loss {loss:.4f}", speed=each)

            train_recorded(recorder, show, lambda: stopping)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return losses


def _report(recorder: "Recorder", losses: list[float], json: bool) -> None:
    from tallystick.proof.roots import state_root

    root = state_root(recorder.state, recorder.step)
    if json:
        result = {
            "proof": str(recorder.path),
            "finished": recorder.finished,
            "step": recorder.step,
            "steps": recorder.commitment.steps,
            "durable": recorder.durable,
            "root": root,
            "loss": losses[-1] if losses else None,
        }
        print_json(result)
        return
    if losses:
        typer.echo(f"loss       {losses[0]:.4f} {curve(losses)} {losses[-1]:.4f}")
    typer.echo(f"state root {root}")
    if recorder.finished:
        typer.echo(f"proof      {recorder.path}; check it with `tallystick verify {recorder.path}`")


def curve(losses: list[float], width: int = CURVE_WIDTH) -> str:
    """Losses as a line of blocks: the mean of each stretch between the lowest and the highest of them.

    >>> curve([4.0, 3.0, 2.0, 1.0])
    '█▆▃▁'
    """
    places = min(width, len(losses))
    cuts = [len(losses) * place // places for place in range(places + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(CURVE[min(int((mean - low) / span * len(CURVE)), len(CURVE) - 1)] for mean in means)

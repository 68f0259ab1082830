"""`tallystick init`, `worker`, `submit` and `status`: a network, by hand; `validator` has a module of its own."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Column, Table

from tallystick.cli.output import JSON, fail, print_json, say
from tallystick.errors import Refused

if TYPE_CHECKING:
    from tallystick.network.views import TaskView

JOIN = typer.Option(..., "--join", help="URL of a validator; repeat it to name more, which are used when one fails.")
JOIN_ALL = typer.Option(..., "--join", help="URL of a validator; repeat it to name more, each of which is asked.")
BLOBS = typer.Option(..., "--blobs", help="Where the network keeps its blobs: any fsspec URL, or a folder.")
KEY = typer.Option(..., "--key", help="Your key file; make one with `tallystick keygen`.")
STOP_ON_EOF = typer.Option(
    False, "--stop-on-eof", help="Stop when standard input closes, for whoever starts processes."
)


def init(
    folder: Path = typer.Argument(help="New folder."),
    validators: int = typer.Option(4, min=1, max=31, help="How many validators; 3f+1 of them bear f faulty ones."),
    workers: int = typer.Option(3, min=0, max=1000, help="How many funded workers."),
    port: int = typer.Option(26650, min=1024, max=65000, help="First of two consecutive ports for each validator."),
    interval: int = typer.Option(32, min=1, max=64, help="Blocks from one checkpoint to the next."),
    epoch_length: int = typer.Option(
        256, min=1, max=2**20, help="Blocks after which the next is primary; whole intervals."
    ),
    window: int = typer.Option(
        8, min=1, max=64, help="Blocks that a primary works on at a time; at most one interval."
    ),
) -> None:
    """Make keys, genesis document and blob folder of a network on this machine.

    Interval, epoch length and window are agreed on for good; docs/validator.md says when to choose others.

    Example: tallystick init net && tallystick validator run net/validator-0 --blobs net/blobs
    """
    from tallystick.ledger.genesis import Agreement
    from tallystick.network.local import make_network

    made = make_network(
        folder,
        validators=validators,
        workers=workers,
        ports=range(port, port + 2 * validators),
        now_ms=time.time_ns() // 10**6,
        agreement=Agreement(interval, epoch_length, window),
    )
    for member in (*made.validators, *made.workers, made.client):
        typer.echo(f"{member.name:<14} {member.identity}  {member.url}".rstrip())


def worker(
    key: Path = KEY,
    join: list[str] = JOIN,
    blobs: str = BLOBS,
    stake_limit: int = typer.Option(10**9, min=0, help="Most that is put at stake for one task."),
    stop_on_eof: bool = STOP_ON_EOF,
) -> None:
    """Earn by training: takes part in every open task whose stake you can afford. Dials out only.

    Example: tallystick worker --key net/worker-0/key --join http://127.0.0.1:26651 --blobs net/blobs
    """
    from tallystick.network import running

    running.start_logging()
    if stop_on_eof:
        running.stop_on_eof()
    running.run_worker(key, join, blobs, stake_limit=stake_limit)


def submit(
    task: Path = typer.Argument(help="Task file, such as examples/digits/task.toml."),
    key: Path = KEY,
    join: list[str] = JOIN,
    blobs: str = BLOBS,
    out: Path = typer.Option(Path("proof"), "--out", help="Where the proof goes; must not exist or be empty."),
    detach: bool = typer.Option(False, "--detach", help="Print the task's id and return at once; no proof is made."),
    json: bool = JSON,
) -> None:
    """Have a model trained by the network: offers the task, waits for it, writes a proof.

    Example: tallystick submit task.toml --key net/client/key --join http://127.0.0.1:26651 --blobs net/blobs
    """
    from tallystick.canon.identity import load_key
    from tallystick.network.blobs import BlobStore
    from tallystick.network.client import collect_proof, offer_task, wait_for_task
    from tallystick.network.dial import Validators
    from tallystick.network.running import one_torch_thread

    one_torch_thread()
    if not detach and out.exists() and (not out.is_dir() or any(out.iterdir())):
        fail(f"{out}: is there already; name another place with --out")
    secret, store = load_key(key), BlobStore(blobs)
    with Validators(join) as validators:
        name, _ = offer_task(task, secret, validators, store, say)
        if not json:
            typer.echo(name)
        if detach:
            if json:
                print_json({"task": name})
            return
        left = f"task {name[:12]} goes on without you, and its escrow stays, but no proof will be written"
        try:
            finished = wait_for_task(name, validators, lambda view: say(_progress_line(view)))
            left = f"task {name[:12]} is {finished.status}; its proof in {out} is unfinished"
            collect_proof(finished, secret, validators, store, out, lambda step, steps: None)
        except KeyboardInterrupt:
            see = f"see the task with `tallystick status --join {join[0]}`"
            say(f"{left}; {see}")
            raise
    if json:
        print_json({"task": name, "status": finished.status, "proof": str(out)})
    say(f"proof: {out}; check it with `tallystick verify {out}`")


def status(
    join: list[str] = JOIN_ALL,
    json: bool = JSON,
) -> None:
    """Show validators, tasks and money, as the named validators see them.

    Example: tallystick status --join http://127.0.0.1:26651
    """
    from tallystick.network.dial import UnreachableError, Validators

    seen = []
    for url in join:
        try:
            with Validators([url]) as one:
                seen.append((url, one.status()))
        except (UnreachableError, Refused) as error:
            say(f"{url}: {error}")
    if not seen:
        fail("none of the named validators answers")
    with Validators([url for url, _ in seen]) as validators:
        tasks, money = validators.tasks(), validators.money()
    if json:
        nodes = [{"url": url, "status": status} for url, status in seen]
        print_json({"validators": nodes, "tasks": tasks, "money": money, "conserved": money.conserved})
        return
    console = Console()
    url_column = Column("validator", overflow="fold")
    nodes_table = Table(url_column, "identity", "height", "peers", "pool", "refused messages", title=seen[0][1].chain)
    for url, node in seen:
        row = (node.height, node.peers, node.pool, sum(node.rejections.values()))
        nodes_table.add_row(url, node.identity[:12], *map(str, row))
    tasks_table = Table("task", "status", "step", "workers", "escrow")
    for task in tasks:
        tasks_table.add_row(
            task.id[:12], task.status, f"{task.step}/{task.steps}", str(len(task.workers)), str(task.escrow)
        )
    console.print(nodes_table, tasks_table)
    kept = f"in accounts {money.held}, in escrow {money.escrow}, burned {money.burned}"
    console.print(f"minted {money.minted}; {kept}: conserved {money.conserved}")


def _progress_line(view: "TaskView") -> str:
    return f"task {view.id[:12]}: {view.status}, step {view.step} of {view.steps}, {len(view.workers)} workers"

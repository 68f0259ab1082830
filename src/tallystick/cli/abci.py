"""`tallystick abci`: the same ledger with CometBFT as its engine."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tallystick.cli.output import errors

if TYPE_CHECKING:
    from tallystick.network.views import Status

abci = typer.Typer(help="Run the ledger under CometBFT (docs/cometbft.md).", no_args_is_help=True)

HOME = typer.Argument(help="Folder with `key` and `genesis.json`, as `tallystick init` makes it.")


@abci.command()
def init(
    home: Path = HOME,
    comet_home: Path = typer.Argument(help="New home of the CometBFT node; `cometbft init --home` fills in the rest."),
    follower: bool = typer.Option(False, "--follower", help="For a node that does not vote: no key is written."),
) -> None:
    """Write CometBFT's genesis document and this validator's key into its home. Nothing is overwritten.

    Example: tallystick abci init net/validator-0 comet-0 && cometbft init --home comet-0
    """
    from tallystick.canon.identity import load_key
    from tallystick.network.cometbft.files import write_home
    from tallystick.network.genesis import read_genesis
    from tallystick.network.validator import GENESIS, KEY

    key = None if follower else load_key(home / KEY)
    for path in write_home(comet_home, read_genesis(home / GENESIS), key):
        typer.echo(path)


@abci.command()
def genesis(home: Path = HOME) -> None:
    """Print CometBFT's genesis document for this network: the same bytes on every machine.

    Example: tallystick abci genesis net/validator-0 | sha256sum
    """
    from tallystick.ledger.genesis import chain_id
    from tallystick.network.cometbft.files import genesis_document
    from tallystick.network.genesis import read_genesis
    from tallystick.network.validator import GENESIS

    ours = read_genesis(home / GENESIS)
    document = genesis_document(chain_id(ours), ours.time_ms, [info.identity for info in ours.validators])
    typer.echo(document, nl=False)


@abci.command()
def run(
    home: Path = HOME,
    blobs: str = typer.Option(..., "--blobs", help="Where the network keeps its blobs: any fsspec URL, or a folder."),
    listen: str = typer.Option(
        "tcp://127.0.0.1:26658", "--listen", help="Where CometBFT finds us (`proxy_app`): unix:///path, or loopback."
    ),
    rpc: str = typer.Option("http://127.0.0.1:26657", "--rpc", help="URL of this CometBFT node's RPC."),
    http: str | None = typer.Option(None, "--http", help="URL for workers and clients, if not the genesis document's."),
    snapshot_interval: int = typer.Option(1000, min=1, help="Blocks from one snapshot for joining nodes to the next."),
    retain_blocks: int = typer.Option(0, min=0, help="CometBFT may delete blocks older than this many; 0 keeps all."),
    stop_on_eof: bool = typer.Option(False, "--stop-on-eof", help="Stop when standard input closes."),
) -> None:
    """Run a validator that a CometBFT 0.38 node drives. Start it before the node. Stops on SIGINT or SIGTERM.

    Example: tallystick abci run net/validator-0 --blobs net/blobs --listen unix:///run/tallystick/abci.sock
    """
    import uvloop

    from tallystick.network import running
    from tallystick.network.cometbft.process import Options, run_application

    running.start_logging()
    running.raise_descriptor_limit()
    running.one_torch_thread()
    running.require_exact_arithmetic()
    if stop_on_eof:
        running.stop_on_eof()

    def ready(status: "Status") -> None:
        errors.print(
            f"application {status.identity[:12]} of {status.chain}: height {status.height}, ready for CometBFT at "
            f"{listen}",
            soft_wrap=True,
        )

    options = Options(listen, rpc, blobs, http, snapshot_interval, retain_blocks)
    uvloop.run(run_application(home, options, ready))

"""`tallystick data list` and `tallystick data fetch`."""

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from tallystick.cli.output import JSON, fail, print_json, say

data = typer.Typer(no_args_is_help=True, help="Real data sets, in the form that a task trains on.")


@data.command("list")
def list_(
    json: bool = JSON,
) -> None:
    """List the data sets that can be fetched, and where each comes from.

    Example: tallystick data list
    """
    from tallystick.network.datasets.catalog import CATALOG, Package

    rows = []
    for name, entry in CATALOG.items():
        source = entry.source
        origin = f"{source.client} {source.name}" if isinstance(source, Package) else f"scikit-learn {source}"
        rows.append({"name": name, "what": entry.what, "source": origin, "terms": entry.terms, "sha256": entry.sha256})
    if json:
        print_json(rows)
        return
    table = Table("name", "what", "source", "terms")
    for row in rows:
        table.add_row(row["name"], row["what"], row["source"], row["terms"])
    Console().print(table)


@data.command()
def fetch(
    name: str = typer.Argument(help="Data set, as `tallystick data list` names it."),
    out: Path = typer.Option(Path("data"), "--out", help="Folder for NAME.safetensors."),
    json: bool = JSON,
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on standard error."),
) -> None:
    """Fetch a data set and write it as one safetensors file: train.x, train.y, test.x, test.y.

    Source files and result must have their pinned SHA-256, or nothing is written.

    Example: tallystick data fetch mnist --out data
    """
    from tallystick.network.datasets.fetch import fetch as fetch_set

    def report(line: str) -> None:
        if not quiet:
            say(line)

    try:
        fetched = fetch_set(name, out, report)
    except OSError as error:
        fail(f"{out}: {error.strerror}")
    if json:
        print_json(
            {
                "name": fetched.name,
                "path": str(fetched.path),
                "bytes": fetched.size,
                "sha256": fetched.sha256,
                "tensors": fetched.tensors,
            }
        )
        return
    typer.echo(f"{fetched.path}: {fetched.size} bytes, SHA-256 {fetched.sha256}")
    for spec in fetched.tensors:
        typer.echo(f"  {spec.name}  {spec.dtype}  {' x '.join(map(str, spec.shape))}")

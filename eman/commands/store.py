"""Commands for the MLflow store itself: migrate, export."""

from pathlib import Path
from typing import Annotated

import typer

from eman.context import workspace

app = typer.Typer(name="store", no_args_is_help=True, help="Copy the MLflow store, or write it as Parquet.")


@app.command()
def migrate(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A work folder, a SQLite file or a server's address.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Likewise; a folder or file is created if need be.")],
) -> None:
    """Copy sweeps, trainings and evaluations to another store. Run again, it copies only what is missing.

    It copies what MLflow holds: parameters, all metrics with steps and times, tags, states, artifacts (tables,
    figures). It does not copy checkpoints and features, which lie in the work folder. Tables need none of those, but to
    evaluate a run further, or to start one from it, keep that folder, or copy its `runs`. Runs that are running are
    skipped and listed.

    - `eman store migrate .eman http://HOST:5000`
    - `eman store migrate http://HOST:5000 copy/.eman`
    """
    from eman.platform.store.copy import migrate as copy

    for line in copy(source, target, print, workspace()).lines():
        print(line)


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder to write to; a new one.")],
) -> None:
    """Write the store as Parquet: runs, params, metrics (a row for each value of each step) and tags.

    - `eman store export --out results`
    - `eman --store http://HOST:5000 store export --out results`
    """
    from eman.platform.store.export import export as write
    from eman.platform.store.store import Store

    for name, rows in write(Store(workspace()), out).items():
        print(f"{out / name}.parquet: {rows:,} rows")

"""Commands for the store itself: migrate, export."""

from pathlib import Path
from typing import Annotated

import typer

from eman.context import workspace

app = typer.Typer(name="store", no_args_is_help=True, help="The MLflow store: copying it, writing it to Parquet.")


@app.command()
def migrate(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A work folder, a SQLite file or a server's address.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Likewise; a work folder or a file is made.")],
) -> None:
    """Copy sweeps, trainings and evaluations to another store. Run again, it copies only what is missing.

    Copied is what MLflow holds: parameters, all metrics with steps and times, tags, states, artifacts (tables,
    figures). Not copied are checkpoints and features, which lie in the work folder: tables need none, but to evaluate a
    run further, or to start one from it, keep that folder, or copy `runs` in it. A run that is running is left, and
    named.

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
    """Write what the store holds as Parquet: runs, params, metrics (a row for each value of each step) and tags.

    - `eman store export --out results`
    - `eman --store http://HOST:5000 store export --out results`
    """
    from eman.platform.store.copy import export as write
    from eman.platform.store.store import Store

    for name, rows in write(Store(workspace()), out).items():
        print(f"{out / name}.parquet: {rows:,} rows")

"""Commands for the MLflow store and the files that belong to it: migrate, gc."""

from typing import Annotated

import typer

from eman.commands.printing import show
from eman.context import open_store, workspace
from eman.parsing import check_number

app = typer.Typer(name="store", no_args_is_help=True, help="Copy the MLflow store; remove unused files.")


@app.command()
def migrate(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A work folder, a SQLite file or a server's address.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Likewise; created if needed.")],
) -> None:
    """Copy sweeps, trainings and evaluations to another store. A second run copies only what is missing.

    Copied are parameters, all metrics with steps and times, tags, states and artifacts (tables, figures), but not the
    checkpoints and features in the work folder. To evaluate a run further, or to start another from it, copy the
    folder `runs` too. Running runs are skipped and listed.

    - `eman store migrate .eman http://HOST:5000`
    - `eman store migrate http://HOST:5000 copy/.eman`
    """
    from eman.platform.store.copy import migrate as copy

    show(copy(source, target, print, workspace()).lines())


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    hours: Annotated[float, typer.Option(help="Keep files and runs that changed within this many hours.")] = 1.0,
) -> None:
    """List unused files in the work folder with their sizes, and remove them after confirmation.

    Unused are folders whose run is not in the store, checkpoints that finished runs no longer need to resume, and
    interrupted runs without files. Running runs and results are never removed. `eman runs prune` also removes
    failed and interrupted runs that have files.

    - `eman store gc`
    - `eman --home s3://bucket/eman --store http://HOST:5000 store gc --yes`
    """
    from eman.sweeps.garbage import find_garbage

    check_number("--hours", hours, 0, 1e6)
    store = open_store()
    garbage = find_garbage(store, hours)
    show(list(garbage.lines()))
    if garbage.empty:
        print("nothing to remove")
        return
    if not yes:
        typer.confirm("Delete these permanently?", abort=True)
    garbage.remove(store)
    print("removed")

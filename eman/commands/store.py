"""Commands for the MLflow store: migrate."""

from typing import Annotated

import typer

from eman.commands.printing import show
from eman.context import workspace

app = typer.Typer(name="store", no_args_is_help=True, help="Copy the MLflow store.")


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

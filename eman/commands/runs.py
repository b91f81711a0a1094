"""Commands for runs in the store: list, show, register, rm, prune."""

from typing import TYPE_CHECKING, Annotated

import typer

from eman.commands.printing import show
from eman.context import open_store
from eman.options import JsonOption, NetworkOption, NewestOption, RunArgument, SelectionOption, newest_trainings

if TYPE_CHECKING:
    from eman.platform.store.store import Store
    from eman.sweeps.runs import Removal

app = typer.Typer(name="runs", no_args_is_help=True, help="List, show, register and remove runs.")

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


@app.command("list")
def list_runs(newest: NewestOption = None, as_json: JsonOption = False) -> None:
    """List the newest trainings in the store: key, state, name, profile."""
    from eman.sweeps.view.status import run_lines, store_status

    status = store_status(open_store(), newest_trainings(newest))
    show(run_lines(status), status["runs"], as_json=as_json)


@app.command("show")
def show_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Key of a run, or its beginning.")],
    as_json: JsonOption = False,
) -> None:
    """Show a run's fields, metrics and evaluations.

    - `eman runs show 3f2a`
    """
    from eman.sweeps.view.status import describe_run, description_lines

    description = describe_run(run, open_store())
    show(description_lines(description), description, as_json=as_json)


@app.command("register")
def register_run(
    run: RunArgument,
    name: Annotated[str, typer.Option(help="Name of the model in MLflow's registry; created if needed.")],
    alias: Annotated[str | None, typer.Option(help="Alias of this version, for example champion.")] = None,
    network: NetworkOption = "student",
    selection: SelectionOption = "last",
) -> None:
    """Register a run's network in MLflow's model registry, with the metrics that were measured on it.

    - `eman runs register 3f2a --name shoes --alias champion`, then
      `mlflow models serve -m models:/shoes@champion --env-manager local`

    The model is the one of `eman export --format mlflow`. A network is stored once: registering it again adds a version
    of the same model.
    """
    from eman.sweeps.runs import find_finished_run

    store = open_store()
    record = find_finished_run(run, store)
    from eman.sweeps.registry import register

    print(register(record, store, name, alias, network=network, selection=selection))


@app.command("rm")
def remove_runs(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Keys of runs, or their beginnings.")],
    yes: YesOption = False,
) -> None:
    """Delete runs with their evaluations, checkpoints and features, after confirmation.

    - `eman runs rm 3f2a 77c0`
    """
    from eman.sweeps.runs import find_run, removal_of

    store = open_store()
    chosen = {record.key: record for record in (find_run(run, store) for run in runs)}
    _remove(removal_of(list(chosen.values()), store), store, yes=yes)


@app.command("prune")
def prune_runs(yes: YesOption = False) -> None:
    """Delete failed and interrupted runs, and folders of runs not in the store, after confirmation.

    - `eman runs prune --yes`
    """
    from eman.sweeps.runs import prunable

    store = open_store()
    _remove(prunable(store), store, yes=yes)


def _remove(removal: "Removal", store: "Store", *, yes: bool) -> None:
    if not removal.records and not removal.folders:
        print("nothing to remove")
        return
    show(removal.lines())
    if not yes:
        typer.confirm("Delete these permanently?", abort=True)
    removal.carry_out(store)
    print("removed")

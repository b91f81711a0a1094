"""Commands that show what the store holds: table, figure, status, report, predict, ui, doctor."""

import json
from pathlib import Path
from typing import Annotated

import typer

from eman.commands.printing import planned_tables, print_tables
from eman.context import workspace
from eman.options import (
    Format,
    Network,
    NetworkOption,
    PlanFormat,
    ProfileOption,
    SeedsOption,
    Selection,
    SelectionOption,
    SetOption,
)

app = typer.Typer()


@app.command()
def table(
    numbers: Annotated[list[str], typer.Argument(metavar="NUMBER...", help="Tables: 1 to 8.")],
    profile: ProfileOption = "quick",
    seeds: SeedsOption = 1,
    network: NetworkOption = Network.student,
    selection: SelectionOption = Selection.last,
    set_: SetOption = None,
    against: Annotated[
        str,
        typer.Option(metavar="paper|STORE", help="What stands beside each number: the paper's, or another store's."),
    ] = "paper",
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.text,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead.")] = None,
) -> None:
    """Print tables from what the store holds, each number beside the paper's or another store's.

    - `eman table 1 8 --profile quick`
    - `eman table 2 --seeds 3 --network teacher --format latex --out table2.tex`
    - `eman table 1 --against ../elsewhere/.eman`
    """
    from eman.platform.store.store import Store

    planned = planned_tables(numbers, profile, seeds, set_, network, selection)
    print_tables(planned, Store(workspace()), form, out, against)


@app.command()
def figure(
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="The figure: 3.")],
    out: Annotated[Path, typer.Option(help="File to write; its ending (.png, .svg, .pdf) names the format.")],
    profile: ProfileOption = "quick",
    seeds: SeedsOption = 1,
    set_: SetOption = None,
) -> None:
    """Draw Figure 3, accuracy along training, from what the store holds."""
    from eman.evaluation.results.figures import draw
    from eman.platform.errors import unknown
    from eman.platform.store.store import Store
    from eman.sweeps.tables.figure3 import caption, lines

    if number.removeprefix("figure") != "3":
        raise unknown("figure", number, ["3"])
    scope = planned_tables(["1"], profile, seeds, set_).scope
    draw(lines(scope), Store(workspace()), out, caption(scope))


@app.command()
def status(
    runs: Annotated[bool, typer.Option("--runs", help="List the trainings one by one, with their keys.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the sweep that is running, wherever it runs, until it ends.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="--watch: seconds between two looks at the store.")] = 5.0,
) -> None:
    """What the store holds: sweeps, and runs by state, profile and method.

    - `eman status --watch`, in another terminal than the sweep's, or on another machine that reaches the store
    """
    from eman.sweeps.view.status import run_lines, status_lines

    if watch:
        from eman.platform.store.store import Store
        from eman.sweeps.view.watch import watch as follow

        follow(Store(workspace()), every)
        return
    for line in run_lines(workspace()) if runs else status_lines(workspace()):
        print(line)


@app.command()
def report(
    sweep: Annotated[
        str | None,
        typer.Argument(
            help="A sweep's name, or the beginning of its key, as `eman status` shows them; default: the newest."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
) -> None:
    """Write a sweep as one page: tables beside the paper's, curves, configuration, provenance.

    - `eman report --out report.html`
    - `eman report "table1 + table8" --out report.html`
    """
    from eman.platform.store.store import Store
    from eman.sweeps.view.report import write
    from eman.sweeps.view.status import find_sweep

    store = Store(workspace())
    record = find_sweep(sweep, store)
    write(record, store, out)
    print(f"{out}: sweep {record.key[:8]} ({record.name})")


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="Key of a finished run, or its beginning.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, of any size.")],
    network: NetworkOption = Network.student,
    selection: SelectionOption = Selection.last,
    top: Annotated[int, typer.Option(min=1, help="Most classes, and neighbours, that are shown of each image.")] = 5,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote, of a self-supervised run.")] = 20,
    form: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.text,
) -> None:
    """Say what a run makes of images of your own.

    A run that ends in a classifier (FixMatch, supervised) gives probabilities. A self-supervised one shows the nearest
    training images, and how they vote.

    - `eman predict 3f2a shoe.png shirt.jpg --network teacher --top 3`
    """
    from eman.platform.store.records import TRAINING
    from eman.platform.store.store import Store
    from eman.sweeps.exchange.predict import predict as ask
    from eman.sweeps.run.foreground import find_run

    record = find_run(run, Store(workspace()).by_key(TRAINING))
    found = ask(record, workspace(), images, network=network.value, selection=selection.value, k=k)
    if form is PlanFormat.json:
        print(json.dumps(found.content(top), ensure_ascii=False))
        return
    for line in found.lines(top):
        print(line)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to listen at. Any but this machine's own needs --allowed-host.")
    ] = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Let others in who address the server by this name. Whoever reaches it can read, change and delete "
            "all runs: there is no login. May be repeated.",
        ),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open a browser, where this machine has a screen.")
    ] = True,
) -> None:
    """Open the MLflow UI on the schemes of the newest sweep, side by side (this machine only); Ctrl-C ends it.

    - `eman ui --port 5001`
    - `eman ui --host 0.0.0.0 --allowed-host lab.example.org`: for others, too
    """
    from eman.sweeps.view.ui import serve

    serve(workspace(), port, host, allowed_host or [], open_browser=open_)


@app.command()
def doctor() -> None:
    """Say whether everything is in place: versions, data, cores, GPUs, store."""
    from eman.sweeps.view.doctor import doctor_lines

    lines, well = doctor_lines(workspace())
    for line in lines:
        print(line)
    if not well:
        raise typer.Exit(1)

"""Commands that show what the store holds: table, figure, status, ui, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from eman.commands.printing import planned_tables, print_tables
from eman.options import (
    Format,
    Network,
    NetworkOption,
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
    from eman.platform.tracking import Store

    planned = planned_tables(numbers, profile, seeds, set_, network, selection)
    print_tables(planned, Store(), form, out, against)


@app.command()
def figure(
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="The figure: 3.")],
    out: Annotated[Path, typer.Option(help="File to write; its ending (.png, .svg, .pdf) names the format.")],
    profile: ProfileOption = "quick",
    seeds: SeedsOption = 1,
    set_: SetOption = None,
) -> None:
    """Draw Figure 3, accuracy along training, from what the store holds."""
    from eman.evaluation.figures import draw
    from eman.platform.errors import unknown
    from eman.platform.tracking import Store
    from eman.sweeps.figure3 import caption, lines

    if number.removeprefix("figure") != "3":
        raise unknown("figure", number, ["3"])
    scope = planned_tables(["1"], profile, seeds, set_).scope
    draw(lines(scope), Store(), out, caption(scope))


@app.command()
def status(
    runs: Annotated[bool, typer.Option("--runs", help="List the trainings one by one, with their keys.")] = False,
) -> None:
    """What the store holds: sweeps, and runs by state, profile and method."""
    from eman.sweeps.status import run_lines, status_lines

    for line in run_lines() if runs else status_lines():
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
    from eman.sweeps.ui import serve

    serve(port, host, allowed_host or [], open_browser=open_)


@app.command()
def doctor() -> None:
    """Say whether everything is in place: versions, data, cores, GPUs, store."""
    from eman.sweeps.status import doctor_lines

    lines, well = doctor_lines()
    for line in lines:
        print(line)
    if not well:
        raise typer.Exit(1)

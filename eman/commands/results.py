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
) -> None:
    """Open the MLflow UI on the store (this machine only); Ctrl-C ends it."""
    from eman.sweeps.status import serve_ui

    serve_ui(port)


@app.command()
def doctor() -> None:
    """Say whether everything is in place: versions, data, cores, GPUs, store."""
    from eman.sweeps.status import doctor_lines

    lines, well = doctor_lines()
    for line in lines:
        print(line)
    if not well:
        raise typer.Exit(1)

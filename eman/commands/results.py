"""Commands that show results: table, figure, status, report, ui, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from eman.commands.printing import PAPER, print_tables, show
from eman.context import open_store, workspace
from eman.groups import expand_groups
from eman.options import (
    Evaluated,
    Format,
    Grid,
    JsonOption,
    NewestOption,
    PriceOption,
    Scale,
    WattsOption,
    newest_trainings,
)
from eman.parsing import check_number
from eman.platform.errors import UserError, unknown
from eman.platform.output import check_output
from eman.requests import known_request, new_request

app = typer.Typer()


@app.command(rich_help_panel="Look")
@expand_groups
def table(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE... | grid | SWEEP",
            help="Tables (1 to 8, schemes), the name of a sweep in the store, or grid: the newest grid, or the one "
            "given by options.",
        ),
    ],
    scale: Scale,
    evaluated: Evaluated,
    against: Annotated[
        str, typer.Option(metavar="paper|STORE", help="Reference values: the paper's, or another store's.")
    ] = PAPER,
    form: Annotated[Format | None, typer.Option("--format", help="Output format. Default: text.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    as_json: JsonOption = False,
    *,
    grid: Grid,
) -> None:
    """Print tables from the store, with the paper's or another store's values for comparison.

    - `eman table 1 8 --profile quick`
    - `eman table 2 --seeds 3 --network teacher --format latex --out table2.tex`
    - `eman table rates`, where a sweep had `--name rates`
    - `eman table 1 --against ../elsewhere/.eman`
    """
    from eman.sweeps.plan import continued, plan

    if as_json and form is not None:
        raise UserError(f"--json and --format {form}: give one of the two.")
    store = open_store()
    planned = continued(plan(known_request(what, scale, evaluated, grid)), store)
    print_tables(planned, store, form, out, against, as_json=as_json)


@app.command(rich_help_panel="Look")
@expand_groups
def figure(
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="The figure: 3.")],
    out: Annotated[Path, typer.Option(help="File to write, as .png, .svg or .pdf.")],
    scale: Scale,
) -> None:
    """Draw Figure 3, accuracy during training, from the store.

    - `eman figure 3 --out figure3.png --profile quick`
    """
    from eman.evaluation.results.figures import draw
    from eman.sweeps.plan import plan
    from eman.sweeps.tables.figure3 import caption, lines

    if number.removeprefix("figure") != "3":
        raise unknown("figure", number, ["3"])
    check_output(out)
    scope = plan(new_request(["1"], scale, Evaluated(), Grid())).scope
    draw(lines(scope), open_store(), out, caption(scope))
    print(f"wrote {out}")


@app.command(rich_help_panel="Look")
def status(
    runs: Annotated[bool, typer.Option("--runs", help="List the trainings with their keys.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the running sweep, on any machine.")] = False,
    every: Annotated[float | None, typer.Option(help="With --watch: seconds between updates. Default: 5.")] = None,
    newest: NewestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the newest sweeps in the store, and its newest trainings by state, profile and method.

    - `eman status --runs`
    - `eman status --newest 0`, all of them
    - `eman status --watch`, in another terminal, or on another machine with access to the store
    """
    check_number("--every", every, 0.1, 3600)
    if every is not None and not watch:
        raise UserError("--every has no effect without --watch; leave it out.")
    if watch and (runs or as_json or newest is not None):
        other = "--runs" if runs else "--json" if as_json else "--newest"
        raise UserError(f"--watch and {other}: give one of the two.")
    if watch:
        from eman.sweeps.view.watch import watch as follow

        follow(open_store(), every or 5.0)
        return
    from eman.sweeps.view.status import run_lines, status_lines, store_status

    content = store_status(open_store(), newest_trainings(newest))
    lines = run_lines(content) if runs else status_lines(content)
    show(lines, {name: part for name, part in content.items() if runs or name != "runs"}, as_json=as_json)


@app.command(rich_help_panel="Look")
def report(
    sweep: Annotated[
        str | None,
        typer.Argument(
            help="A sweep's name, or the beginning of its key, as listed by `eman status`. Default: the newest."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
    price: PriceOption = None,
    watts: WattsOption = None,
) -> None:
    """Write a sweep as one page: tables with the paper's values, claims, curves, cost, configuration, provenance.

    - `eman report --out report.html`
    - `eman report --price-per-gpu-hour 2.5`
    - `eman report "table1 + table8" --out report.html`
    """
    from eman.sweeps.view.report import write
    from eman.sweeps.view.status import find_sweep

    check_number("--price-per-gpu-hour", price, 0, 1e6)
    check_number("--watts", watts, 0, 1e6)
    check_output(out)
    store = open_store()
    record = find_sweep(sweep, store)
    write(record, store, out, watts, price)
    print(f"wrote {out}: sweep {record.key[:8]} ({record.name})")


@app.command(rich_help_panel="Look")
def ui(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other than this machine's own, it requires --allowed-host.")
    ] = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Accept requests to this host name. There is no login: anyone who can reach the server can read, "
            "change and delete all runs. Repeatable.",
        ),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open a browser, if this machine has a display.")
    ] = True,
) -> None:
    """Open MLflow's UI on the schemes of the newest sweep, on this machine only. Ctrl-C stops it.

    - `eman ui --port 5001`
    - `eman ui --host 0.0.0.0 --allowed-host lab.example.org`, also for other machines
    """
    from eman.sweeps.view.ui import serve

    check_number("--port", port, 1, 65535)
    serve(workspace(), port, host, allowed_host or [], open_browser=open_)


@app.command(rich_help_panel="Look")
def doctor() -> None:
    """Check the installation: versions, data, cores, GPUs, store."""
    from eman.sweeps.view.doctor import doctor_lines

    lines, complete = doctor_lines(workspace())
    show(lines)
    if not complete:
        raise typer.Exit(1)

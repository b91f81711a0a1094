"""The command `sweep`, and parts shared with `submit`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from eman.commands.printing import print_tables, show
from eman.context import open_store, workspace
from eman.groups import expand_groups
from eman.options import Evaluated, Grid, Labels, Resources, Scale
from eman.platform.errors import UserError
from eman.requests import new_request

if TYPE_CHECKING:
    from eman.platform.store.store import Store
    from eman.sweeps.plan import Sweep
    from eman.sweeps.run.options import Options

app = typer.Typer()

WhatArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="TABLE... | claims | grid",
        help="Tables to fill (1 to 8, or table1 to table8; schemes), the cells of claims, or grid.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name of the sweep, for `table NAME`. Default: the names of its tables."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        help="Address of a running Ray cluster. Default: start Ray on this machine.",
        rich_help_panel="Resources",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and list what would run, without running it.")
]


@app.command(rich_help_panel="Run")
@expand_groups
def sweep(
    what: WhatArgument,
    scale: Scale,
    evaluated: Evaluated,
    name: NameOption = None,
    dry_run: DryRunOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")] = False,
    *,
    grid: Grid,
    labels: Labels,
    resources: Resources,
    address: AddressOption = None,
) -> None:
    """Run the trainings and evaluations behind tables or a grid, and print the tables.

    - `eman sweep 1 8 --profile quick`
    - `eman sweep grid --method moco --scheme bn,eman --grid lr=0.1,0.3 --seeds 3 --name rates`
    - `eman sweep grid --method byol --scheme eman --range lr=0.01:1:log --samples 12 --search random --scheduler asha`

    Results in the store are reused, so the same command continues an interrupted sweep.
    """
    from eman.sweeps.checks import check_files
    from eman.sweeps.plan import continued

    if as_json and not dry_run:
        raise UserError("--json needs --dry-run here; `eman table NAME --json` prints a sweep's results.")
    check_address(resources, address)
    planned = checked_plan(what, scale, evaluated, grid, resources, name)
    check_files(planned.checked, workspace(), planned.pairs)
    if dry_run:
        print_plan(planned, as_json=as_json)
        return
    store = launch(planned, launch_options(resources, labels, address))
    planned = continued(planned, store)
    print_tables(planned, store)
    if planned.request.searches:
        _print_search(planned, store)
    print("\nSee the runs in MLflow: `eman ui`. Write a report: `eman report`.", file=sys.stderr)


def check_address(resources: Resources, address: str | None) -> None:
    """Raise `UserError` for an address that names no cluster, or options that need one."""
    if resources.wait is not None and address is None:
        raise UserError("--wait has no effect without --address; leave it out.")
    if address is not None and not address.strip():
        raise UserError("--address is empty; give HOST:PORT, auto, or leave it out.")
    if address is not None and address.strip().startswith(("http://", "https://")):
        raise UserError(f"--address {address}: that is the job server; use `eman submit`, or give HOST:PORT or auto.")


def launch_options(resources: Resources, labels: Labels, address: str | None) -> "Options":
    """Return the options of a launch."""
    from eman.sweeps.run.options import Options

    return Options(
        workers=resources.parsed_workers,
        cpus=resources.cpus,
        gpus=resources.gpus,
        retries=1 if resources.retries is None else resources.retries,
        address=address,
        wait=resources.wait or 0.0,
        note=labels.note or "",
        tags=labels.tags,
    )


def checked_plan(
    what: list[str], scale: Scale, evaluated: Evaluated, grid: Grid, resources: Resources, name: str | None
) -> "Sweep":
    """Plan a sweep, with all checks that need neither the data nor a cluster."""
    from eman.sweeps.checks import check_search, check_workers
    from eman.sweeps.plan import plan

    if name == "":
        raise UserError("--name is empty; give a name, or leave it out.")
    planned = plan(new_request(what, scale, evaluated, grid, name=name or ""))
    check_search(planned.request.search)
    check_workers(resources.parsed_workers, planned.checked, scheduler=planned.request.scheduler)
    return planned


def print_plan(planned: "Sweep", *, as_json: bool = False) -> None:
    """Print what a sweep would run."""
    runs = planned.trainings
    content = {
        "name": planned.name,
        "profile": planned.profile.name,
        "cells": planned.cells,
        "runs": len(runs),
        "evaluations": len(planned.evaluations),
        "keys": sorted(runs),
    }
    request = planned.request
    asked = request.samples * len(request.methods) * len(request.schemes) * len(request.seeds)
    lines = ["{cells} cells, {runs} trainings, {evaluations} evaluations at profile {profile}".format(**content)]
    lines += [f"  {key}  {planned.titles[key]}  ({spec.optim.epochs} epochs)" for key, spec in runs.items()]
    lines += [f"Optuna chooses {asked} trainings while the sweep runs"] if request.search == "optuna" else []
    show(lines, content, as_json=as_json)


def _print_search(planned: "Sweep", store: "Store") -> None:
    from eman.evaluation.results.values import Results
    from eman.sweeps.search.outcome import outcomes

    print()
    for outcome in outcomes(planned, Results.read(store, planned.tables)):
        show(outcome.lines())


def launch(planned: "Sweep", options: "Options") -> "Store":
    """Run a sweep with its progress on the terminal, and return the store.

    Raises:
        UserError: It was interrupted, or it could not run.
    """
    from eman.sweeps.run.sweep import run_sweep
    from eman.sweeps.view.terminal import Terminal

    with Terminal() as terminal:
        terminal.say("opening the store")
        store = open_store()
        report = run_sweep(planned, store, options=options, listen=terminal.show)
    for line in report.lines():
        print(line, file=sys.stderr)
    if report.interrupted:
        raise UserError(f"interrupted: {report.trained} finished runs are kept; the same command continues.")
    return store

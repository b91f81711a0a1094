"""Commands that train and evaluate: sweep, train, evaluate; and plan, what it would cost."""

import json
import sys
from typing import Annotated, Any

import typer

from eman.commands.printing import planned_tables, print_tables
from eman.context import workspace
from eman.options import (
    GRID_PANEL,
    AddressOption,
    CpusOption,
    Format,
    GpusOption,
    Network,
    NetworkOption,
    PlanFormat,
    ProfileOption,
    RetriesOption,
    SeedsOption,
    Selection,
    SelectionOption,
    SetOption,
    WaitOption,
    WorkersOption,
    parse_list,
    parse_numbers,
    parse_workers,
)
from eman.platform.errors import UserError

app = typer.Typer()


@app.command()
def sweep(
    what: Annotated[
        list[str],
        typer.Argument(metavar="TABLE... | grid", help="Tables to fill (table1 to table8), or grid."),
    ],
    profile: ProfileOption = "quick",
    seeds: SeedsOption = 1,
    network: NetworkOption = Network.student,
    selection: SelectionOption = Selection.last,
    workers: WorkersOption = None,
    address: AddressOption = None,
    retries: RetriesOption = 1,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    wait: WaitOption = 0.0,
    set_: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
    form: Annotated[PlanFormat, typer.Option("--format", help="Format of --dry-run.")] = PlanFormat.text,
    method: Annotated[str | None, typer.Option(help="grid: methods, with commas.", rich_help_panel=GRID_PANEL)] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            help="grid: schemes, with commas; with several seeds all are compared with the first.",
            rich_help_panel=GRID_PANEL,
        ),
    ] = None,
    eman_momentum: Annotated[
        str | None, typer.Option(help="grid: EMAN momenta m of Eq. (9), with commas.", rich_help_panel=GRID_PANEL)
    ] = None,
    linear_lr: Annotated[
        str | None,
        typer.Option(help="grid: learning rates of the linear evaluation, with commas.", rich_help_panel=GRID_PANEL),
    ] = None,
) -> None:
    """Run every training and evaluation behind some tables, or a grid of your own, and print the tables.

    What the store already holds is not run again, so the same command continues an interrupted sweep.

    - `eman sweep table1 table8 --profile quick`
    - `eman sweep grid --method moco --scheme bn,eman --eman-momentum 0.9,0.999 --linear-lr 15,30,60`
    """
    from eman.sweeps.plan import plan
    from eman.sweeps.request import SweepRequest
    from eman.trainers.spec.fields import parse_fields

    overrides = parse_fields(set_ or [])
    momenta = parse_numbers("--eman-momentum", eman_momentum)
    if "grid" in what and what != ["grid"]:
        raise UserError(f"grid stands alone; it was given with {', '.join(w for w in what if w != 'grid')}.")
    planned = plan(
        SweepRequest(
            tables=() if what == ["grid"] else what,
            profile=profile,
            seeds=(overrides.pop("seed"),) if "seed" in overrides else seeds,
            methods=parse_list(method),
            schemes=parse_list(scheme),
            overrides=overrides,
            network=network.value,
            selection=selection.value,
            grid={"eman_momentum": momenta} if momenta else {},
            linear_lr=parse_numbers("--linear-lr", linear_lr),
        )
    )
    if dry_run:
        _print_plan(planned, form)
        return
    from eman.sweeps.run.options import Options

    _launch(
        planned,
        Options(workers=parse_workers(workers), cpus=cpus, gpus=gpus, retries=retries, address=address, wait=wait),
    )


def _print_plan(planned: Any, form: PlanFormat) -> None:
    summary = {
        "cells": planned.cells,
        "runs": len(planned.trainings),
        "evaluations": len(planned.evaluations),
        "profile": planned.profile.name,
    }
    if form is PlanFormat.json:
        print(json.dumps(summary | {"keys": sorted(planned.trainings)}))
        return
    print(
        f"{summary['cells']} cells, {summary['runs']} trainings, {summary['evaluations']} evaluations at profile "
        f"{planned.profile.name}"
    )
    for key, spec in planned.trainings.items():
        print(f"  {key}  {planned.titles[key]}  ({spec.optim.epochs} epochs)")


def _launch(planned: Any, options: Any) -> None:
    from eman.platform.store.store import Store
    from eman.sweeps.run.sweep import run_sweep
    from eman.sweeps.view.terminal import Terminal

    store = Store(workspace())
    with Terminal() as terminal:
        report = run_sweep(planned, store, options=options, listen=terminal.show)
    for line in report.lines():
        print(line, file=sys.stderr)
    if report.interrupted:
        raise UserError(f"interrupted: {report.trained} runs were finished and are kept; the same command continues.")
    print_tables(planned, store, Format.text, None)
    print(
        "\nThe runs in MLflow's UI: `eman ui`. Larger: `eman sweep ... --profile mini --seeds 3`. A grid of your own: "
        "`eman sweep grid --help`.",
        file=sys.stderr,
    )


@app.command()
def train(
    method: Annotated[str, typer.Argument(help="fixmatch, moco, byol or supervised.")],
    scheme: Annotated[str, typer.Option(help="A scheme, for example bn, syncbn, shufflebn, eman.")] = "default",
    profile: ProfileOption = "smoke",
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    init: Annotated[str | None, typer.Option(metavar="RUN", help="Start from this finished run's backbone.")] = None,
    workers: WorkersOption = None,
    set_: SetOption = None,
) -> None:
    """Train one run in the foreground, with progress; an interrupted run continues.

    - `eman train moco --scheme eman --profile smoke --set epochs=2`
    """
    from eman.platform.store.store import Store
    from eman.sweeps.profiles.registry import profile_named
    from eman.sweeps.run.foreground import starting_run, train_in_foreground
    from eman.trainers.spec.fields import parse_fields

    chosen = profile_named(profile)
    start = starting_run(init, Store(workspace())) if init is not None else None
    fields = {**(chosen.from_pretrained if start else {}), **parse_fields(set_ or [])}
    spec = chosen.run(method, scheme, seed, fields | ({"backbone": start.network.backbone} if start else {}))
    spec = spec.replace(init=start)
    for line in train_in_foreground(spec, Store(workspace()), profile=chosen.name, workers=parse_workers(workers) or 1):
        print(line)


@app.command()
def evaluate(
    run: Annotated[
        str, typer.Argument(help="Key of a finished run, or its beginning; `eman status --runs` lists them.")
    ],
    protocol: Annotated[str, typer.Option(help="linear, finetune, knn, retrieval or lowshot.")] = "knn",
    network: NetworkOption = Network.student,
    selection: SelectionOption = Selection.last,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Override a field of the evaluation, for example `--set k=5`."
        ),
    ] = None,
) -> None:
    """Evaluate one run in the foreground and print its numbers; the store keeps them.

    - `eman evaluate 3f2a --protocol linear --set lr=0.5 --set label_fraction=0.01 --set label_sets=5`
    - `eman evaluate 3f2a --protocol knn --set k=200 --set temperature=0.07 --network teacher`
    """
    from eman.evaluation.protocols.spec import parse_eval_fields
    from eman.platform.store.store import Store
    from eman.sweeps.run.foreground import evaluate_in_foreground

    fields = {"network": network.value, "selection": selection.value, **parse_eval_fields(protocol, set_ or [])}
    for line in evaluate_in_foreground(run, Store(workspace()), protocol, fields):
        print(line)


@app.command(name="plan")
def plan_(
    tables: Annotated[
        list[str], typer.Argument(metavar="TABLE...", help="Tables: table1 to table8, or their numbers.")
    ],
    profile: ProfileOption = "imagenet",
    seeds: SeedsOption = 1,
    set_: SetOption = None,
    throughput: Annotated[
        str | None,
        typer.Option(
            "--images-per-second",
            metavar="N | METHOD=N,...",
            help="Training speed of one GPU (or of one process); default: the median that the store has measured.",
        ),
    ] = None,
    form: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.text,
) -> None:
    """Say what a sweep would cost before anything runs: trainings, evaluations, epochs, images, storage, hours.

    - `eman plan table2 --profile imagenet --images-per-second moco=1340,byol=900,supervised=2500`
    """
    from eman.platform.store.store import Store
    from eman.sweeps.cost import cost_of, measured, parse_throughput

    planned = planned_tables(tables, profile, seeds, set_)
    speeds = parse_throughput(throughput) if throughput else measured(Store(workspace()), planned)
    cost = cost_of(planned, speeds)
    if form is PlanFormat.json:
        print(json.dumps(cost.summary()))
        return
    for line in cost.lines():
        print(line)

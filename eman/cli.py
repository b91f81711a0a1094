"""The command line. Errors are one line on standard error and exit code 2."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from eman import __version__
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
from eman.platform.home import replacing

app = typer.Typer(
    name="eman",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Compare normalization schemes in student-teacher training (FixMatch, MoCo, BYOL): sweeps on Ray, results in "
    "MLflow, the paper's tables filled from them.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets: what there is, and getting them.")
app.add_typer(data_app, name="data")


@app.callback()
def _common(
    home: Annotated[
        str | None,
        typer.Option(
            envvar="EMAN_HOME",
            help="Work folder: results, checkpoints, features. Default: .eman in the current folder.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(envvar="EMAN_DATA", help="Data folder, by path or URI. Default: ~/.cache/eman.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow store. Default: a SQLite file in the work folder."),
    ] = None,
) -> None:
    for name, value in (("EMAN_HOME", home), ("EMAN_DATA", data), ("MLFLOW_TRACKING_URI", store)):
        if value:
            os.environ[name] = value


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
    scheme: Annotated[str | None, typer.Option(help="grid: schemes, with commas.", rich_help_panel=GRID_PANEL)] = None,
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
    from eman.platform.spec import parse_fields
    from eman.sweeps.profiles import profile_named
    from eman.sweeps.sweep import plan, plan_grid

    chosen = profile_named(profile)
    overrides = parse_fields(set_ or [])
    grid_flags = {"--method": method, "--scheme": scheme, "--eman-momentum": eman_momentum, "--linear-lr": linear_lr}
    if "grid" in what:
        if what != ["grid"]:
            raise UserError(f"grid stands alone; it was given with {', '.join(w for w in what if w != 'grid')}.")
        if not method or not scheme:
            raise UserError("a grid needs --method and --scheme, for example --method moco --scheme bn,eman.")
        planned = plan_grid(
            chosen,
            parse_list(method),
            parse_list(scheme),
            overrides=overrides,
            seeds=seeds,
            network=network.value,
            selection=selection.value,
            eman_momenta=parse_numbers("--eman-momentum", eman_momentum),
            linear_lr=parse_numbers("--linear-lr", linear_lr),
        )
    else:
        given = [flag for flag, value in grid_flags.items() if value]
        if given:
            raise UserError(f"{', '.join(given)} belongs to `eman sweep grid`; tables say themselves what they need.")
        planned = plan(what, chosen, seeds, overrides, network=network.value, selection=selection.value)
    if dry_run:
        _print_plan(planned, form)
        return
    from eman.sweeps.launch import Options

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
        print(f"  {key}  {planned.titles[key]}  ({spec.epochs} epochs)")


def _launch(planned: Any, options: Any) -> None:
    from eman.platform.tracking import Store
    from eman.sweeps.launch import run_sweep
    from eman.sweeps.progress import Progress

    store, progress = Store(), Progress()
    try:
        report = run_sweep(planned, store, options=options, progress=progress)
    finally:
        progress.stop()
    for line in report.lines():
        print(line, file=sys.stderr)
    if report.interrupted:
        raise UserError(f"interrupted: {report.trained} runs were finished and are kept; the same command continues.")
    _print_tables(planned, store, Format.text, None)
    print(
        "\nThe runs in MLflow's UI: `eman ui`. Larger: `eman sweep ... --profile mini --seeds 3`. A grid of your own: "
        "`eman sweep grid --help`.",
        file=sys.stderr,
    )


def _print_tables(planned: Any, store: Any, form: Format, out: Path | None, other: str = "paper") -> None:
    from eman.evaluation import tables
    from eman.evaluation.tables import Results
    from eman.platform.tracking import existing_store

    results, shown = Results.read(store), planned.tables
    if other != "paper":
        theirs = Results.read(existing_store(other))
        shown = [tables.against(table, theirs, other) for table in shown]
    found = [(table, tables.values(table, results)) for table in shown]
    if form is Format.parquet:
        if out is None:
            raise UserError("--format parquet needs --out FILE.")
        tables.write_parquet(found, results, out)
        return
    text = tables.render(found, form.value)
    if out is None:
        print(text)
    else:
        with replacing(out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


JobServer = Annotated[str, typer.Option(help="The cluster's job server, for example http://HOST:8265.")]
JobId = Annotated[str, typer.Argument(help="A job's id, as `eman jobs` lists it.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    address: JobServer,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once instead of following the output.")] = False,
    python: Annotated[str | None, typer.Option(help="Python on the cluster; default: python.")] = None,
) -> int:
    """Run a sweep on a cluster through Ray Jobs, and follow it; ends with the sweep's exit code.

    Arguments and options are those of `eman sweep`; the project travels along. The same command continues an
    interrupted sweep.

    - `eman submit table1 table8 --profile mini --address http://HOST:8265`
    """
    from eman.sweeps import jobs

    app(args=["sweep", *context.args, "--dry-run"], standalone_mode=False)  # a typo is found here, not on the cluster
    connected = jobs.client(address)
    job = jobs.submit(connected, address, context.args, python)
    print(f"submitted {job}; `eman logs {job} --address {address}` follows it", file=sys.stderr)
    if detach:
        return 0
    for text in jobs.logs(connected, job):
        print(text, end="", flush=True)
    return jobs.exit_code(connected, job)


@app.command(name="jobs")
def jobs_(address: JobServer) -> None:
    """List the sweeps that were submitted to a cluster."""
    from eman.sweeps import jobs

    for line in jobs.listing(jobs.client(address)):
        print(line)


@app.command()
def logs(
    job: JobId,
    address: JobServer,
    follow: Annotated[bool, typer.Option(help="Go on until the job ends.")] = True,
) -> None:
    """Print the output of a submitted sweep."""
    from eman.sweeps import jobs

    for text in jobs.logs(jobs.client(address), job, follow=follow):
        print(text, end="", flush=True)


@app.command()
def stop(job: JobId, address: JobServer) -> None:
    """Stop a submitted sweep; what it has finished is kept."""
    from eman.sweeps import jobs

    jobs.stop(jobs.client(address), job)


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
    from eman.platform.spec import parse_fields
    from eman.platform.tracking import Store
    from eman.sweeps.foreground import start_of, train_in_foreground
    from eman.sweeps.profiles import profile_named

    chosen = profile_named(profile)
    start = start_of(init, Store()) if init is not None else None
    fields = {**(chosen.from_pretrained if start else {}), **parse_fields(set_ or [])}
    spec = chosen.run(method, scheme, seed, fields | ({"backbone": start.backbone} if start else {}))
    spec = spec.replace(init=start)
    for line in train_in_foreground(spec, Store(), profile=chosen, workers=parse_workers(workers) or 1):
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
    from eman.platform.spec import EvalSpec, parse_fields
    from eman.platform.tracking import Store
    from eman.sweeps.foreground import evaluate_in_foreground

    fields = {"network": network.value, "selection": selection.value, **parse_fields(set_ or [], EvalSpec)}
    for line in evaluate_in_foreground(run, Store(), protocol, fields):
        print(line)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A checkpoint: a PyTorch file of tensors.")],
    layout: Annotated[str, typer.Option("--as", help="moco, byol or fixmatch: the official code's; torchvision.")],
    scheme: Annotated[str, typer.Option(help="The scheme that it was trained with.")] = "default",
    dataset: Annotated[str, typer.Option(help="The data set that it was trained on.")] = "imagenet",
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not list the tensors.")] = False,
) -> None:
    """Take in a network from elsewhere: every evaluation takes it, and training may start from it.

    - `eman import moco_eman_r50_200ep.pth.tar --as moco --scheme eman`
    """
    from eman.platform.tracking import Store
    from eman.sweeps.exchange import take_in

    for line in take_in(file, layout, Store(), scheme=scheme, dataset=dataset):
        if not (quiet and line.startswith("  ")):
            print(line)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Key of a finished run, or its beginning.")],
    out: Annotated[Path, typer.Option(help="File to write; mlflow: a new folder.")],
    form: Annotated[str, typer.Option("--format", help="torchvision, safetensors or mlflow.")] = "torchvision",
    network: NetworkOption = Network.student,
    selection: SelectionOption = Selection.last,
) -> None:
    """Write a run's backbone for others, or its whole network as a model that MLflow serves.

    That model takes images (N, channels, height, width) as uint8, 0 to 255, and scales them itself; it gives class
    probabilities where the run ends in a classifier (FixMatch, supervised), else features.

    - `eman export 3f2a --format torchvision --out resnet50.pth`
    - `eman export 3f2a --format mlflow --out model`, then
      `mlflow models predict -m model -i model/serving_input_example.json --env-manager local`
    """
    from eman.platform.tracking import TRAINING, Store
    from eman.sweeps.exchange import give_out
    from eman.sweeps.foreground import found_run

    record = found_run(run, Store().by_key(TRAINING))
    print(give_out(record, form, out, network=network.value, selection=selection.value))


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

    planned = _planned(numbers, profile, seeds, set_, network, selection)
    _print_tables(planned, Store(), form, out, against)


def _planned(
    names: list[str],
    profile: str,
    seeds: int,
    overrides: list[str] | None,
    network: Network = Network.student,
    selection: Selection = Selection.last,
) -> Any:
    from eman.platform.spec import parse_fields
    from eman.sweeps.profiles import profile_named
    from eman.sweeps.sweep import plan

    tables = [name if name.startswith("table") else f"table{name}" for name in names]
    fields = parse_fields(overrides or [])
    return plan(tables, profile_named(profile), seeds, fields, network=network.value, selection=selection.value)


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
    from eman.platform.tracking import Store
    from eman.sweeps.cost import cost_of, measured, parse_throughput

    planned = _planned(tables, profile, seeds, set_)
    speeds = parse_throughput(throughput) if throughput else measured(Store(), planned)
    cost = cost_of(planned, speeds)
    if form is PlanFormat.json:
        print(json.dumps(cost.summary()))
        return
    for line in cost.lines():
        print(line)


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
    scope = _planned(["1"], profile, seeds, set_).scope
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


@data_app.command("list")
def data_list() -> None:
    """Data sets by name, and whether they are on this machine."""
    from eman.sweeps.status import data_lines

    for line in data_lines():
        print(line)


@data_app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(help="A data set's name.")]) -> None:
    """Get a data set, and check it."""
    from eman.trainers.data import load

    loaded = load(name)
    print(f"{loaded.name}: {loaded.describe()}, hash {loaded.hash}")


@data_app.command("shard")
def data_shard(
    name: Annotated[str, typer.Argument(help="The name by which runs will ask for it.")],
    source: Annotated[
        str | None,
        typer.Option(help="Folder of images, by path or URI; or the name of a set that is held in memory."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder to write to, by path or URI. Default: NAME in the data folder.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Images a shard. Default: about 256 MiB of them.")] = None,
) -> None:
    """Write a set as Parquet shards, from which training streams. Run again, it goes on where it stopped.

    - `eman data shard imagenet --source /data/imagenet --out s3://bucket/data/imagenet`
    - `EMAN_DATA=s3://bucket/data eman sweep table1 --profile imagenet` then reads them
    """
    from eman.trainers.sharding import info, shard

    shard(name, source, out, print, rows=rows)
    for line in info(out or name):
        print(line)


@data_app.command("verify")
def data_verify(
    where: Annotated[str, typer.Argument(help="Folder of shards, by path or URI, or a set's name.")],
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image, too.")] = False,
) -> None:
    """Read every shard, and compare counts and checksums with those written down."""
    from eman.trainers.sharding import place_of
    from eman.trainers.shards import verify

    for line in verify(place_of(where), decode=decode):
        print(line)
    print("all is well")


@data_app.command("info")
def data_info(where: Annotated[str, typer.Argument(help="Folder of shards, by path or URI, or a set's name.")]) -> None:
    """Say what shards hold."""
    from eman.trainers.sharding import info

    for line in info(where):
        print(line)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    try:
        code = app(args=list(sys.argv[1:] if arguments is None else arguments), standalone_mode=False)
    except UserError as error:
        print(f"eman: {error}", file=sys.stderr)
        return 2
    except TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if not message:  # no command: the help has been printed
            return 0
        print(f"eman: {' '.join(message.split())} (see `eman --help`)", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("eman: interrupted; what was finished is kept, and the same command continues.", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())

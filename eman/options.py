"""Options that several commands share."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Literal

import typer

from eman.parsing import Workers, check_number, parse_tags, parse_workers
from eman.platform.errors import UserError

#: Characters of a note; MLflow truncates a tag of 8,000, which also holds the tables.
MAX_NOTE = 2000

Format = Literal["text", "markdown", "latex", "csv", "parquet"]
EmaScaling = Literal["none", "batch", "run"]
Network = Literal["student", "teacher"]
Selection = Literal["last", "best"]

_grid_option = partial(typer.Option, rich_help_panel="Grid")
_search_option = partial(typer.Option, rich_help_panel="Search", show_default=False)
_resource_option = partial(typer.Option, rich_help_panel="Resources")
_NETWORK = typer.Option(
    help="Network to evaluate. Runs without a separate teacher use their student. Default: student.", show_default=False
)
_SELECTION = typer.Option(
    help="Epoch to evaluate: the last, or the best on held-out images (on test images where none are held out, as in "
    "the official code). Default: last.",
    show_default=False,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PriceOption = Annotated[
    float | None,
    typer.Option("--price-per-gpu-hour", help="Money for an hour of one GPU, or of one process without one."),
]
WattsOption = Annotated[
    float | None,
    typer.Option(
        "--watts",
        help="Power of one GPU or process. Default: the median that its driver reported during the runs in the store, "
        "else 10 W for a run without a GPU, or 700 W if nothing has been run.",
    ),
]
NetworkOption = Annotated[Network, _NETWORK]
SelectionOption = Annotated[Selection, _SELECTION]
WorkersOption = Annotated[
    str | None,
    _resource_option(
        metavar="N|MIN-MAX|auto",
        help="Processes per run: a number, a range within which Ray may vary it, or auto for as many as fit. Does not "
        "affect results.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Override a field of every run, for example `--set epochs=2`, or of one method's runs: `--set "
        "moco.queue=4096`. Repeatable. `eman fields` lists the fields.",
    ),
]
NewestOption = Annotated[
    int | None,
    typer.Option("--newest", metavar="N", help="Read only the newest N sweeps and trainings; 0 for all. Default: 200."),
]
ClaimsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CLAIM | TABLE]...",
        help="Claims by name, or all claims about these tables. Default: all. They are tested together.",
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Key of a finished run, or its beginning.")]


def newest_trainings(given: int | None) -> int:
    """Return the number of trainings to read."""
    check_number("--newest", given, 0, 10_000_000)
    return 200 if given is None else given


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Options for the runs of a sweep: scale, seeds, overrides."""

    profile: Annotated[
        str | None,
        typer.Option(
            help="Scale: smoke (seconds), quick (minutes), mini (hours); for GPUs: cifar10, stl10, imagenette, "
            "imagenet; see `eman profiles`. Default: quick; for `plan`: imagenet.",
        ),
    ] = None
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N|LIST",
            help="Number of seeds, or a list such as 0,1,5. Cells are means. Default: 1; for `claims`: all seeds that "
            "have results.",
        ),
    ] = None
    set_: SetOption = None
    ema_scaling: Annotated[
        EmaScaling | None,
        typer.Option(
            help="Scale the paper's teacher momenta m to m^k (EMA scaling rule): to the run's batch (batch), or to its "
            "length (run). Default: none, the profile's own momenta.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Options for the evaluated networks."""

    network: Annotated[Network | None, _NETWORK] = None
    selection: Annotated[Selection | None, _SELECTION] = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Options for the axes of a grid."""

    method: Annotated[str | None, _grid_option(metavar="LIST", help="Methods, for example moco,byol.")] = None
    scheme: Annotated[
        str | None,
        _grid_option(
            metavar="LIST",
            help="Schemes, for example bn,eman. With several seeds, all rows are compared with the first.",
        ),
    ] = None
    grid: Annotated[
        list[str] | None,
        _grid_option(
            metavar="FIELD=LIST", help="Values of any field of a run, for example `--grid lr=0.1,0.3`. Repeatable."
        ),
    ] = None
    range_: Annotated[
        list[str] | None,
        _grid_option(
            "--range",
            metavar="FIELD=LOW:HIGH[:SCALE]",
            help="Range of a numeric field; the scale is linear, log (for rates) or logit (for momenta), for example "
            "`--range lr=0.01:1:log`. Repeatable. Needs --samples.",
        ),
    ] = None
    linear_lr: Annotated[
        str | None,
        _grid_option(
            metavar="LIST|RANGE",
            help="Learning rates to search in linear evaluation: a list, or a range such as 0.1:10:log, of which "
            "--samples are taken. Default: the profile's.",
        ),
    ] = None
    search: Annotated[
        Literal["grid", "random", "optuna"] | None,
        _search_option(
            help="How to choose points, for each method and scheme: grid takes every combination, with --samples "
            "evenly spaced values of a range; random draws --samples points; optuna chooses --samples points, each "
            "from the results of those before. Default: grid."
        ),
    ] = None
    samples: Annotated[
        int | None, _search_option(min=1, help="Number of points, or of values of each range in a grid.")
    ] = None
    search_seed: Annotated[int | None, _search_option(min=0, help="Seed of random and optuna. Default: 0.")] = None
    scheduler: Annotated[
        Literal["none", "asha", "median"] | None,
        _search_option(
            help="Stop poor trainings early: by asynchronous successive halving (asha), or when they fall below the "
            "median of the others (median). A stopped run continues when another sweep needs it. Default: none."
        ),
    ] = None
    grace: Annotated[
        int | None, _search_option(min=1, help="Epochs that every run gets before it may be stopped. Default: 1.")
    ] = None
    reduction: Annotated[
        float | None, _search_option(help="With asha: continue one in this many runs at each rung. Default: 3.")
    ] = None
    objective: Annotated[
        str | None,
        _search_option(
            metavar="METRIC",
            help="Metric to choose and compare points by: knn/top1, accuracy/top1, train/loss, train/feature_std or, "
            "for finished runs, an evaluation's held-out accuracy. Default: the method's accuracy on held-out images.",
        ),
    ] = None

    @property
    def given(self) -> tuple[str, ...]:
        return tuple(f"--{name.strip('_').replace('_', '-')}" for name, value in asdict(self).items() if value)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Options that describe a sweep's run in the store to people. They change no result."""

    note: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Description of the sweep's run in MLflow, as Markdown.")
    ] = None
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Tag of the sweep's run in MLflow. Repeatable.")
    ] = None

    def __post_init__(self) -> None:
        parse_tags(self.tag)
        if self.note is not None and not 0 < len(self.note.strip()) <= MAX_NOTE:
            raise UserError(f"--note has {len(self.note)} characters; give 1 to {MAX_NOTE}.")

    @property
    def tags(self) -> dict[str, str]:
        return parse_tags(self.tag)

    def words(self) -> list[str]:
        """Return the options that were given, as arguments of `eman sweep`."""
        return [*(("--note", self.note) if self.note else ()), *(w for tag in self.tag or [] for w in ("--tag", tag))]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Options for the resources of a sweep's runs."""

    workers: WorkersOption = None
    cpus: Annotated[
        float | None, _resource_option(help="CPUs per process; with 0.5, two processes share one. Default: 1.")
    ] = None
    gpus: Annotated[
        float | None,
        _resource_option(help="GPUs per process; with 0.25, four processes share one. Default: 1 if there are GPUs."),
    ] = None
    retries: Annotated[int | None, _resource_option(help="Retries of a failed run within this launch. Default: 1.")] = (
        None
    )
    wait: Annotated[
        float | None, _resource_option(help="With a cluster: seconds to wait for it to fit one run. Default: 0.")
    ] = None

    def __post_init__(self) -> None:
        parse_workers(self.workers)
        check_number("--cpus", self.cpus, 0, 1024, above=True)
        check_number("--gpus", self.gpus, 0, 1024)
        check_number("--retries", self.retries, 0, 100)
        check_number("--wait", self.wait, 0, 7 * 86_400)

    @property
    def parsed_workers(self) -> Workers:
        return parse_workers(self.workers)

    def words(self) -> list[str]:
        """Return the options that were given, as arguments of `eman sweep`."""
        return [word for name, v in asdict(self).items() if v is not None for word in (f"--{name}", str(v))]

"""Options that several commands share."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from eman.parsing import Workers, check_number, parse_workers
from eman.platform.errors import UserError


class Format(StrEnum):
    """Formats of a table."""

    text = "text"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    parquet = "parquet"


class Network(StrEnum):
    """The network to evaluate."""

    student = "student"
    teacher = "teacher"


class Selection(StrEnum):
    """The epoch to evaluate."""

    last = "last"
    best = "best"


GRID_PANEL = "Grid"
LAUNCH_PANEL = "Resources"

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NetworkOption = Annotated[
    Network, typer.Option(help="Network to evaluate. Runs without a separate teacher use their student.")
]
SelectionOption = Annotated[
    Selection, typer.Option(help="Epoch to evaluate: the last, or the best on held-out images.")
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|MIN-MAX|auto",
        help="Processes per run: a number, a range within which Ray may vary it, or auto for as many as fit. Does not "
        "affect results.",
        rich_help_panel=LAUNCH_PANEL,
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
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Key of a finished run, or its beginning.")]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Options for the runs of a sweep: scale, seeds, overrides."""

    profile: Annotated[
        str | None,
        typer.Option(
            help="Scale: smoke (seconds), quick (minutes), mini (hours); for GPUs: cifar10, stl10, imagenet. Default: "
            "quick; for `plan`: imagenet.",
        ),
    ] = None
    seeds: Annotated[
        str | None,
        typer.Option(metavar="N|LIST", help="Number of seeds, or a list such as 0,1,5. Cells are means. Default: 1."),
    ] = None
    set_: SetOption = None


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Options for the evaluated networks."""

    network: Annotated[
        Network | None,
        typer.Option(help="Network to evaluate. Runs without a separate teacher use their student. Default: student."),
    ] = None
    selection: Annotated[
        Selection | None,
        typer.Option(help="Epoch to evaluate: the last, or the best on held-out images. Default: last."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Options for the axes of a grid."""

    method: Annotated[
        str | None, typer.Option(metavar="LIST", help="Methods, for example moco,byol.", rich_help_panel=GRID_PANEL)
    ] = None
    scheme: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Schemes, for example bn,eman. With several seeds, all rows are compared with the first.",
            rich_help_panel=GRID_PANEL,
        ),
    ] = None
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=LIST",
            help="Values of any field of a run, for example `--grid lr=0.1,0.3`. Repeatable.",
            rich_help_panel=GRID_PANEL,
        ),
    ] = None
    linear_lr: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Learning rates to search in linear evaluation. Default: the profile's.",
            rich_help_panel=GRID_PANEL,
        ),
    ] = None

    @property
    def given(self) -> tuple[str, ...]:
        """The options that were given."""
        flags = {"--method": self.method, "--scheme": self.scheme, "--grid": self.grid, "--linear-lr": self.linear_lr}
        return tuple(flag for flag, value in flags.items() if value)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Options for the resources of a sweep's runs."""

    workers: WorkersOption = None
    cpus: Annotated[
        float | None,
        typer.Option(
            help="CPUs per process; with 0.5, two processes share one. Default: 1.",
            rich_help_panel=LAUNCH_PANEL,
        ),
    ] = None
    gpus: Annotated[
        float | None,
        typer.Option(
            help="GPUs per process; with 0.25, four processes share one. Default: 1 if there are GPUs.",
            rich_help_panel=LAUNCH_PANEL,
        ),
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(help="Retries of a failed run within this launch. Default: 1.", rich_help_panel=LAUNCH_PANEL),
    ] = None

    def __post_init__(self) -> None:
        parse_workers(self.workers)
        check_number("--cpus", self.cpus, 0, 1024, above=True)
        check_number("--gpus", self.gpus, 0, 1024)
        check_number("--retries", self.retries, 0, 100)

    @property
    def parsed_workers(self) -> Workers:
        """The workers as a number, a range or `auto`."""
        return parse_workers(self.workers)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Options for the cluster of a sweep."""

    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="Address of a running Ray cluster. Default: start Ray on this machine.",
            rich_help_panel=LAUNCH_PANEL,
        ),
    ] = None
    wait: Annotated[
        float | None,
        typer.Option(
            help="With --address: seconds to wait for the cluster to fit one run. Default: 0.",
            rich_help_panel=LAUNCH_PANEL,
        ),
    ] = None

    def __post_init__(self) -> None:
        check_number("--wait", self.wait, 0, 7 * 86_400)
        if self.wait is not None and self.address is None:
            raise UserError("--wait has no effect without --address; leave it out.")
        if self.address is not None and not self.address.strip():
            raise UserError("--address is empty; give HOST:PORT, auto, or leave it out.")

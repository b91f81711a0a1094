"""What the command line's options are, and how their values are read."""

from enum import StrEnum
from typing import Annotated

import typer

from eman.platform.errors import UserError


class Format(StrEnum):
    """Output formats of a table."""

    text = "text"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    parquet = "parquet"


class PlanFormat(StrEnum):
    """Output formats of a plan."""

    text = "text"
    json = "json"


class Network(StrEnum):
    """Which network is evaluated."""

    student = "student"
    teacher = "teacher"


class Selection(StrEnum):
    """Which epoch's networks are evaluated."""

    last = "last"
    best = "best"


GRID_PANEL = "Options of `eman sweep grid`"

ProfileOption = Annotated[
    str,
    typer.Option(help="Scale: smoke (seconds), quick (minutes), mini (hours); for GPUs: cifar10, stl10, imagenet."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Override a field of the run, for example `--set epochs=2`; may be repeated.",
    ),
]
SeedsOption = Annotated[int, typer.Option(help="Number of seeds; each cell is their mean.")]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|MIN-MAX|auto",
        help="Processes of one run (DDP through Ray Train): a number; two numbers between which Ray may change it; or "
        "auto, as many as the cluster has room for. Changes speed, never results.",
    ),
]
CpusOption = Annotated[float | None, typer.Option(help="CPUs of each process of a run; 0.5 lets two share one.")]
GpusOption = Annotated[float | None, typer.Option(help="GPUs of each process of a run; 0.25 lets four share one.")]
RetriesOption = Annotated[int, typer.Option(help="How often a run that failed is tried again.")]
WaitOption = Annotated[float, typer.Option(help="Seconds to wait for a cluster that grows to have room for one run.")]
NetworkOption = Annotated[
    Network, typer.Option(help="Which network is evaluated; a run without a teacher of its own: its student.")
]
SelectionOption = Annotated[
    Selection, typer.Option(help="After which epoch: the last, or the best on the held-out images.")
]
AddressOption = Annotated[str | None, typer.Option(help="Address of a running Ray cluster; default: this machine.")]


def parse_list(text: str | None) -> list[str]:
    """The parts of ``a,b,c``."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def parse_numbers(flag: str, text: str | None) -> list[float]:
    """The numbers of ``0.9,0.999``; raises :class:`UserError` on anything else."""
    try:
        return [float(part) for part in parse_list(text)]
    except ValueError:
        raise UserError(
            f"{flag} {text}: give numbers with commas between them, for example {flag} 0.9,0.999."
        ) from None


def parse_workers(text: str | None) -> int | tuple[int, int] | str | None:
    """``4``, ``1-4`` or ``auto``; raises :class:`UserError` on anything else."""
    if text is None or text == "auto":
        return text
    try:
        numbers = [int(part) for part in text.split("-")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    raise UserError(f"--workers {text}: give a number, two with a hyphen between them (1-4), or auto.")

"""The command line. Errors are one line on standard error and exit code 2."""

import sys
from collections.abc import Sequence
from inspect import signature
from typing import Annotated

import typer
from typer.exceptions import TyperException

from eman import __version__, context
from eman.commands import data, jobs, networks, results, runs, store
from eman.platform.errors import UserError

app = typer.Typer(
    name="eman",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Compare normalization schemes in student-teacher training (FixMatch, MoCo, BYOL): sweeps on Ray, results in "
    "MLflow, the paper's tables filled from them.",
)
for _commands in (runs, jobs, networks, results, data, store):
    app.add_typer(_commands.app)


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
    context.enter(home, data, store)


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
        option = getattr(error, "option_name", None)
        if option in {f"--{name}" for name in signature(_common).parameters}:
            message = f"{option} stands before the command: eman {option} ... COMMAND"
        print(f"eman: {' '.join(message.split())} (see `eman --help`)", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("eman: interrupted; what was finished is kept, and the same command continues.", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())

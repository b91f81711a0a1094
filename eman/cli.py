"""The command line. Errors are printed as one line on standard error, with exit code 2."""

import itertools
import sys
from collections.abc import Sequence
from functools import cache
from inspect import signature
from typing import Annotated, Any

import typer
import typer.main
from typer.exceptions import TyperException

from eman import __version__, context
from eman.commands import claims, data, decide, jobs, networks, new, planning, results, runs, single, store, sweep
from eman.platform.errors import UserError

app = typer.Typer(
    name="eman",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _commands in (sweep, decide, single, planning, results, claims, networks, jobs, new):
    app.add_typer(_commands.app)
app.add_typer(runs.app, rich_help_panel="Look")
app.add_typer(data.app, rich_help_panel="Data")
app.add_typer(store.app, rich_help_panel="Data")


def _print_version(requested: bool) -> None:
    if requested:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _common(
    home: Annotated[
        str | None,
        typer.Option(
            envvar="EMAN_HOME",
            help="Work folder for results, checkpoints and features, by path or URI (s3://, gs://). Default: .eman in "
            "the current folder.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(envvar="EMAN_DATA", help="Data folder, by path or URI. Default: ~/.cache/eman.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow store. Default: a SQLite file in the work folder."),
    ] = None,
    cache_size: Annotated[
        float | None,
        typer.Option(
            envvar="EMAN_CACHE_SIZE",
            metavar="GIB",
            min=0,
            help="With a work folder by URI: limit in GiB for local copies of its files on each machine; the least "
            "recently used are removed first. Default: 20.",
        ),
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_EXPERIMENT_NAME",
            help="MLflow experiment that holds the runs. Default: eman.",
            metavar="NAME",
        ),
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option(
            envvar="EMAN_MODULES",
            metavar="FILE.py|NAME",
            help="Import a module of your own, which registers methods, schemes, tables, ...: a Python file, a "
            "package's folder, or a dotted name. Repeatable; may also stand behind the command. Every process of a "
            "sweep imports it, also on a cluster. See `eman new`.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compare normalization schemes in student-teacher training: FixMatch, MoCo, BYOL.

    - `eman sweep 1 8 --profile quick` fills Tables 1 and 8 in minutes
    - `eman table 1 8` prints them again, `eman report` writes a page, `eman ui` opens MLflow
    - `eman sweep grid --method moco --scheme bn,eman --grid lr=0.03,0.1` compares any configurations
    """
    context.set_workspace(home, data, store, cache_size, experiment)
    context.load_modules(module or [])


@cache
def command() -> Any:
    """Return the tree of commands."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        words = modules_first(sys.argv[1:] if arguments is None else arguments)
        code = command()(args=words, prog_name="eman", standalone_mode=False)
    except UserError as error:
        return _fail(str(error))
    except TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if not message:  # no command: the help has been printed
            return 0
        option = getattr(error, "option_name", None)
        if option in {f"--{name}" for name in signature(_common).parameters}:
            message = f"{option} stands before the command: eman {option} ... COMMAND"
        return _fail(f"{message} (see `eman --help`)")
    except OSError as error:
        return _fail(f"{str(error.filename or 'this')[:100]}: {error.strerror or error}.")
    except typer.Abort:
        return _fail("stopped; nothing was changed.")
    except KeyboardInterrupt:
        return _fail("interrupted; finished work is kept, and the same command continues.")
    return code if isinstance(code, int) else 0


def modules_first(arguments: Sequence[str]) -> list[str]:
    """Move ``--module`` to the front, where the options of all commands stand."""
    first, rest, words = list[str](), list[str](), iter(arguments)
    for word in words:
        if word == "--module":
            first += [word, *itertools.islice(words, 1)]
        elif word.startswith("--module="):
            first.append(word)
        elif word == "--":
            rest += [word, *words]
        else:
            rest.append(word)
    return first + rest


def _fail(message: str) -> int:
    print(f"eman: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

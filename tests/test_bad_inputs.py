"""Every option of every command, and every field of `--set`, given what it cannot take.

Options come from the command line's own tree and fields from the specifications, so that new ones are covered. A value
is either fine by the declared range or refused in one line with exit code 2, and a refusal leaves nothing behind.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eman.cli import command, main
from eman.evaluation.protocols.registry import PROTOCOLS
from eman.evaluation.protocols.spec import make_eval, parse_eval_fields, settable
from eman.platform.errors import UserError
from eman.sweeps.view.fields import listed_fields
from eman.trainers.methods.registry import METHODS
from eman.trainers.spec.kinds import FieldKind, kind_of

#: Stand-ins for paths that a test makes.
FOLDER, MISSING, UNWRITABLE = "<folder>", "<missing>", "<unwritable>"

VALUES = ("", "0", "-1", "nan", "inf", "1e30", "text", ",", "../x", "é" * 300, FOLDER, MISSING, UNWRITABLE)

GRID = ("grid", "--method", "moco", "--scheme", "bn", "--profile", "smoke")

#: Arguments with which each command does as little as possible. A new command must be added here.
COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("sweep",): (*GRID, "--dry-run"),
    ("submit",): (*GRID, "--dry-run", "--address", "http://127.0.0.1:9"),
    ("decide",): ("moco-eman-bn", "--profile", "smoke", "--dry-run"),
    ("claims",): ("moco-eman-bn", "--profile", "smoke"),
    ("train",): ("moco",),
    ("evaluate",): ("abc",),
    ("plan",): GRID,
    ("fields",): (),
    ("schemes",): (),
    ("profiles",): (),
    ("table",): GRID,
    ("figure",): ("3", "--out", "figure.png", "--profile", "smoke"),
    ("status",): ("--watch",),
    ("report",): (),
    ("ui",): (),
    ("doctor",): (),
    ("runs", "list"): (),
    ("runs", "show"): ("abc",),
    ("runs", "register"): ("abc", "--name", "network"),
    ("runs", "rm"): ("abc", "--yes"),
    ("runs", "prune"): ("--yes",),
    ("import",): ("network.pt", "--as", "moco"),
    ("export",): ("abc", "--out", "network.pt"),
    ("predict",): ("abc", "image.png"),
    ("jobs",): ("--address", "http://127.0.0.1:9"),
    ("logs",): ("job", "--address", "http://127.0.0.1:9"),
    ("stop",): ("job", "--address", "http://127.0.0.1:9"),
    ("new",): ("method", "my-idea"),
    ("data", "list"): (),
    ("data", "fetch"): ("nowhere",),
    ("data", "shard"): ("nowhere",),
    ("data", "verify"): ("nowhere",),
    ("data", "info"): ("nowhere",),
    ("store", "migrate"): ("nowhere", "elsewhere"),
    ("store", "gc"): ("--yes",),
}


def commands(tree: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    tree = command() if tree is None else tree
    if not hasattr(tree, "commands"):
        yield path, tree
        return
    for name, inner in tree.commands.items():
        yield from commands(inner, (*path, name))


def options() -> Iterator[Any]:
    for path, leaf in commands():
        for parameter in leaf.params:
            if parameter.param_type_name == "option" and not parameter.is_flag and "--help" not in parameter.opts:
                yield pytest.param(path, parameter, id=f"{' '.join(path)} {parameter.opts[0]}")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A current folder in which no command trains, serves or connects."""

    def nothing(*_: object, **__: object) -> list[str]:
        return []

    def absent(address: str) -> None:
        raise UserError(f"--address {address}: nothing answers there.")

    monkeypatch.setattr("eman.sweeps.run.foreground.train_in_foreground", nothing)
    monkeypatch.setattr("eman.sweeps.view.ui.serve", nothing)
    monkeypatch.setattr("eman.sweeps.run.submit.client", absent)
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(here)
    return here


def call(arguments: list[str], folders: list[Path], capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command; check that a refusal is one line and leaves nothing in the folders."""
    code = main(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err, arguments
    assert code in (0, 2), (arguments, captured.err)
    if code == 2:
        assert captured.err.count("\n") == 1, (arguments, captured.err)
        assert captured.err.startswith("eman: "), arguments
        for folder in folders:
            assert not list(folder.iterdir()), arguments
    else:
        for written in [path for folder in folders for path in folder.iterdir() if path.is_file()]:
            written.unlink()
    return code


def test_every_command_is_tried() -> None:
    assert {path for path, _ in commands()} == set(COMMANDS)


@pytest.mark.parametrize(("path", "parameter"), list(options()))
def test_options(
    path: tuple[str, ...], parameter: Any, quiet: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {FOLDER: str(tmp_path / "folder"), MISSING: str(tmp_path / "no" / "file"), UNWRITABLE: "/proc/1/file"}
    annotation = parameter.type_descriptor.annotation
    flag = parameter.opts[0]
    for value in VALUES:
        base = list(COMMANDS[path])
        if flag in base:  # the value of the base would win or be given twice
            del base[base.index(flag) : base.index(flag) + 2]
        code = call([*path, *base, f"{flag}={places.get(value, value)}"], [quiet, home], capsys)
        if annotation in (int, float) and not _is_finite(value):
            assert code == 2, (path, flag, value)


def arguments() -> Iterator[Any]:
    """Every command, with the place of each of its arguments and the place behind the last."""
    for path, leaf in commands():
        words, options = split_arguments(path, leaf)
        for place in range(len(words) + 1):
            yield pytest.param(path, words, options, place, id=f"{' '.join(path)} {place}")


def split_arguments(path: tuple[str, ...], leaf: Any) -> tuple[list[str], list[str]]:
    """Return the arguments and the options of a command's words; a grid becomes a table."""
    flags = {flag for parameter in leaf.params if getattr(parameter, "is_flag", False) for flag in parameter.opts}
    given, words, options = list(COMMANDS[path]), list[str](), list[str]()
    while given:
        word = given.pop(0)
        if not word.startswith("--"):
            words.append("1" if word == "grid" else word)
            continue
        option = [word] if word in flags else [word, given.pop(0)]
        options += option if word not in ("--method", "--scheme") else []
    return words, options


@pytest.mark.parametrize(("path", "words", "options", "place"), list(arguments()))
def test_arguments(
    path: tuple[str, ...],
    words: list[str],
    options: list[str],
    place: int,
    quiet: Path,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {FOLDER: str(tmp_path / "folder"), MISSING: str(tmp_path / "no" / "file"), UNWRITABLE: "/proc/1/file"}
    for value in VALUES:
        changed = [*words[:place], places.get(value, value), *words[place + 1 :]]
        call([*path, *options, "--", *changed], [quiet, home], capsys)


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _allows(kind: FieldKind, text: str) -> bool:
    """Whether a text is of a field's type and within its bounds."""
    if kind.optional and text.lower() == "none":
        return True
    try:
        value = kind.parse("field", text)
    except UserError:
        return False
    numbers = value if isinstance(value, tuple) else (value,)
    checks = {"ge": float.__ge__, "gt": float.__gt__, "le": float.__le__, "lt": float.__lt__}
    return all(
        math.isfinite(number) and all(checks[name](float(number), float(limit)) for name, limit in kind.bounds)
        for number in numbers
        if isinstance(number, int | float) and not isinstance(number, bool)
    )


def fields() -> Iterator[Any]:
    seen = set()
    for method in METHODS:
        for listed in listed_fields(method, "smoke"):
            place = listed.field.name, listed.field.section
            if place not in seen:
                yield pytest.param(method, listed.field.name, listed.field.kind, id=f"{method} {listed.field.name}")
            seen.add(place)


@pytest.mark.parametrize(("method", "name", "kind"), list(fields()))
def test_fields_of_runs(
    method: str, name: str, kind: FieldKind, quiet: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["sweep", "grid", "--method", method, "--scheme", "default", "--profile", "smoke", "--dry-run"]
    for value in VALUES:
        code = call([*base, "--set", f"{name}={value}"], [quiet, home], capsys)
        if not _allows(kind, value) or kind.base is str:  # names, of which none is one of these
            assert code == 2, (name, value)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_fields_of_evaluations(protocol: str) -> None:
    for name, field in settable(protocol).items():
        kind = kind_of(field)
        if kind is None or name == "name":
            continue
        for value in VALUES:
            try:
                make_eval(protocol, "abc", **parse_eval_fields(protocol, [f"{name}={value}"]))
            except UserError as error:
                assert "\n" not in str(error), (name, value)  # noqa: PT017
            else:
                assert _allows(kind, value), (name, value)

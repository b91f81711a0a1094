"""The command that writes files to start from: new."""

import re
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import typer

from eman.platform.errors import UserError

app = typer.Typer()

_TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


@app.command(rich_help_panel="Extend")
def new(
    kind: Annotated[Literal["method", "scheme", "study"], typer.Argument(help="What to write; a study is a table.")],
    name: Annotated[str, typer.Argument(help="Its name on the command line, for example my-idea.")],
) -> None:
    """Write a small working file to start from, and its test, into this folder.

    - `eman new method my-idea`, then `eman train my-idea --scheme eman --module my_idea.py`
    - `eman new scheme my-norm`, then `eman train byol --scheme my-norm --module my_norm.py`
    - `eman new study my-study`, then `eman sweep my-study --profile smoke --module my_study.py`
    """
    if len(name) > 50 or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UserError(
            f"{name!r}: give up to 50 small letters, digits and hyphens, beginning with a letter, such as my-idea."
        )
    module, words = name.replace("-", "_"), name.split("-")
    values = {
        "name": name,
        "module": module,
        "title": " ".join(words).capitalize(),
        "cls": "".join(word.capitalize() for word in words),
    }
    files = {Path(f"{module}.py"): kind, Path(f"test_{module}.py"): f"test_{kind}"}
    for path in files:
        if path.exists():
            raise UserError(f"{path} exists; give another name, or move it away.")
    for path, template in files.items():
        text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(values), encoding="utf-8")
        print(f"wrote {path}")

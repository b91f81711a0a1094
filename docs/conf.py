"""Sphinx builds the pages by this file: `make docs`. They fetch nothing from other hosts."""

import re
from pathlib import Path
from typing import Any

from docutils.nodes import Element, SkipNode, math_block
from docutils.utils.math.latex2mathml import tex2mathml

from eman import __version__

ROOT = Path(__file__).resolve().parent.parent

project = "EMAN"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "EMAN"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_show_copyright = False
html_copy_source = False
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"  # Sphinx's own, MathJax, is a script from another host

nitpicky = True  # a role that leads nowhere is an error; types of other libraries lead nowhere offline
nitpick_ignore_regex = [("py:class", ".*"), ("py:obj", r"typing\..*")]
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of other libraries refer to pages that are not here
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # a dataclass's attributes are described once


def mathml(writer: Any, node: Element) -> None:
    """Write an equation, inline or as a block."""
    block = isinstance(node, math_block)
    made = tex2mathml(node.astext().replace(":=", r"\coloneqq "), as_block=block)
    writer.body.append(f"<p>{made}</p>" if block else made)
    raise SkipNode


def add_commands(_app: Any, page: str, source: list[str]) -> None:
    """Append the command line's help to the command reference."""
    if page != "commands":
        return
    from typer.cli import get_docs_for_click
    from typer.main import get_command
    from typer.models import Context

    from eman.cli import app

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="eman", indent=1)
    source[0] += re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)  # lists of cut-off sentences; the headings serve


def keep_colons(_app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Put an empty comment before a value's docstring: Napoleon would take words before a colon for its type."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def add_modules(_app: Any, page: str, source: list[str]) -> None:
    """Append every module of a room to its API page: its own files first, then its packages."""
    folder, _, room = page.partition("/")
    if folder != "api":
        return
    own = sorted((ROOT / room).glob("[!_]*.py"))
    below = sorted(path for package in (ROOT / room).glob("[!_]*/") for path in package.rglob("*.py"))
    for path in [*own, *below]:
        parts = ["eman", *path.relative_to(ROOT).with_suffix("").parts]
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        level = "###" if not package and path.parent != ROOT / room else "##"
        source[0] += f"\n\n{level} `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("source-read", add_commands)
    app.connect("source-read", add_modules)

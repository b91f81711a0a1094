"""How Sphinx builds the pages: `make docs`. Nothing in them is fetched from another host."""

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
nitpick_ignore_regex = [("py:class", ".*")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # a dataclass's attributes are described once


def mathml(writer: Any, node: Element) -> None:
    """An equation, in the text or by itself."""
    block = isinstance(node, math_block)
    made = tex2mathml(node.astext().replace(":=", r"\coloneqq "), as_block=block)
    writer.body.append(f"<p>{made}</p>" if block else made)
    raise SkipNode


def add_commands(_app: Any, page: str, source: list[str]) -> None:
    """The command reference: what the command line says of itself."""
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
    """Napoleon takes what stands before a colon for a type where a docstring describes a value; an empty comment in
    front keeps it from doing so.
    """
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def add_modules(_app: Any, page: str, source: list[str]) -> None:
    """The API pages: every module of a folder."""
    folder, _, name = page.partition("/")
    if folder != "api":
        return
    for path in sorted((ROOT / name).rglob("[!_]*.py")):
        module = ".".join(["eman", *path.relative_to(ROOT).with_suffix("").parts])
        source[0] += f"\n\n## `{module}`\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n"


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("source-read", add_commands)
    app.connect("source-read", add_modules)

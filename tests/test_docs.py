"""The pages: they build without a broken reference, fetch nothing from elsewhere, and what they say to do works."""

import doctest
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy" / "README.md"]
TRIED = [
    DOCS / f"{name}.md"
    for name in ("walk", "howto-scheme", "howto-method", "howto-backbone", "howto-dataset", "howto-table")
]
CODE = ("eman", "platform", "trainers", "evaluation", "sweeps")


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-c", DOCS, source, out]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("link", ["[there](nowhere.md)", "![it](nowhere.png)", "{py:func}`nowhere.at_all`"])
def test_a_broken_link_fails_the_build(link: str, tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    (source / "index.md").write_text(f"# Page\n\n{link}\n", encoding="utf-8")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere" in done.stderr


class _Fetched(HTMLParser):
    """Addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "index", "search", "next", "prev"):
            self.found.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_fetches_nothing_from_another_host(site: Path) -> None:
    fetched: list[str] = []
    for path in site.rglob("*.html"):
        parser = _Fetched()
        parser.feed(path.read_text(encoding="utf-8"))
        fetched += parser.found
    for path in site.rglob("*.css"):
        fetched += re.findall(r"""(?:url\(|@import)\s*['"]?([^'")\s]+)""", path.read_text(encoding="utf-8"))
    assert any("furo" in address for address in fetched)  # the style sheets were seen
    assert not [address for address in fetched if re.match(r"(?:https?:)?//", address)]


def commands() -> dict[str, list[str]]:
    """The command line's commands, and the commands of each that has some."""
    from typer.main import get_command

    from eman.cli import app

    return {name: [*getattr(command, "commands", [])] for name, command in get_command(app).commands.items()}


@pytest.mark.slow
def test_the_command_reference_has_every_command(site: Path) -> None:
    page = (site / "commands.html").read_text(encoding="utf-8")
    for name, below in commands().items():
        for whole in (f"eman {name}", *(f"eman {name} {part}" for part in below)):
            assert f'id="{whole.replace(" ", "-")}"' in page, whole


@pytest.mark.slow
def test_the_api_pages_have_every_module(site: Path) -> None:
    for folder in CODE[1:]:
        page = (site / "api" / f"{folder}.html").read_text(encoding="utf-8")
        for path in (ROOT / folder).rglob("[!_]*.py"):
            module = ".".join(["eman", *path.relative_to(ROOT).with_suffix("").parts])
            assert f'id="module-{module}"' in page, module


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_paths_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    made = re.findall(r"^:caption: (.+)$", text, re.MULTILINE)
    for path in re.findall(rf"`((?:{'|'.join([*CODE, 'docs', 'deploy', 'tests'])})/[\w/.-]*)`", text):
        assert (ROOT / path).exists() or path in made, path
    for command in command_lines(text):
        check_command(command)


def command_lines(text: str) -> list[list[str]]:
    """The commands of ``eman`` in a page, whole, without comments: of code blocks, and of code in the text."""
    blocks = re.findall(r"^```(?:sh|console|text)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [code.replace("\n", " ") for code in re.findall(r"`(eman [^`]*)`", prose)]
    parts = [part.strip().removeprefix("$ ") for line in lines for part in line.split(";")]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("eman ")]


def check_command(arguments: list[str]) -> None:
    """Parse a command as the command line does. A name alone, or an ellipsis, stands for the command with arguments."""
    from click import Context, Group
    from typer.main import get_command

    from eman.cli import app, modules_first

    whole, command = " ".join(["eman", *arguments]), get_command(app)
    arguments = modules_first(arguments)
    while arguments[:1] == ["--module"]:  # an option of all commands
        arguments = arguments[2:]
    context = Context(command, info_name="eman")
    while isinstance(command, Group):
        if not arguments or not re.match(r"[a-z]", arguments[0]):
            return
        assert arguments[0] in command.commands, whole
        name, command, arguments = command.resolve_command(context, arguments)
        if command is None or not arguments or "..." in arguments:
            return
        context = command.make_context(
            name, list(arguments), parent=context, resilient_parsing=isinstance(command, Group)
        )


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_readmes_teacher_works() -> None:
    [code] = [text for kind, text in blocks(ROOT / "README.md") if kind == "python"]
    exec(code, {})


@pytest.mark.slow
def test_what_the_pages_say_to_do_works(tmp_path: Path) -> None:
    """In a copy of the project, with the pages' files and patches, and a home of its own."""
    copy, home = tmp_path / "project", tmp_path / "you"
    for name in CODE:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for page in TRIED:
        for kind, text in blocks(page):
            if kind == "diff":
                subprocess.run(["git", "apply", "-"], cwd=copy, input=text, text=True, check=True, timeout=60)
            elif kind == "{code-block}":
                caption, code = re.findall(r"\A:caption: (.+?)\n\n(.*)", text, re.DOTALL)[0]
                (copy / caption).write_text(code, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in ("EMAN_HOME", "EMAN_DATA", "MLFLOW_TRACKING_URI")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *map(str, TRIED)]  # one process: a start takes longer than a page
    done = subprocess.run(command, check=False, cwd=copy, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page: what stands behind the fence, and the text."""
    yield from re.findall(r"^```(\S+).*?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def follow(page: Path) -> None:
    """Does what a page says, in the current folder; raises ``AssertionError`` unless it gives what the page shows."""
    names: dict[str, object] = {}
    for kind, text in blocks(page):
        if kind == "python":
            exec(text, names)
        elif kind == "pycon":
            test = doctest.DocTestParser().get_doctest(text, names, page.name, str(page), 0)
            assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0
            names = test.globs
        elif kind == "console":
            for command, shown in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                printed = given(command)
                lines = iter([masked(line) for line in printed.splitlines()])
                for line in shown.splitlines():
                    assert line == "..." or masked(line) in lines, f"{command}\ndoes not print {line!r}, but\n{printed}"


def given(command: str) -> str:
    """What a command prints."""
    from eman.cli import main

    name, *arguments = (os.path.expanduser(part) for part in shlex.split(command))
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        if name == "eman":
            main(arguments)
        else:
            runpy.run_path(arguments[0])
    return printed.getvalue().replace(os.path.expanduser("~"), "/home/you")


def masked(line: str) -> str:
    """A line without what differs between machines: measured numbers, and the width of columns. Keys stay."""
    return re.sub(r"(?<![\w.])\d[\d,.]*(?!\w)", "#", " ".join(re.sub("--+", "--", line).split()))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        follow(Path(argument))

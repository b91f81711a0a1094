"""The shape of the project: one package, imports in one direction, small rooms.

Each rule walks every module of the package and finds what breaks it. `OFFENDERS` lists what still does. It must be
exact: whoever mends something removes its line. `python tests/test_layout.py` prints the list as it should be.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["platform", "trainers", "evaluation", "sweeps"]
#: Who may import whom: what stands later may import what stands before.
ORDER = [
    "eman.platform",
    "eman.trainers",
    "eman.evaluation",
    "eman.sweeps",
    "eman.api",
    "eman.context",
    "eman.parsing",
    "eman.options",
    "eman.groups",
    "eman.requests",
    "eman.commands",
    "eman.cli",
]
#: Modules that may read or write the environment: what reads it once for all, and what passes it on to libraries.
ENVIRONMENT = {
    "platform/workspace.py",
    "platform/cluster.py",
    "platform/storage.py",
    "platform/store/client.py",
    "platform/store/rest.py",  # the credentials that MLflow's client finds there too
    "sweeps/run/submit.py",  # Ray's token, for a job
    "sweeps/view/ui.py",  # MLflow's server, and whether there is a display for a browser
}
METHODS = {"fixmatch", "moco", "byol", "supervised"}
FILE_LINES, FUNCTION_LINES = 350, 50

OFFENDERS: dict[str, set[str]] = {}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name. The rooms are links in `eman/`, so they are walked by themselves."""
    folders = [ROOT / room for room in ROOMS] + [ROOT / "eman" / "commands"]
    paths = [path for folder in folders for path in folder.rglob("*.py")] + list((ROOT / "eman").glob("*.py"))
    return {name_of(path): path for path in sorted(paths)}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "eman" else ("eman", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(name: str, node: ast.AST) -> Iterator[str]:
    """The modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules())
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:  # relative
            above = name.split(".") if modules()[name].name == "__init__.py" else name.split(".")[:-1]
            base = ".".join([*above[: len(above) - node.level + 1], *([base] if base else [])])
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            if whole in modules():
                yield whole
            elif base in modules():
                yield base


@cache
def graph() -> dict[str, frozenset[str]]:
    """Which modules each module imports, also inside functions."""
    return {
        name: frozenset(found for node in ast.walk(tree(path)) for found in imports(name, node)) - {name}
        for name, path in modules().items()
    }


def long_files() -> Iterator[str]:
    for path in modules().values():
        if len(path.read_text(encoding="utf-8").splitlines()) > FILE_LINES:
            yield place(path)


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, name: str = "") -> Iterator[tuple[str, Function]]:
    """The functions of a module, and those inside classes and functions, by their qualified names."""
    for child in ast.iter_child_nodes(node):
        whole = f"{name}.{child.name}" if isinstance(child, Function | ast.ClassDef) else name
        if isinstance(child, Function):
            yield whole.removeprefix("."), child
        yield from functions(child, whole)


def long_functions() -> Iterator[str]:
    for path in modules().values():
        for name, function in functions(tree(path)):
            lines = (function.end_lineno or 0) - function.lineno + 1
            first = function.body[0]
            if ast.get_docstring(function) is not None:
                lines -= (first.end_lineno or 0) - first.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{place(path)}: {name}"


def rank(name: str) -> int | None:
    return next((number for number, room in enumerate(ORDER) if f"{name}.".startswith(f"{room}.")), None)


def imports_against_the_order() -> Iterator[str]:
    for name, named in graph().items():
        for other in named:
            here, there = rank(name), rank(other)
            if here is not None and there is not None and there > here:
                yield f"{name} -> {other}"


def import_circles() -> Iterator[str]:
    """Sets of modules that can reach each other."""
    for component in strongly_connected(graph()):
        if len(component) > 1:
            yield " <-> ".join(sorted(component))


def strongly_connected(links: dict[str, frozenset[str]]) -> list[Set[str]]:
    """Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[Set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(links[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            start = stack.index(node)
            components.append(set(stack[start:]))
            del stack[start:]

    for node in sorted(links):
        if node not in index:
            visit(node)
    return components


def uses_of_the_environment() -> Iterator[str]:
    for path in modules().values():
        for node in ast.walk(tree(path)):
            attribute = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
            imported = isinstance(node, ast.ImportFrom) and node.module == "os"
            if (attribute or imported) and place(path) not in ENVIRONMENT:
                yield place(path)


def packages_that_hold_code() -> Iterator[str]:
    for name, path in modules().items():
        if path.name == "__init__.py" and name != "eman":  # it has the version
            body = tree(path).body
            if len(body) != 1 or ast.get_docstring(tree(path)) is None:
                yield place(path)


def comparisons_with_a_methods_name() -> Iterator[str]:
    for name, path in modules().items():
        if rank(name) is None or name.startswith("eman.trainers.methods."):
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Compare | ast.MatchValue):
                constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                if constants & METHODS:
                    yield f"{place(path)}: {ast.unparse(node)}"


RULES: list[Callable[[], Iterator[str]]] = [
    long_files,
    long_functions,
    imports_against_the_order,
    import_circles,
    uses_of_the_environment,
    packages_that_hold_code,
    comparisons_with_a_methods_name,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Callable[[], Iterator[str]]) -> None:
    found, listed = set(rule()), OFFENDERS.get(rule.__name__, set())
    assert not found - listed, f"new offenders of {rule.__name__}: mend them"
    assert not listed - found, f"mended: remove these from OFFENDERS[{rule.__name__!r}] in {Path(__file__).name}"


def test_circles_are_found() -> None:
    links = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    found = strongly_connected({name: frozenset(named) for name, named in links.items()})
    assert sorted(map(sorted, found)) == [["a", "b", "c"], ["d"], ["e"]]


def test_platform_does_not_hide_the_standard_library() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import eman.platform, platform; assert platform.system()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("room", ROOMS)
def test_links_lead_to_the_prescribed_folders(room: str) -> None:
    assert os.readlink(ROOT / "eman" / room) == f"../{room}"


if __name__ == "__main__":  # print OFFENDERS as it should be
    for rule in RULES:
        print(f'    "{rule.__name__}": {{')
        for offender in sorted(set(rule())):
            print(f'        "{offender}",')
        print("    },")

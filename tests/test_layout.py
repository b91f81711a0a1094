"""The shape of the project: one package, imports in one direction, no folder that hides a standard module."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["platform", "trainers", "evaluation", "sweeps"]


def test_platform_does_not_hide_the_standard_library() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import eman.platform, platform; assert platform.system()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("layer", LAYERS)
def test_links_lead_to_the_prescribed_folders(layer: str) -> None:
    assert os.readlink(ROOT / "eman" / layer) == f"../{layer}"


@pytest.mark.parametrize(
    "path",
    [p for layer in LAYERS for p in sorted((ROOT / layer).rglob("*.py"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_imports_run_one_way(path: Path) -> None:
    above = [*LAYERS[LAYERS.index(path.relative_to(ROOT).parts[0]) + 1 :], "cli"]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = (
            [node.module]
            if isinstance(node, ast.ImportFrom) and node.module
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        for name in names:
            assert not any(f"{name}.".startswith(f"eman.{layer}.") for layer in above), f"{path.name} imports {name}"


def test_no_file_asks_a_method_for_its_name() -> None:
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                    assert not constants & {"fixmatch", "moco", "byol"}, f"{path.name}:{node.lineno}"

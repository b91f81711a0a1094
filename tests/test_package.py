"""The wheel works without the repository, from an empty folder."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def test_the_wheel_is_what_its_environment_imports(wheel_environment: Any, tmp_path: Path) -> None:
    code = "import eman, eman.sweeps, eman.platform as p; print(eman.__file__, *eman.sweeps.__path__, *p.__path__)"
    for place in wheel_environment.run("python", "-c", code, cwd=tmp_path).stdout.split():
        assert Path(place).is_relative_to(wheel_environment.folder)


def test_it_holds_every_module_and_data_file(wheel_environment: Any) -> None:
    (package,) = wheel_environment.folder.glob("lib/python*/site-packages/eman")
    installed = {
        path.relative_to(package) for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    rooms = ("platform", "trainers", "evaluation", "sweeps")
    folders = {room: ROOT / room for room in rooms} | {"": ROOT / "eman"}
    tracked = {
        Path(room) / path.relative_to(folder)
        for room, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked == installed


def test_a_smoke_sweep_from_an_empty_folder(wheel_environment: Any, tmp_path: Path) -> None:
    run = wheel_environment.run
    done = run("eman", "sweep", "grid", "--method", "byol", "--scheme", "bn,eman", "--profile", "smoke", cwd=tmp_path)
    assert "2 trained, 0 reused" in done.stderr
    assert "0 failed" in done.stderr
    # What is kept in files beside the code: the paper's numbers, the report's template.
    assert "67.1" in run("eman", "table", "1", "--profile", "smoke", cwd=tmp_path).stdout
    run("eman", "report", "--out", "report.html", cwd=tmp_path)
    assert "BN / EMAN" in (tmp_path / "report.html").read_text(encoding="utf-8")

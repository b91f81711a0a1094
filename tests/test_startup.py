"""Commands that read or plan start quickly: they import no library that they do not need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "ray", "mlflow", "pandas", "numba", "sklearn", "timm", "scipy")

PROGRAM = """
import sys
from eman.cli import main
code = main(sys.argv[2:])
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
print("loaded:", *loaded, file=sys.stderr)
sys.exit(code)
"""


def loaded_by(*arguments: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(HEAVY), *arguments],
        env={**os.environ, "EMAN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1].removeprefix("loaded:").strip()


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "sweep --help",
        "--version",
        "sweep 1 8 --profile smoke --dry-run",
        "submit 1 --profile smoke --dry-run --address http://127.0.0.1:1",
        "plan 1 8 --profile smoke",
        "table 1 8 --profile smoke",
        "status",
        "status --json",
        "runs list",
        "fields moco",
    ],
)
def test_planning_and_reading_import_nothing_heavy(command: str, home: Path) -> None:
    assert loaded_by(*command.split(), home=home) == ""
    assert not list(home.iterdir())  # reading creates nothing


@pytest.mark.parametrize("command", ["figure 3 --out figure.png", "report --out report.html"])
def test_pictures_need_no_torch(command: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not {"torch", "torchvision", "ray"} & set(loaded_by(*command.split(), home=home).split())
    assert not list(home.iterdir())
    assert not list(tmp_path.iterdir())  # the store is empty: there is nothing to draw


def test_a_stored_set_that_is_not_there_is_refused_before_anything_is_imported(home: Path, tmp_path: Path) -> None:
    command = ["--data", str(tmp_path), "sweep", "table1", "--profile", "imagenet"]
    assert loaded_by(*command, "--dry-run", home=home) == ""  # plans need no images
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(HEAVY), *command],
        env={**os.environ, "EMAN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    *_, refusal, loaded = done.stderr.splitlines()
    assert "imagenet must hold train/CLASS" in refusal
    assert not {"torch", "torchvision", "mlflow"} & set(loaded.split())
    assert not list(home.iterdir())


def test_completion_of_a_shell_imports_nothing_heavy(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "eman"],
        env={
            **os.environ,
            "EMAN_HOME": str(home),
            "_EMAN_COMPLETE": "complete_bash",
            "COMP_WORDS": "eman sw",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "sweep" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & set(HEAVY)

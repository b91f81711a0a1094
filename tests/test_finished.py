"""Commands on a finished sweep: what they fill, print, and remove."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eman.cli import main
from eman.platform.store.records import EVALUATION, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.options import Options
from eman.sweeps.run.publish import begin_sweep

GRID = ("grid", "--method", "moco", "--scheme", "bn,eman", "--profile", "smoke", "--set", "epochs=1")

Call = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """The home folder of one trained run, and of a sweep `pair` that wants it and another."""
    home = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_database, home / "mlflow.db")
    torch.set_num_threads(1)  # as for every test; this comes before the first
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMAN_HOME", str(home))
        assert main(["train", "moco", *GRID[5:], "--scheme", "eman"]) == 0
    request = SweepRequest(
        profile="smoke", methods=["moco"], schemes=["bn", "eman"], overrides={"epochs": 1}, name="pair"
    )
    begin_sweep(plan(request), Store(Workspace(home=home, store=f"sqlite:///{home / 'mlflow.db'}")), 1.0, Options())
    return home


@pytest.fixture
def call(trained: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command on a copy of that folder, and return what it prints."""
    shutil.copytree(trained, home, dirs_exist_ok=True)

    def run(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def cells(call: Call, *words: str) -> dict[str, str]:
    """Return the state of each row of a table."""
    rows = csv.DictReader(io.StringIO(call("table", *words, "--format", "csv")))
    return {row["row"]: row["status"] for row in rows}


def test_an_evaluation_in_the_foreground_fills_the_tables_cell(call: Call) -> None:
    before = cells(call, *GRID)
    assert set(before.values()) == {"missing"}
    [run] = Store(Workspace.from_environment()).records(TRAINING)
    call("evaluate", run.key[:8], "--protocol", "linear")
    after = cells(call, *GRID)
    assert sorted(after.values()) == ["done", "missing"]
    assert cells(call, "pair") == after


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_an_index_file_that_is_missing_is_refused_before_anything_is_stored(call: Call, protocol: str) -> None:
    store = Store(Workspace.from_environment())
    [run] = store.records(TRAINING)
    assert main(["evaluate", run.key, "--protocol", protocol, "--set", "label_index=nowhere"]) == 2
    assert store.records(EVALUATION) == []
    assert main(["train", "fixmatch", "--set", "label_index=nowhere"]) == 2
    assert store.records(TRAINING) == [run]
    assert store.workspace.runs.folders() == [run.key]


def test_a_sweep_is_planned_and_tabulated_by_its_name(call: Call) -> None:
    named, spelt = (json.loads(call("plan", *words, "--json")) for words in (("pair",), GRID))
    assert named == spelt
    assert (named["cells"], named["runs"]) == (2, 2)
    assert named["hours"] > 0  # at the speed of the trained run
    assert call("table", "pair") == call("table", *GRID)


def test_removed_runs_leave_neither_entries_nor_files(call: Call) -> None:
    workspace = Workspace.from_environment()
    store = Store(workspace)
    [run] = store.records(TRAINING)
    call("evaluate", run.key, "--protocol", "knn")
    assert store.records(EVALUATION)
    assert "removed" in call("runs", "rm", run.key[:8], "--yes")
    assert not store.records(TRAINING)
    assert not store.records(EVALUATION)
    assert not workspace.run_folder(run.key).exists()
    assert call("runs", "prune", "--yes") == "nothing to remove\n"


def test_pruning_keeps_what_is_done(call: Call) -> None:
    workspace = Workspace.from_environment()
    store = Store(workspace)
    [run] = store.records(TRAINING)
    store.begin(TRAINING, "f00d", "failed", params={}, tags={}).fail("no")
    for stray in ("f00d", "cafe"):
        (workspace.run_folder(stray) / "last.pt").write(b"0")
    call("runs", "prune", "--yes")
    assert [record.key for record in store.records(TRAINING)] == [run.key]
    assert workspace.runs.folders() == [run.key]

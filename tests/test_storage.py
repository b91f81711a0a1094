"""A work folder in a bucket: bounded local copies, digests, a bucket that goes away, several machines, and gc.

Each `workspace` of a test stands for a machine with a folder of its own.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eman.cli import main
from eman.evaluation import measure
from eman.evaluation.trained import Trained
from eman.platform import checkpoint
from eman.platform.cache import Cache
from eman.platform.errors import BusyError
from eman.platform.sealed import DamagedError, open_sealed, write_sealed
from eman.platform.storage import Place, StorageError
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.platform.workspace import Settings, Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers.loop import fit

Machine = Callable[..., Workspace]


@pytest.fixture
def machine(s3: Any, store_file: Path, tmp_path: Path) -> Machine:
    """A workspace by name whose files lie in the bucket; all share a store."""

    def make(name: str, **settings: Any) -> Workspace:
        settings = {"storage_patience": 30.0, **settings}
        return Workspace(
            s3.uri, store=f"sqlite:///{store_file}", cache=str(tmp_path / name), settings=Settings(**settings)
        )

    return make


def read(place: Place) -> bytes:
    with open_sealed(place) as file:
        return file.read()


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


# Local copies ---------------------------------------------------------------------------------------------------------


def test_local_copies_stay_within_their_bound_and_the_least_recently_used_goes_first(machine: Machine) -> None:
    one, two = machine("one"), machine("two", cache_size=250_000 / 2**30)
    for number in range(3):
        write_sealed(one.storage / str(number), bytes([number]) * 100_000)
    assert read(two.storage / "0")[:1] == b"\0"
    assert read(two.storage / "1")[:1] == b"\1"
    assert read(two.storage / "0")[:1] == b"\0"
    first, second = (bytes([number]) * 100_000 for number in (0, 1))
    assert read(two.storage / "2")[:1] == b"\2"
    copies = [path.read_bytes()[:100_000] for path in (Path(two.cache) / "copies").iterdir()]
    assert first in copies and second not in copies
    assert size_of(Path(two.cache) / "copies") <= 250_000


def test_a_file_larger_than_the_bound_is_read_all_the_same(machine: Machine) -> None:
    workspace = machine("one", cache_size=0.0)
    write_sealed(workspace.storage / "x", b"x" * 100_000)
    assert read(workspace.storage / "x").startswith(b"x" * 100_000)
    assert size_of(Path(workspace.cache) / "copies") == 0


def test_several_processes_share_a_bounded_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from eman.platform.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]), 50_000)\n"
        "for number in range(300):\n"
        "    content = f'{sys.argv[2]} {number % 20:6}'.encode() * 1000\n"
        "    copy = cache.find(str(number % 20) + sys.argv[2])\n"
        "    copy = copy or cache.add(str(number % 20) + sys.argv[2], len(content), lambda file: file.write(content))\n"
        "    with copy:\n"
        "        assert copy.read() == content\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(name)]) for name in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert 0 < size_of(tmp_path) <= 50_000


def test_a_damaged_copy_is_read_again(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    workspace = machine("one")
    write_sealed(workspace.storage / "x", b"content")
    [copy] = [path for path in (Path(workspace.cache) / "copies").iterdir() if not path.name.startswith(".")]
    copy.write_bytes(copy.read_bytes().replace(b"content", b"nonsens"))
    assert read(workspace.storage / "x").startswith(b"content")
    assert "the local copy of s3://eman/home/x is damaged" in caplog.text


def test_a_damaged_object_is_recognized(machine: Machine) -> None:
    place = machine("one").storage / "x"
    write_sealed(place, b"content")
    place.write(place.read().replace(b"content", b"nonsens"))
    Cache(Path(machine("one").cache) / "copies", 0).add("x", 0, lambda _: None).close()  # empties it
    with pytest.raises(DamagedError, match="s3://eman/home/x is damaged"):
        read(place)


# Runs -----------------------------------------------------------------------------------------------------------------

SPEC = SMOKE.run("moco", "eman").replace(epochs=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The networks of an uninterrupted run without storage."""
    torch.set_num_threads(1)  # as the tests' own runs have
    weights: dict[str, torch.Tensor] = fit(SPEC, Workspace(str(tmp_path_factory.mktemp("whole")))).training.weights()[
        "teacher"
    ]
    return weights


def assert_whole(workspace: Workspace, whole: dict[str, torch.Tensor]) -> None:
    found = checkpoint.load(workspace.run_folder(SPEC.key) / "last.pt", SPEC.key)["teacher"]
    torch.testing.assert_close(found, whole, rtol=0, atol=0)


def test_a_run_begun_on_one_machine_resumes_on_another_and_is_evaluated_on_a_third(
    machine: Machine, whole: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = machine("one"), machine("two"), machine("three")
    fit(SPEC, one, folder=one.run_folder(SPEC.key), stop_after=5)
    fit(SPEC, one, folder=one.run_folder(SPEC.key), stop_after=9)
    newest = one.run_folder(SPEC.key) / checkpoint.newest_name(9)
    newest.write(newest.read()[:-1000])  # damaged: the one before is taken
    outcome = fit(SPEC, two, folder=two.run_folder(SPEC.key), monitor=measure.monitor)
    assert outcome.resumed_from == 5
    assert "Set aside as" in caplog.text
    assert_whole(three, whole)
    measure.final(outcome.training, two.run_folder(SPEC.key), outcome.best_epoch)
    names = (three.run_folder(SPEC.key)).names()
    assert {"features-student-last.pt", "features-student-best.pt", "best.pt"} <= set(names)
    found = Trained(SPEC.key, three).features
    own = replace(Trained(SPEC.key, three), network="teacher").features
    assert found.train_ND.shape == own.train_ND.shape
    assert "features-teacher-last.pt" in three.run_folder(SPEC.key).names()


def test_a_bucket_that_is_away_for_a_while_costs_checkpoints_and_no_run(
    machine: Machine, s3: Any, whole: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    workspace = machine("one", storage_patience=60.0, checkpoint_seconds=0.0)
    steps: list[int] = []

    def follow(step: int, last: int) -> None:
        steps.append(step)
        if step == 2:
            s3.stop()
        if step == last:
            s3.start()

    fit(SPEC, workspace, folder=workspace.run_folder(SPEC.key), on_step=follow)
    assert steps == list(range(1, len(steps) + 1))
    assert_whole(machine("two"), whole)


def test_a_bucket_that_stays_away_is_named_and_nothing_is_lost(
    machine: Machine, s3: Any, whole: dict[str, torch.Tensor]
) -> None:
    workspace = machine("one", storage_patience=1.0, checkpoint_seconds=0.0)
    folder = workspace.run_folder(SPEC.key)
    fit(SPEC, machine("one"), folder=machine("one").run_folder(SPEC.key), stop_after=2)
    steps: list[int] = []

    def follow(step: int, _last: int) -> None:
        steps.append(step)
        if len(steps) == 1:
            s3.stop()

    with pytest.raises(StorageError, match=r"Nothing is lost: .* files are kept in") as caught:
        fit(SPEC, workspace, folder=folder, on_step=follow)
    assert "\n" not in str(caught.value)
    s3.start()
    again = fit(SPEC, machine("one"), folder=machine("one").run_folder(SPEC.key))
    assert again.resumed_from == again.training.steps == steps[-1]  # no step is repeated
    assert_whole(machine("two"), whole)


# Several machines -----------------------------------------------------------------------------------------------------


def test_machines_exclude_each_other_without_a_disk_though_their_names_are_equal(machine: Machine) -> None:
    one, two = machine("one"), machine("two")
    log = Store(one).begin(TRAINING, "k", "run", params={}, tags={})
    with pytest.raises(BusyError, match="is running on"):
        Store(two).begin(TRAINING, "k", "run", params={}, tags={})
    log.interrupt()
    Store(two).begin(TRAINING, "k", "run", params={}, tags={}).finish({})


def test_entries_of_a_machine_that_is_lost_reach_the_store(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = machine("one"), machine("two")
    run = Store(one).begin(TRAINING, "k", "run", params={}, tags={})
    away = Store(replace(one, store="http://127.0.0.1:9"))  # the store does not answer
    log = RunLog(away, run.run_id)
    log.epoch(1, {"train/loss": 2.0})
    log.epoch(2, {"train/loss": 1.0})
    log.finish({"test/top1": 50.0})
    assert Store(two).records(TRAINING)[0].status == "running"
    assert Store(two).deliver() == 1
    [record] = Store(two).records(TRAINING)
    assert (record.status, record.metrics["test/top1"]) == ("done", 50.0)
    assert [point.value for point in Store(two).history(run.run_id, "train/loss")] == [2.0, 1.0]
    assert (two.storage / "spool").names() == []


def test_a_work_folder_by_uri_needs_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", "s3://eman/home", "status"]) == 2
    assert "give --store, the address of an MLflow server" in capsys.readouterr().err


# Garbage --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "bucket"])
def filled(request: pytest.FixtureRequest, home: Path, store_file: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with runs of all states, and files with and without a run."""
    if request.param == "bucket":
        monkeypatch.setenv("EMAN_HOME", request.getfixturevalue("s3").uri)
        monkeypatch.setenv("EMAN_CACHE", str(home / "cache"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_file}")
    store = Store(Workspace.from_environment())
    logs = {
        key: store.begin(TRAINING, key, key, params={}, tags={}) for key in ("done", "bare", "running", "cut", "lost")
    }
    for key in ("done", "bare"):
        logs[key].finish({})
    for key in ("cut", "lost"):
        logs[key].interrupt()
    for name in ("done/last.pt", "done/resume-000000007.pt", "running/resume-000000003.pt", "cut/resume-000000001.pt"):
        (store.workspace.runs / name).write(b"x" * 2**20)
    (store.workspace.runs / "stray" / "last.pt").write(b"x" * 2**21)
    return store


def test_gc_removes_files_without_a_run_and_runs_without_files(
    filled: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["store", "gc", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out  # all of it is new
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    assert main(["store", "gc", "--hours", "0"]) == 2  # nobody confirms
    assert len(filled.workspace.runs.files()) == 5
    assert main(["store", "gc", "--hours", "0", "--yes"]) == 0
    out = capsys.readouterr().out
    assert "2.0 MiB" in out and "stray  (no run in the store)" in out
    assert "kept: bare" in out
    assert "3.0 MiB  in all, and 1 runs" in out
    left = [name for name, _ in filled.workspace.runs.files()]
    assert left == ["cut/resume-000000001.pt", "done/last.pt", "running/resume-000000003.pt"]
    assert set(filled.by_key(TRAINING)) == {"done", "bare", "running", "cut"}
    assert main(["store", "gc", "--hours", "0", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out

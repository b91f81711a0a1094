"""Copying between stores: nothing lost, nothing twice, however often it is tried."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric

from eman.cli import main
from eman.platform.errors import UserError
from eman.platform.store.copy import Copied, migrate
from eman.platform.store.records import EVALUATION, SWEEP, TRAINING
from eman.platform.store.store import Store, store_at
from eman.platform.workspace import Workspace


@pytest.fixture(autouse=True)
def stores(empty_database: Path, home: Path, tmp_path: Path) -> None:
    """Databases for :class:`Store` to begin with: in the home folder, in ``tmp_path / "copy"``, and as ``copy.db``."""
    for path in (home / "mlflow.db", tmp_path / "copy" / "mlflow.db", tmp_path / "copy.db"):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(empty_database, path)


def fill(store: Store) -> None:
    """A sweep with a finished, a failed and an interrupted training, and an evaluation."""
    sweep = store.begin(SWEEP, "s", "sweep · smoke", params={}, tags={"profile": "smoke"})
    done = store.begin(TRAINING, "a", "moco · BN / EMAN", params={"lr": 0.1}, tags={}, parent=sweep.run_id)
    for epoch in (1, 2, 3):
        done.epoch(epoch, {"train/loss": 1 / epoch, "knn/top1": math.nan if epoch == 1 else 10.0 * epoch})
    done.finish({"test/top1": 90.0})
    store.begin(TRAINING, "b", "moco · BN / BN", params={}, tags={}, parent=sweep.run_id).fail("the loss is not finite")
    cut = store.begin(TRAINING, "c", "moco · GN / GN", params={}, tags={}, parent=sweep.run_id)
    cut.epoch(1, {"train/loss": 2.0})
    cut.interrupt()
    tags = {"eman.run": "a"}
    store.begin(EVALUATION, "e", "kNN", params={}, tags=tags, parent=done.run_id).finish({"knn/top1": 33.0})
    store.client.log_text(sweep.run_id, "| a | b |", "tables/table1.md")
    sweep.finish({"sweep/seconds": 5.0}, {"mlflow.note.content": f"see /experiments/1/runs/{done.run_id}"})


def contents(store: Store) -> dict[tuple[str, str], Any]:
    """All that a store says of its runs, by kind and key, without the ids that it gave them."""
    records = store.records()
    key_of = {record.run_id: record.key for record in records}
    found = {}
    for record in records:
        run = store.client.get_run(record.run_id)
        tags = {k: v for k, v in run.data.tags.items() if k not in ("eman.copied_from", "mlflow.note.content")}
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = key_of[tags["mlflow.parentRunId"]]
        points = sorted(
            (m.key, m.step, m.timestamp, repr(m.value))
            for name in run.data.metrics
            for m in store.client.get_metric_history(record.run_id, name)
        )
        files = [item.path for item in store.client.list_artifacts(record.run_id, "tables")]
        info = (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name)
        found[record.kind, record.key] = (info, run.data.params, tags, points, files)
    assert len(found) == len(records)
    return found


def silent(_: str) -> None:
    pass


def test_a_copy_says_what_the_original_says(home: Path, tmp_path: Path) -> None:
    fill(Store(Workspace.from_environment()))
    said: list[str] = []
    done = migrate(str(home), str(tmp_path / "copy"), said.append, Workspace.from_environment())
    copy = store_at(str(tmp_path / "copy"), Workspace.from_environment())
    assert contents(copy) == contents(Store(Workspace.from_environment()))
    assert len(done.copied) == len(said) == 5
    [sweep] = copy.records(SWEEP)
    assert Path(copy.client.download_artifacts(sweep.run_id, "tables/table1.md")).read_text() == "| a | b |"
    assert (tmp_path / "copy" / "artifacts").is_dir()
    # A description's links lead to the copies.
    assert copy.by_key(TRAINING)["a"].run_id in sweep.tags["mlflow.note.content"]


def test_a_second_copy_copies_only_what_is_new(home: Path, tmp_path: Path) -> None:
    store, target = Store(Workspace.from_environment()), str(tmp_path / "copy.db")
    fill(store)
    migrate(str(home), target, silent, Workspace.from_environment())
    before = contents(store_at(target, Workspace.from_environment()))
    assert migrate(str(home), target, silent, Workspace.from_environment()) == Copied(
        unchanged=[r.name for r in _in_order(store)]
    )
    assert contents(store_at(target, Workspace.from_environment())) == before
    again = store.begin(TRAINING, "c", "moco · GN / GN", params={}, tags={})  # goes on, and ends
    again.epoch(2, {"train/loss": 1.0})
    again.finish({"test/top1": 80.0})
    store.begin(TRAINING, "d", "moco · IN / IN", params={}, tags={}).finish()
    done = migrate(str(home), target, silent, Workspace.from_environment())
    assert (done.copied, done.updated) == (["moco · IN / IN"], ["moco · GN / GN"])
    assert contents(store_at(target, Workspace.from_environment())) == contents(store)


def _in_order(store: Store) -> list[Any]:
    kinds = [SWEEP, TRAINING, EVALUATION]
    return sorted(store.records(), key=lambda record: (kinds.index(record.kind), record.start))


@pytest.mark.parametrize(
    ("call", "number"), [("update_run", 1), ("log_batch", 4), ("log_artifacts", 1), ("set_terminated", 3)]
)
def test_an_interrupted_copy_continues(
    call: str, number: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    fill(Store(Workspace.from_environment()))
    target, calls, real = str(tmp_path / "copy"), [0], getattr(mlflow.MlflowClient, call)

    def cut(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(mlflow.MlflowClient, call, cut)
        with pytest.raises(KeyboardInterrupt):
            migrate(str(home), target, silent, Workspace.from_environment())
    half = store_at(target, Workspace.from_environment())
    waited_for = [record for record in half.records() if record.kind != SWEEP and record.status == "running"]
    assert not waited_for  # nobody is at it
    migrate(str(home), target, silent, Workspace.from_environment())
    assert contents(half) == contents(Store(Workspace.from_environment()))


def test_a_run_that_is_running_is_skipped_and_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, target = Store(Workspace.from_environment()), str(tmp_path / "copy")
    sweep = store.begin(SWEEP, "s", "sweep", params={}, tags={})
    store.begin(TRAINING, "a", "first", params={}, tags={}, parent=sweep.run_id).finish({"test/top1": 1.0})
    busy = store.begin(TRAINING, "b", "second", params={}, tags={}, parent=sweep.run_id)
    assert main(["store", "migrate", str(home), target]) == 0
    printed = capsys.readouterr().out
    assert "skipped: sweep is running" in printed
    assert "skipped: second is running" in printed
    assert [record.key for record in store_at(target, Workspace.from_environment()).records()] == ["a"]
    busy.finish()
    sweep.finish()
    migrate(str(home), target, silent, Workspace.from_environment())
    assert contents(store_at(target, Workspace.from_environment())) == contents(store)  # the first has its parent now


def test_what_the_target_has_trained_itself_stays(home: Path, tmp_path: Path) -> None:
    fill(Store(Workspace.from_environment()))
    target = Store(f"sqlite:///{tmp_path / 'copy.db'}")
    target.begin(TRAINING, "a", "own", params={}, tags={}).finish({"test/top1": 91.0})
    target.begin(TRAINING, "c", "own", params={}, tags={})
    target.begin(EVALUATION, "e", "own", params={}, tags={}).fail("no memory")
    done = migrate(str(home), target.uri, silent, Workspace.from_environment())
    assert done.kept == ["moco · GN / GN"]
    assert target.by_key(TRAINING)["a"].metrics["test/top1"] == 91.0
    assert (target.by_key(EVALUATION)["e"].status, len(target.records(EVALUATION))) == ("done", 1)
    parent = target.by_key(EVALUATION)["e"].tags["mlflow.parentRunId"]
    assert parent == target.by_key(TRAINING)["a"].run_id


def test_a_copy_that_is_taken_up_in_the_target_is_not_set_back(home: Path, tmp_path: Path) -> None:
    fill(Store(Workspace.from_environment()))
    target = Store(f"sqlite:///{tmp_path / 'copy.db'}")
    migrate(str(home), target.uri, silent, Workspace.from_environment())
    target.begin(TRAINING, "c", "moco · GN / GN", params={}, tags={}).finish({"test/top1": 80.0})
    migrate(str(home), target.uri, silent, Workspace.from_environment())
    assert target.by_key(TRAINING)["c"].status == "done"


def test_a_work_folder_that_was_moved_still_has_its_artifacts(home: Path, tmp_path: Path) -> None:
    fill(Store(Workspace.from_environment()))
    moved = home.rename(tmp_path / "moved")
    migrate(str(moved), str(tmp_path / "copy"), silent, Workspace.from_environment())
    assert len(list((tmp_path / "copy").rglob("table1.md"))) == 1


def test_long_histories_arrive_whole_through_a_server(server: Any, home: Path, tmp_path: Path) -> None:
    store = Store(Workspace.from_environment())
    fill(store)
    run = store.begin(TRAINING, "long", "long", params={f"p{i}": i for i in range(120)}, tags={})
    for start in range(0, 1500, 500):
        store.client.log_batch(run.run_id, [Metric("m", float(i), 1000 + i, i) for i in range(start, start + 500)])
    run.finish()
    migrate(str(home), server.uri, silent, Workspace.from_environment())
    migrate(server.uri, str(tmp_path / "copy"), silent, Workspace.from_environment())
    assert contents(Store(server.uri)) == contents(store)
    assert contents(store_at(str(tmp_path / "copy"), Workspace.from_environment())) == contents(store)
    assert len(list((tmp_path / "copy").rglob("table1.md"))) == 1


def test_a_source_without_a_store_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "migrate", "nowhere", "x"]) == 2
    assert "nowhere holds no MLflow store" in capsys.readouterr().err


def test_a_store_is_not_copied_onto_itself(home: Path) -> None:
    fill(Store(Workspace.from_environment()))
    with pytest.raises(UserError, match="are the same store"):
        migrate(str(home), str(home / "mlflow.db"), silent, Workspace.from_environment())


def test_a_newer_store_is_neither_read_nor_written(home: Path, tmp_path: Path) -> None:
    fill(Store(Workspace.from_environment()))
    target = Store(f"sqlite:///{tmp_path / 'copy.db'}")
    target.client.set_experiment_tag(target.experiment_id, "eman.store_version", "99")
    for pair in ((str(home), target.uri), (target.uri, str(home))):
        with pytest.raises(UserError, match="newer version of eman"):
            migrate(*pair, silent, Workspace.from_environment())

"""The ledger: runs by key, no duplicates, refusals."""

import time
from pathlib import Path

import pytest

from eman.platform import tracking
from eman.platform.errors import UserError
from eman.platform.tracking import TRAINING, Store


def test_a_key_has_one_run_however_often_it_begins() -> None:
    store = Store()
    first = store.begin(TRAINING, "k", "name", params={"lr": 0.1}, tags={"method": "MoCo"})
    first.epoch(1, {"train/loss": 2.0})
    first.epoch(2, {"train/loss": 1.0})
    again = store.begin(TRAINING, "k", "name", params={"lr": 0.1}, tags={})
    assert again.run_id == first.run_id
    again.epoch(2, {"train/loss": 1.0})  # a resumed run repeats an epoch that was logged before the crash
    again.epoch(3, {"train/loss": 0.5})
    again.finish({"test/top1": 90.0})
    history = store.client.get_metric_history(first.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    record = store.by_key(TRAINING)["k"]
    assert (record.status, record.metrics["test/top1"], record.params["lr"]) == ("done", 90.0, "0.1")
    assert record.tags["eman.git"]


def test_failures_keep_their_reason_until_they_are_taken_up_again() -> None:
    store = Store()
    store.begin(TRAINING, "k", "name", params={}, tags={}).fail("the loss is not finite")
    assert (store.by_key(TRAINING)["k"].status, store.by_key(TRAINING)["k"].reason) == (
        "failed",
        "the loss is not finite",
    )
    store.begin(TRAINING, "k", "name", params={}, tags={})
    assert (store.by_key(TRAINING)["k"].status, store.by_key(TRAINING)["k"].reason) == ("running", "")


def test_a_run_that_fell_silent_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store.begin(TRAINING, "k", "name", params={}, tags={})
    assert store.by_key(TRAINING)["k"].status == "running"
    now = time.time()
    monkeypatch.setattr(tracking.time, "time", lambda: now + 1000)
    assert store.by_key(TRAINING)["k"].status == "missing"


def test_parents_are_recorded() -> None:
    store = Store()
    parent = store.begin(tracking.SWEEP, "s", "sweep", params={}, tags={})
    child = store.begin(TRAINING, "k", "run", params={}, tags={}, parent=parent.run_id)
    assert store.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert [record.kind for record in store.records()] == [TRAINING, tracking.SWEEP]


def test_a_store_of_a_newer_version_is_refused() -> None:
    store = Store()
    store.client.set_experiment_tag(store.experiment_id, "eman.store_version", "99")
    with pytest.raises(UserError, match=r"newer version of eman.*choose another EMAN_HOME"):
        Store()


def test_an_unreachable_store_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"cannot be reached") as caught:
        Store("http://user:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(UserError, match="cannot be reached"):
        Store(f"sqlite:///{path}")


def test_artifacts_lie_in_the_home_folder(home: Path) -> None:
    store = Store()
    run = store.begin(TRAINING, "k", "name", params={}, tags={})
    store.client.log_text(run.run_id, "hello", "note.txt")
    assert [p.read_text() for p in (home / "artifacts").rglob("note.txt")] == ["hello"]

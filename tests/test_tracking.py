"""The ledger: runs by key, no duplicates, refusals."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from eman.platform.errors import BusyError, UserError
from eman.platform.lock import locked
from eman.platform.store import spool
from eman.platform.store import store as tracking
from eman.platform.store.store import SWEEP, TRAINING, Store
from eman.platform.workspace import Workspace


def test_a_key_has_one_run_however_often_it_begins() -> None:
    store = Store(Workspace.from_environment())
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


@pytest.mark.parametrize("made_here", [False, True])
def test_a_run_that_its_maker_gives_up_meanwhile_is_begun_anew(
    made_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes make a run at once: the second finds that of the first, the third has taken the second's."""
    store = Store(Workspace.from_environment())
    store.begin(SWEEP, "sweep", "of the second", params={}, tags={})
    [given_up] = store.records(SWEEP)
    store.client.delete_run(given_up.run_id)
    answers = [None, given_up] if made_here else [given_up]
    ask = Store._oldest
    monkeypatch.setattr(Store, "_oldest", lambda *told: answers.pop(0) if answers else ask(*told))
    log = store.begin(SWEEP, "sweep", "of the third", params={"a": 1}, tags={})
    assert log.run_id != given_up.run_id
    assert [record.run_id for record in store.records(SWEEP)] == [log.run_id]


def test_failures_keep_their_reason_until_they_are_taken_up_again() -> None:
    store = Store(Workspace.from_environment())
    store.begin(TRAINING, "k", "name", params={}, tags={}).fail("the loss is not finite")
    assert (store.by_key(TRAINING)["k"].status, store.by_key(TRAINING)["k"].reason) == (
        "failed",
        "the loss is not finite",
    )
    store.begin(TRAINING, "k", "name", params={}, tags={})
    assert (store.by_key(TRAINING)["k"].status, store.by_key(TRAINING)["k"].reason) == ("running", "")


def test_a_run_that_fell_silent_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Workspace.from_environment())
    store.begin(TRAINING, "k", "name", params={}, tags={})
    assert store.by_key(TRAINING)["k"].status == "running"
    now = time.time()
    monkeypatch.setattr(tracking.time, "time", lambda: now + 1000)
    assert store.by_key(TRAINING)["k"].status == "missing"


def test_parents_are_recorded() -> None:
    store = Store(Workspace.from_environment())
    parent = store.begin(tracking.SWEEP, "s", "sweep", params={}, tags={})
    child = store.begin(TRAINING, "k", "run", params={}, tags={}, parent=parent.run_id)
    assert store.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert [record.kind for record in store.records()] == [TRAINING, tracking.SWEEP]


def test_a_store_of_a_newer_version_is_refused() -> None:
    store = Store(Workspace.from_environment())
    store.client.set_experiment_tag(store.experiment_id, "eman.store_version", "99")
    with pytest.raises(UserError, match=r"newer version of eman.*choose another EMAN_HOME"):
        Store(Workspace.from_environment())


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
    store = Store(Workspace.from_environment())
    run = store.begin(TRAINING, "k", "name", params={}, tags={})
    store.client.log_text(run.run_id, "hello", "note.txt")
    assert [p.read_text() for p in (home / "artifacts").rglob("note.txt")] == ["hello"]


def test_what_is_logged_while_the_store_is_away_arrives_later(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "_AWAY_SECONDS", 0.0)
    store = Store(Workspace.from_environment(store=server.uri))
    run = store.begin(TRAINING, "k", "name", params={"lr": 1}, tags={})
    other = store.begin(TRAINING, "k2", "name", params={}, tags={})
    run.epoch(1, {"train/loss": 3.0})
    server.stop()
    run.epoch(2, {"train/loss": 2.0})
    run.epoch(3, {"train/loss": 1.0})
    other.finish({"test/top1": 50.0})  # its process ends while the store is away
    assert len(spool.kept(Workspace.from_environment().spool_folder)) == 2
    server.start()
    run.epoch(4, {"train/loss": 0.5})
    history = store.client.get_metric_history(run.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert store.by_key(TRAINING)["k2"].status == "running"
    assert store.deliver() == 1
    assert store.by_key(TRAINING)["k2"].status == "done"
    assert not spool.kept(Workspace.from_environment().spool_folder)


def test_questions_wait_for_the_store_for_a_bounded_time(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("EMAN_STORE_PATIENCE", "1")
    store = Store(Workspace.from_environment(store=server.uri))
    server.stop()
    with pytest.raises(UserError, match="It was waited for 1 s"):
        store.records()
    monkeypatch.setenv("EMAN_STORE_PATIENCE", "60")
    threading.Timer(1.0, server.start).start()
    assert store.records() == []


@pytest.mark.parametrize("slow", [0.0, 1.5])
def test_of_two_processes_that_take_up_a_run_one_goes_on(
    slow: float, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(Workspace.from_environment(store=server.uri))
    store.begin(TRAINING, "k", "name", params={}, tags={}).interrupt()
    monkeypatch.setattr("socket.gethostname", lambda: threading.current_thread().name)  # each on a machine of its own
    outcomes: list[str] = []
    both = threading.Barrier(2)

    def take(delay: float) -> None:
        mine = Store(Workspace.from_environment(store=server.uri))
        update = mine.client.update_run

        def late(*args: Any, **kwargs: Any) -> Any:  # between reading that the run is free and writing that it is not
            both.wait()
            time.sleep(delay)
            return update(*args, **kwargs)

        mine.client.update_run = late  # type: ignore[method-assign]
        try:
            mine.begin(TRAINING, "k", "name", params={}, tags={})
            outcomes.append("mine")
        except BusyError:
            outcomes.append("busy")

    threads = [threading.Thread(target=take, args=(delay,)) for delay in (0.0, slow)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["busy", "mine"]
    assert len(store.records()) == 1


def test_a_run_that_is_done_is_begun_again_only_for_what_its_owner_has_done() -> None:
    store = Store(Workspace.from_environment())
    store.begin(TRAINING, "k", "name", params={}, tags={}).finish()
    [done] = store.records(TRAINING)
    with pytest.raises(BusyError, match="done already"):
        store.begin(TRAINING, "k", "name", params={}, tags={})
    store.begin(TRAINING, "k", "name", params={}, tags={}, again=done.tags["eman.owner"]).finish()
    with pytest.raises(BusyError, match="done already"):  # who did it again is another one
        store.begin(TRAINING, "k", "name", params={}, tags={}, again=done.tags["eman.owner"])


def test_a_run_on_another_host_is_left_alone_while_its_heart_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Workspace.from_environment())
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(tracking.socket, "gethostname", lambda: "elsewhere")
        store.begin(TRAINING, "k", "name", params={}, tags={})
    with pytest.raises(BusyError, match="running on elsewhere"):
        store.begin(TRAINING, "k", "name", params={}, tags={})
    now = time.time()
    monkeypatch.setattr(tracking.time, "time", lambda: now + 1000)
    store.begin(TRAINING, "k", "name", params={}, tags={})


def test_locks_are_exclusive_and_die_with_their_holder(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as first, locked(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    code = "import sys, time; from pathlib import Path; from eman.platform.lock import locked\n"
    code += "with locked(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    with locked(tmp_path / "lock") as mine:
        assert not mine
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked(tmp_path / "lock") as mine:
        assert mine

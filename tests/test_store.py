"""The store: runs by key, one process at a run, true states, and what happens in bad surroundings."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from eman.cli import main
from eman.platform.errors import BusyError, UserError
from eman.platform.output import locked
from eman.platform.store import claims, records, spool
from eman.platform.store.records import EVALUATION, SWEEP, SWEEP_ID, TRAINING, Record
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.platform.workspace import Settings, Workspace

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(store_file: Path) -> Store:
    return Store(Workspace.from_environment())


@pytest.fixture
def of_a_team(server: Any) -> Store:
    return Store(Workspace.from_environment(store=server.uri))


def of_server(uri: str, patience: float = 300.0) -> Store:
    return Store(replace(Workspace.from_environment(store=uri), settings=Settings(store_patience=patience)))


def begin(store: Store, key: str = "k", kind: str = TRAINING, **fields: Any) -> RunLog:
    return store.begin(kind, key, "name", **{"params": {}, "tags": {}, **fields})


def one(store: Store) -> Record:
    [record] = store.records()
    return record


def forward(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock by which heartbeats are read run ahead."""
    now = time.time()
    monkeypatch.setattr(records.time, "time", lambda: now + seconds)


# One run a key --------------------------------------------------------------------------------------------------------


def test_a_key_has_one_run_however_often_it_begins(store: Store) -> None:
    first = begin(store, params={"lr": 0.1}, tags={"method": "MoCo"})
    first.epoch(1, {"train/loss": 2.0})
    first.epoch(2, {"train/loss": 1.0})
    again = begin(store, params={"lr": 0.1})
    assert again.run_id == first.run_id
    again.epoch(2, {"train/loss": 1.0})  # a resumed run repeats an epoch that was logged before the crash
    again.epoch(3, {"train/loss": 0.5})
    again.finish({"test/top1": 90.0})
    assert [(p.step, p.value) for p in store.history(first.run_id, "train/loss")] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    record = store.by_key(TRAINING)["k"]
    assert (record.status, record.metrics["test/top1"], record.params) == ("done", 90.0, {"lr": "0.1"})
    assert record.tags["eman.git"]


@pytest.mark.parametrize("kind", [SWEEP, TRAINING])
def test_a_run_that_two_processes_make_at_once_is_one_run(
    kind: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find that there is none, and both make one."""
    older = begin(store, kind=kind)
    answers = [None]
    ask = claims.oldest
    monkeypatch.setattr(claims, "oldest", lambda *asked: answers.pop() if answers else ask(*asked))
    if kind == SWEEP:  # launches share it
        assert begin(store, kind=kind).run_id == older.run_id
    else:
        with pytest.raises(BusyError, match="another process has begun"):
            begin(store, kind=kind)
    assert one(store).run_id == older.run_id


def test_a_run_that_its_maker_deletes_meanwhile_is_made_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third process sees the second's run, which the second gives up for the first's."""
    begin(store, kind=SWEEP)
    given_up = one(store)
    store.client.delete_run(given_up.run_id)
    answers = [given_up]
    ask = claims.oldest
    monkeypatch.setattr(claims, "oldest", lambda *asked: answers.pop() if answers else ask(*asked))
    assert begin(store, kind=SWEEP, params={"a": 1}).run_id == one(store).run_id != given_up.run_id


def test_parents_are_recorded(store: Store) -> None:
    parent = begin(store, "s", SWEEP)
    child = begin(store, parent=parent.run_id)
    assert store.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert {record.kind for record in store.records()} == {TRAINING, SWEEP}


# Who is running a run -------------------------------------------------------------------------------------------------


def test_of_processes_that_claim_a_run_at_once_one_goes_on(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On hosts of their own, all having seen that it is free."""
    begin(of_server(server.uri)).interrupt()
    monkeypatch.setattr("socket.gethostname", lambda: threading.current_thread().name)
    outcomes: list[str] = []
    together = threading.Barrier(3)
    check = claims._check_free

    def checked(*asked: Any) -> None:
        check(*asked)
        together.wait()

    monkeypatch.setattr(claims, "_check_free", checked)

    def take() -> None:
        try:
            begin(of_server(server.uri))
            outcomes.append("mine")
        except BusyError:
            outcomes.append("busy")

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["busy", "busy", "mine"]
    assert len(one(of_server(server.uri)).claims) == 2


def test_a_run_that_is_done_is_claimed_again_only_for_what_its_owner_has_done(store: Store) -> None:
    begin(store).finish()
    owner = one(store).owner
    with pytest.raises(BusyError, match="done already"):
        begin(store)
    begin(store, previous_owner=owner).finish()
    with pytest.raises(BusyError, match="done already"):  # another owner has done it again
        begin(store, previous_owner=owner)


def test_a_run_on_another_host_is_left_alone_until_it_is_silent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("socket.gethostname", lambda: "elsewhere")
        begin(store)
    with pytest.raises(BusyError, match="running on elsewhere"):
        begin(store)
    forward(monkeypatch, 1000)
    begin(store)
    assert one(store).host != "elsewhere"


def test_a_run_whose_process_died_on_this_host_is_claimed_at_once(store: Store) -> None:
    begin(store)
    begin(store)
    assert (one(store).status, len(one(store).claims)) == ("running", 2)


def test_locks_are_exclusive_and_die_with_their_holder(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as first, locked(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    code = "import sys, time; from pathlib import Path; from eman.platform.output import locked\n"
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


# States ---------------------------------------------------------------------------------------------------------------


def test_a_failure_keeps_its_reason_until_the_run_is_claimed_again(store: Store) -> None:
    begin(store).fail("the loss is not finite")
    assert (one(store).status, one(store).reason) == ("failed", "the loss is not finite")
    begin(store)
    assert (one(store).status, one(store).reason) == ("running", "")


def test_failures_are_counted_within_a_launch(store: Store) -> None:
    for launch, failures in (("first", 1), ("first", 2), ("second", 1), ("second", 2)):
        begin(store, tags={"eman.launch": launch}).fail("no")
        assert (one(store).launch, one(store).failures) == (launch, failures)


@pytest.mark.parametrize("where", ["store", "of_a_team"])
def test_a_run_that_fell_silent_is_not_running_in_mlflow_once_anybody_looks(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Store = request.getfixturevalue(where)
    sweep, run = begin(store, "s", SWEEP), begin(store)
    assert store.settle_lost() == 0
    assert {record.status for record in store.records()} == {"running"}
    forward(monkeypatch, 1000)
    assert {record.status for record in store.records()} == {"missing"}
    assert store.settle_lost() == 2
    for run_id in (sweep.run_id, run.run_id):
        info = store.client.get_run(run_id).info
        assert info.status == "KILLED"
        assert info.end_time < 1000 * (time.time() - 900)  # when it was last heard of
    assert store.settle_lost() == 0


@pytest.mark.parametrize(
    "command", ["status", "runs list", "table 1 --profile smoke", "figure 3 --out f.png", "runs show k"]
)
def test_every_command_that_reads_marks_lost_runs(
    command: str, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run = begin(store)
    forward(monkeypatch, 1000)
    main(command.split())
    assert store.client.get_run(run.run_id).info.status == "KILLED"


def test_a_run_that_was_taken_for_lost_and_goes_on_is_running(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(store)
    with monkeypatch.context() as later:
        forward(later, 1000)
        store.settle_lost()
    assert one(store).status == "missing" or one(store).heartbeat <= one(store).end + 1
    forward(monkeypatch, 1010)
    run.epoch(1, {"train/loss": 1.0})
    assert one(store).status == "running"
    run.finish()
    assert one(store).status == "done"


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(store: Store) -> Store:
    for number in range(12):
        run = begin(store, f"k{number}", params={"number": number}, tags={"profile": "smoke"})
        run.epoch(1, {"train/loss": float("nan") if number == 3 else number})
        run.epoch(2, {"train/loss": 1.0 + number})
        run.finish()
    begin(store, "k1", EVALUATION).fail("no")
    return store


def test_reading_the_file_gives_what_mlflow_gives(filled: Store) -> None:
    from eman.platform.store.connection import record_of

    runs = filled.client.search_runs([filled.experiment_id])
    assert repr(sorted(filled.records(), key=lambda r: r.run_id)) == repr(
        sorted((record_of(run) for run in runs), key=lambda r: r.run_id)
    )
    [third] = filled.records(TRAINING, "k3")
    history = filled.client.get_metric_history(third.run_id, "train/loss")
    points = filled.history(third.run_id, "train/loss")
    assert repr([(p.step, p.value) for p in points]) == repr([(m.step, m.value) for m in history])


def test_reading_a_server_gives_what_mlflow_gives(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Workspace.from_environment(store=server.uri))
    assert store.records() == store.history("x", "y") == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_AWS_SIGV4", "false")  # what this module does not know is left to MLflow
        through_mlflow = Store(Workspace.from_environment(store=server.uri))
    for number in range(12):
        run = begin(store, f"k{number}", params={"number": number}, tags={SWEEP_ID: f"s{number % 2}"})
        run.epoch(1, {"train/loss": float("nan") if number == 3 else number})
        run.finish() if number % 2 else run.fail('it\'s "quoted", ä')
    begin(store, "k1", EVALUATION, parent=run.run_id)
    for read in (
        lambda store: store.records(),
        lambda store: store.records(TRAINING, "k3"),
        lambda store: store.records(status="RUNNING"),
        lambda store: store.records(parent=run.run_id),
        lambda store: store.records(limit=5),
        lambda store: store.by_key(TRAINING, [*(f"k{number}" for number in range(11)), "nothing"]),
        lambda store: store.by_prefix(TRAINING, "k1"),
        lambda store: store.history(run.run_id, "train/loss"),
    ):
        assert repr(read(store)) == repr(read(through_mlflow))
    assert len(store.by_key(TRAINING, [*(f"k{number}" for number in range(11)), "nothing"])) == 11


def test_looking_up_runs_of_a_sweep_on_a_server_takes_few_requests(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, request = [], requests.Session.request
    store = Store(Workspace.from_environment(store=server.uri))
    keys = [f"k{number}" for number in range(30)]
    for key in keys:
        begin(store, key, tags={SWEEP_ID: "s"})
    reader = Store(Workspace.from_environment(store=server.uri))
    monkeypatch.setattr(requests.Session, "request", lambda *a, **b: asked.append(a) or request(*a, **b))
    assert set(reader.by_key(TRAINING, keys)) == set(keys)
    assert 0 < len(asked) < 12


@pytest.mark.parametrize("through_mlflow", [False, True])
def test_runs_are_looked_up_by_their_keys(filled: Store, through_mlflow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if through_mlflow:  # as where the file's tables are not as expected
        with sqlite3.connect(filled.workspace.local / "mlflow.db") as database:
            database.execute("SELECT 1")
        monkeypatch.setattr("eman.platform.store.sqlite.SqliteReader.experiment_tags", _unknown_layout)
    assert set(filled.by_key(TRAINING, ["k1", "k3", "nothing"])) == {"k1", "k3"}
    assert set(filled.by_key(TRAINING, [])) == set()
    assert set(filled.by_key(EVALUATION)) == {"k1"}
    assert set(filled.by_prefix(TRAINING, "k")) == set(filled.by_key(TRAINING))
    assert set(filled.by_prefix(TRAINING, "k3")) == {"k3"}
    for nothing in ("3", "K", "_", "%", "*", "k'"):
        assert set(filled.by_prefix(TRAINING, nothing)) == set()
    assert len(filled.records()) == 13
    assert [r.run_id for r in filled.records(limit=4)] == [r.run_id for r in filled.records()][:4]


def _unknown_layout(*_: Any) -> None:
    from eman.platform.store.sqlite import UnknownLayout

    raise UnknownLayout("no such table: runs")


def test_reading_needs_neither_mlflow_nor_a_writable_folder(filled: Store) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from eman.platform.store.store import Store\nfrom eman.platform.workspace import Workspace\n"
        "os.getuid() or os.setuid(65534)\n"  # nothing is closed to root
        "store = Store(Workspace(Path(sys.argv[1])))\n"
        "print(len(store.records()), store.settle_lost(), 'mlflow' in sys.modules, 'torch' in sys.modules)"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        home = Path(shutil.copytree(filled.workspace.local, Path(folder) / "home"))
        for lock in home.glob("*.lock"):
            lock.unlink()
        (home / "mlflow.db").chmod(0o444)
        Path(folder).chmod(0o755)
        home.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", code, str(home)], check=False, capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        home.chmod(0o755)
        assert done.stdout.split() == ["13", "0", "False", "False"], done.stderr
        assert sorted(path.name for path in home.iterdir()) == ["mlflow.db"]


def test_a_store_that_does_not_exist_reads_as_empty_and_is_not_made(tmp_path: Path) -> None:
    store = Store(Workspace(tmp_path / "none"))
    assert store.records() == store.history("x", "y") == []
    assert store.by_key(TRAINING) == {}
    assert store.deliver() == store.settle_lost() == 0
    assert not (tmp_path / "none").exists()


def test_artifacts_lie_in_the_home_folder(store: Store, home: Path) -> None:
    store.client.log_text(begin(store).run_id, "hello", "note.txt")
    assert [p.read_text() for p in (home / "artifacts").rglob("note.txt")] == ["hello"]


# Bad surroundings -----------------------------------------------------------------------------------------------------


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with one line."""
    assert main(list(arguments)) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("eman: ")
    assert said.err.count("\n") == 1, said.err
    return said.err


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "mlruns", "ftp://x/y"])
def test_an_address_that_keeps_nothing_is_refused(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert f"--store {uri}" in refused(capfd, "--store", uri, "status")


def test_a_folder_in_place_of_the_database_is_refused(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "mlflow.db").mkdir()
    assert "is a folder" in refused(capfd, "status")
    with pytest.raises(UserError, match="is a folder"):
        begin(Store(Workspace.from_environment()))


def test_a_file_that_is_no_database_is_refused(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "mlflow.db").write_bytes(b"this is not a database" * 100)
    assert "is not a SQLite database" in refused(capfd, "status")


def test_a_home_that_is_a_file_is_refused(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "file").write_text("")
    assert "is a file; give a folder" in refused(capfd, "--home", str(home / "file"), "status")
    with pytest.raises(UserError, match="give another --home"):
        begin(Store(Workspace(home / "file" / "x")))
    with pytest.raises(UserError, match="give a writable --home"), locked(home / "file" / "x"):
        pytest.fail("nothing can be locked there")


@pytest.mark.parametrize(("version", "said"), [("99", "a newer version"), ("1", "an older"), ("x", "a newer version")])
def test_a_store_of_another_version_is_refused(
    version: str, said: str, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    store.client.set_experiment_tag(store.experiment_id, "eman.store_version", version)
    assert said in refused(capfd, "status")
    with pytest.raises(UserError, match=rf"{said}.*choose another EMAN_HOME"):
        begin(Store(Workspace.from_environment()))


def test_a_login_in_a_servers_address_is_refused_and_not_repeated(capfd: pytest.CaptureFixture[str]) -> None:
    said = refused(capfd, "--store", "http://user:secret@127.0.0.1:9", "status")
    assert "http://...@127.0.0.1:9 holds a login" in said
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert "secret" not in said


def test_a_database_that_is_away_is_named_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    said = refused(capfd, "--store", "postgresql://me:secret@127.0.0.1:9/x", "status")
    assert "postgresql://...@127.0.0.1:9/x cannot be reached" in said
    assert "secret" not in said


def test_a_tag_that_is_no_number_does_no_harm(store: Store) -> None:
    run = begin(store)
    for name in ("eman.heartbeat", "eman.failures", "eman.share"):
        store.client.set_tag(run.run_id, name, "many")
    assert one(store).status == "missing"
    run.fail("no")
    assert one(store).failures == 1


@pytest.mark.parametrize("name", ["EMAN_STORE_PATIENCE", "EMAN_MOST_CORRUPT", "EMAN_STORAGE_PATIENCE"])
@pytest.mark.parametrize("value", ["x", "-1", "nan", "inf"])
def test_a_variable_that_is_no_number_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert f"{name} is '{value}'" in refused(capfd, "status")


# A store that is away -------------------------------------------------------------------------------------------------


def test_what_is_logged_while_the_store_is_away_arrives_later(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = of_server(server.uri)
    run = RunLog(store, begin(store, params={"lr": 1}).run_id, away_seconds=0.0)
    other = begin(store, "k2")
    run.epoch(1, {"train/loss": 3.0})
    server.stop()
    run.epoch(2, {"train/loss": 2.0})
    run.epoch(3, {"train/loss": 1.0})
    other.finish({"test/top1": 50.0})  # its process ends while the store is away
    assert len(spool.pending(store)) == 2
    server.start()
    run.epoch(4, {"train/loss": 0.5})
    points = store.history(run.run_id, "train/loss")
    assert [(p.step, p.value) for p in points] == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert store.by_key(TRAINING)["k2"].status == "running"
    assert store.deliver() == 1
    assert store.by_key(TRAINING)["k2"].status == "done"
    assert not spool.pending(store)


def test_questions_wait_for_the_store_for_a_bounded_time(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    short, long = of_server(server.uri, 1.0), of_server(server.uri, 60.0)
    assert short.records() == long.records() == []
    server.stop()
    with pytest.raises(UserError, match="Gave up after 1 s"):
        short.records()
    threading.Timer(1.0, server.start).start()
    assert long.records() == []


@pytest.mark.parametrize(
    "content", ["garbage\n", "[1, 2]\n", '{"metrics": []}\n', "\xff\xfe\n", json.dumps({"metrics": 3, "params": {}})]
)
def test_a_spool_of_garbage_is_dropped(content: str, store: Store) -> None:
    folder = store.workspace.spool_folder
    folder.mkdir()
    (folder / f"{begin(store).run_id}.jsonl").write_text(content, encoding="latin-1")
    store.deliver()
    assert not spool.pending(store)


def test_a_spool_of_an_unknown_run_is_set_aside(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    folder = store.workspace.spool_folder
    unknown = spool.Spool(store, "0" * 32)
    unknown.append({"metrics": [], "params": {}, "tags": {"a": "b"}, "inputs": [], "status": None})
    begin(store)
    assert store.deliver() == 0
    assert "set aside" in caplog.text
    assert os.listdir(folder)
    assert not spool.pending(store)

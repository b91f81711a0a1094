"""Sweeps at profile smoke on a real Ray cluster with a real store: tables, reuse, interruptions, several launches."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from eman.cli import main
from eman.evaluation.results.values import Results, values_of
from eman.platform.store.records import EVALUATION, SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import plan
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.failures import reason_of
from eman.sweeps.run.interrupt import Interruption
from eman.sweeps.run.todo import find_todo

EMAN = [sys.executable, "-m", "eman"]


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*EMAN, *arguments],
        env={**os.environ, "EMAN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_cluster_that_does_not_answer_leaves_nothing_in_the_store(
    store_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "grid", "--method", "moco", "--scheme", "bn", "--profile", "smoke"]
    assert main([*words, "--address", "127.0.0.1:9"]) == 2
    told = capsys.readouterr().err
    assert "joining Ray at 127.0.0.1:9" in told
    assert "no Ray cluster answers there" in told
    assert Store(Workspace.from_environment()).records() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt_once_and_are_remembered(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == before  # a second one has its usual effect
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


def test_a_new_launch_tries_failed_runs_again(store_file: Path) -> None:
    store = Store(Workspace.from_environment())
    sweep = plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["bn", "eman"]))
    first, second = sweep.trainings
    for _ in range(5):  # in earlier launches
        store.begin(TRAINING, first, "first", params={}, tags={}).fail("the disk was full")
    results = Results.read(store, sweep.tables)

    def todo(failures: dict[str, int]) -> list[str]:
        return [spec.key for spec in find_todo(sweep, results, failures, 1, store.workspace).trainings]

    assert todo({}) == [first, second]
    assert todo({first: 1}) == [first, second]
    assert todo({first: 2}) == [second]


def test_a_collapsed_run_is_a_result_until_the_rule_changes(store_file: Path) -> None:
    store = Store(Workspace.from_environment())
    sweep, lenient = (
        plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["bn"], overrides={"collapse_bound": bound}))
        for bound in (0.004, 0.001)
    )
    [(key, spec)] = sweep.trainings.items()
    tags = {"eman.collapse_rule": spec.execution.collapse_rule}
    store.begin(TRAINING, key, "run", params={}, tags=tags).fail("collapsed at epoch 3", final=True)
    results = Results.read(store, sweep.tables)
    assert find_todo(sweep, results, {}, 1, store.workspace).open == 0
    assert [value.text() for value in values_of(sweep.tables[0], results)] == ["failed"]
    assert find_todo(lenient, results, {}, 1, store.workspace).trainings == (lenient.trainings[key],)


def test_a_finished_run_without_its_networks_is_trained_again(store_file: Path) -> None:
    store = Store(Workspace.from_environment())
    sweep = plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["bn"]))
    [key] = sweep.trainings
    store.begin(TRAINING, key, "run", params={}, tags={}).finish({})
    todo = find_todo(sweep, Results.read(store, sweep.tables), {}, 1, store.workspace)
    assert ([spec.key for spec in todo.trainings], todo.evaluations) == ([key], ())
    assert todo.previous_owners[key] == store.by_key(TRAINING)[key].owner
    networks = store.workspace.run_folder(key) / "last.pt"
    networks.write(b"")
    todo = find_todo(sweep, Results.read(store, sweep.tables), {}, 1, store.workspace)
    assert (todo.trainings, len(todo.evaluations)) == ((), len(sweep.evaluations))


def test_a_full_disk_is_named_as_the_reason() -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 448 vs 342")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert reason_of(error).startswith("the disk is full")


@pytest.mark.slow
def test_smoke_sweep_fills_both_tables(swept: Path) -> None:
    done = run("table", "1", "8", "--profile", "smoke", "--format", "csv", "--out", str(swept / "t.csv"), home=swept)
    assert "t.csv" in done.stdout
    frame = pd.read_csv(swept / "t.csv")
    assert len(frame) == 46
    assert set(frame["status"]) == {"done"}
    assert frame["value"].between(5, 100).all()
    shared = frame[frame["row"].isin(["BN / BN", "BN / EMAN"])].groupby(["row", "column"])["value"].nunique()
    assert (shared == 1).all()  # Table 1 and Table 8 print the same run


@pytest.mark.slow
def test_the_store_tells_the_whole_story(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAN_HOME", str(swept))
    store = Store(Workspace.from_environment())
    mlflow.set_tracking_uri(store.uri)  # load_table asks for it
    trainings, sweeps = store.records(TRAINING), store.records(SWEEP)
    assert len(trainings) == 35
    assert len(store.records(EVALUATION)) == 66
    assert [s.status for s in sweeps] == ["done"]
    assert {t.tags["mlflow.parentRunId"] for t in trainings} == {sweeps[0].run_id}
    by_scheme = {(t.tags["method"], t.tags["scheme"]): t for t in trainings}
    assert by_scheme["BYOL", "SyncBN / SyncBN"].tags["eman.workers"] == "2"  # through TorchTrainer
    for t in trainings:
        assert {
            "train/loss",
            "train/images_per_second",
            "train/feature_std",
            "knn/top1",
            "test/knn_top1",
            "test/knn_top1_best",
            "train/seconds",
        } <= set(t.metrics)
        assert t.params["seed"] == "0"
        assert len(store.client.get_metric_history(t.run_id, "train/loss")) == 2
    moco = by_scheme["MoCo", "BN / EMAN"]
    assert 0 <= moco.metrics["linear/10pct_top1"] <= 100
    chosen = float(moco.tags["linear/10pct_lr"])  # no metric, which MLflow would draw as a curve
    tried = [r for r in store.records(EVALUATION) if r.tags["eman.run"] == moco.key]
    assert sorted(float(r.params["lr"]) for r in tried) == list(SMOKE.linear_lr["moco"])
    held_out = {float(r.params["lr"]): r.metrics["linear/10pct_held_out_top1"] for r in tried}
    assert chosen == max(SMOKE.linear_lr["moco"], key=lambda rate: held_out[rate])  # of several, the grid's first
    fixmatch = by_scheme["FixMatch", "BN / EMAN"]
    assert {
        "test/top1",
        "test/top1_best",
        "test/teacher_top1",
        "train/mask_rate",
        "train/pseudo_label_accuracy",
    } <= set(fixmatch.metrics)
    names = {a.path for a in store.client.list_artifacts(sweeps[0].run_id)}
    assert {"table1.md", "table8.md", "tables.csv", "tables.json", "claims.md", "claims.csv", "figure3.png"} <= names
    assert len(store.client.load_table(store.experiment_id, "tables.json", [sweeps[0].run_id])) == 46


@pytest.mark.slow
def test_the_other_tables_stand_on_the_same_networks(swept: Path, tmp_path: Path) -> None:
    home = shutil.copytree(swept, tmp_path / "home")
    names = [f"table{number}" for number in (2, 3, 4, 5, 6, 7)]
    sweep = plan(SweepRequest(tables=names, profile="smoke"))
    known = plan(SweepRequest(tables=["table1", "table8"], profile="smoke"))
    new = sweep.trainings.keys() - known.trainings.keys()
    evaluations = sweep.evaluations.keys() - known.evaluations.keys()
    parent = SMOKE.run("moco", "eman").key
    shutil.rmtree(home / "runs" / parent)  # FixMatch starts from it and it is evaluated, so it is trained again
    done = run("sweep", *names, "--profile", "smoke", home=home)
    reused = len(sweep.trainings) - len(new) - 1
    assert f"{len(new) + 1} trained, {reused} reused, {len(evaluations)} evaluations, 0 failed" in done.stderr
    frame = pd.read_csv(io.StringIO(run("table", *names, "--profile", "smoke", "--format", "csv", home=home).stdout))
    assert set(frame["status"]) == {"done", "published"}
    assert frame.loc[frame["status"] == "done", "value"].between(0, 100).all()
    value = frame.set_index(["table", "row", "column"])["value"]
    for column in ("1% labels top-1", "10% labels top-5"):
        assert value["table7", "FixMatch-EMAN", column] == value["table6", "EMAN from MoCo-EMAN, 3×", column]
        assert (
            value["table3", "MoCo-EMAN (res50, 800 epochs)", column]
            == value["table2", "MoCo-EMAN (800) [finetune]", column]
        )
    assert (
        value["table3", "BYOL-EMAN (res50, 200 epochs)", "1% labels top-1"]
        == value["table2", "BYOL-EMAN [linear]", "1% labels top-1"]
    )
    percent = frame[frame["table"].isin(["table2", "table3", "table6", "table7"])]
    top1, top5 = (percent[percent["column"].str.endswith(f"top-{top}")]["value"].dropna().to_numpy() for top in (1, 5))
    assert (top1 <= top5).all()
    records = Store(f"sqlite:///{home / 'mlflow.db'}").by_key(TRAINING)
    children = [record for record in records.values() if "init" in record.params]
    assert len(children) == 10
    for record in children:
        assert records[record.params["init"]].end < record.start
    measured = [record for record in records.values() if "knn/test_top1" in record.metrics]
    assert measured
    for record in measured:  # Table 4's kNN is what the run itself has measured on the test images
        assert record.metrics["knn/test_top1"] == record.metrics["test/knn_top1"]


@pytest.mark.slow
def test_the_teacher_and_the_best_epoch_can_be_asked_for(swept: Path, tmp_path: Path) -> None:
    home = shutil.copytree(swept, tmp_path / "home")
    grid = ["grid", "--method", "fixmatch,moco", "--scheme", "bn,eman", "--profile", "smoke"]
    asked = ["--network", "teacher", "--selection", "best"]
    done = run("sweep", *grid, *asked, home=home)
    assert "0 trained, 4 reused, 6 evaluations, 0 failed" in done.stderr
    frames = [
        pd.read_csv(io.StringIO(run("table", *grid, "--format", "csv", *flags, home=home).stdout))
        for flags in ([], asked)
    ]
    assert set(frames[1]["status"]) == {"done"}
    assert not (frames[0]["value"] == frames[1]["value"]).all()
    text = run("table", *grid, *asked, home=home).stdout
    assert "Network: the teacher after the best epoch (the student where a run has no separate teacher)" in text
    store = Store(f"sqlite:///{home / 'mlflow.db'}")
    fixmatch = store.by_key(TRAINING)[SMOKE.run("fixmatch", "eman").key]
    row = (frames[1]["row"] == "BN / EMAN") & (frames[1]["column"] == "FixMatch")
    assert frames[1].loc[row, "value"].item() == pytest.approx(fixmatch.metrics["test/teacher_top1_best"], abs=1e-4)


@pytest.mark.slow
def test_given_again_it_trains_nothing(swept: Path) -> None:
    started = time.monotonic()
    done = run("sweep", "table1", "table8", "--profile", "smoke", home=swept)
    assert "0 trained, 35 reused, 0 evaluations" in done.stderr
    assert "Table 8." in done.stdout
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_a_run_in_the_foreground_is_the_sweeps_run(swept: Path) -> None:
    assert "is already done" in run("train", "byol", "--scheme", "eman", home=swept).stdout


@pytest.mark.slow
def test_status_counts_what_is_there(swept: Path) -> None:
    lines = run("status", home=swept).stdout
    assert "table1 + table8 · smoke: done" in lines
    assert "MoCo       done      12" in lines


def launch(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command in a session of its own."""
    return subprocess.Popen(
        [*EMAN, *arguments],
        env={**os.environ, "EMAN_HOME": str(home)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
def test_an_interrupted_sweep_keeps_what_is_finished_and_two_launches_share_the_rest(tmp_path: Path) -> None:
    schemes = "bn,eman,gn,ln,in,shufflebn"
    grid = ["sweep", "grid", "--method", "moco", "--scheme", schemes, "--profile", "smoke"]
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    finished: set[str] = set()
    for number in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C, a closed terminal
        interrupted = launch(tmp_path, *grid)
        assert interrupted.stderr is not None
        for line in interrupted.stderr:
            if line.startswith("["):
                interrupted.send_signal(number)
                break
        _, rest = interrupted.communicate(timeout=120)
        assert interrupted.returncode == 2
        assert "the same command continues" in rest
        assert [record.status for record in store.records(SWEEP)] == ["missing"]
        trainings = store.records(TRAINING)
        assert {record.status for record in trainings} <= {"done", "missing"}
        done = {record.run_id for record in trainings if record.status == "done"}
        assert finished < done
        finished = done

    launches = [launch(tmp_path, *grid) for _ in range(2)]
    ended = [launched.communicate(timeout=300) for launched in launches]
    assert [launched.returncode for launched in launches] == [0, 0], ended
    trained = [int(err.split(" trained, ")[0].split()[-1]) for _, err in ended]
    assert sum(trained) == 6 - len(finished)
    assert ended[0][0] == ended[1][0]  # both print the whole table
    assert "missing" not in ended[0][0]
    for kind, count in ((TRAINING, 6), (EVALUATION, 18)):
        assert [record.status for record in store.records(kind)] == ["done"] * count
    assert finished <= {record.run_id for record in store.records(TRAINING)}
    for record in store.records(TRAINING):
        assert [point.step for point in store.history(record.run_id, "train/loss")] == [1, 2]


@pytest.mark.slow
def test_workers_may_be_a_range(tmp_path: Path) -> None:
    arguments = ["sweep", "grid", "--method", "byol", "--scheme", "syncbn", "--profile", "smoke"]
    done = run(*arguments, "--workers", "1-2", home=tmp_path)
    assert "1 trained, 0 reused, 3 evaluations, 0 failed" in done.stderr
    record = Store(f"sqlite:///{tmp_path / 'mlflow.db'}").records(TRAINING)[0]
    assert record.tags["eman.workers"] == "(1, 2)"

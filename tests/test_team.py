"""A store for a team: MLflow's server over PostgreSQL, with many writers, and a server that dies meanwhile."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eman.cli import main
from eman.platform.store.copy import migrate
from eman.platform.store.records import EVALUATION, SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.request import SweepRequest

WRITERS, EPOCHS = 8, 30

#: Forked after the imports: eight times the imports would take longer than the test.
WRITER = """
import os, sys, time
from eman.platform.store.records import SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
import mlflow.store.tracking.rest_store

uri, writers, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def work(number):
    store = Store(Workspace.from_environment(store=uri), patient=True)
    sweep = store.begin(SWEEP, "sweep", "sweep", params={}, tags={})
    params = {"number": number}
    run = store.begin(TRAINING, f"key{number}", f"run {number}", params=params, tags={}, parent=sweep.run_id)
    for epoch in range(1, epochs + 1):
        run.epoch(epoch, {"train/loss": number + 1 / epoch, "knn/top1": float(epoch)})
        time.sleep(0.25)
    run.finish({"test/top1": float(number)})

children = []
for number in range(writers):
    child = os.fork()
    if child == 0:
        work(number)
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def fill(store: Store, sweep: Sweep) -> None:
    """Results as a sweep would leave them, of numbers that the keys decide; some runs have failed, some are missing."""
    parent = store.begin(SWEEP, sweep.key, sweep.name, params={}, tags={})
    for number, (key, spec) in enumerate(sweep.trainings.items()):
        run = store.begin(TRAINING, key, sweep.titles[key], params=spec.flat(), tags={}, parent=parent.run_id)
        if number % 7 == 3:
            run.fail("the loss is not finite in epoch 1")
        elif number % 7 == 5:
            run.interrupt()
        else:
            run.finish({"test/top1": int(key, 16) % 10007 / 101, "test/teacher_top1": 1.0})
    for key, evaluation in sweep.evaluations.items():
        value = int(key, 16) % 9973 / 103
        wanted = [item for item in sweep.wanted if evaluation in item.evaluations]
        metrics = {name: value for item in wanted for name in (item.metric, item.select_by) if name}
        store.begin(EVALUATION, key, key, params=evaluation.flat(), tags={}).finish(metrics)
    parent.finish()


@pytest.mark.slow
def test_eight_writers_lose_and_repeat_nothing_though_the_server_is_killed(
    postgres: str, make_server: Callable[[str], Any], home: Path, tmp_path: Path
) -> None:
    server = make_server(postgres)
    writers = subprocess.Popen([sys.executable, "-c", WRITER, server.uri, str(WRITERS), str(EPOCHS)])
    try:
        store = Store(Workspace.from_environment(store=server.uri), patient=True)
        deadline = time.monotonic() + 120
        while True:  # until all are at it, and none is done
            assert time.monotonic() < deadline
            losses = [record.metrics.get("train/loss") for record in store.records(TRAINING)]
            if len(losses) == WRITERS and None not in losses:
                break
            time.sleep(0.2)
        assert all(record.status == "running" for record in store.records(TRAINING))
        server.stop()
        time.sleep(1.0)
        server.start()
        assert writers.wait(timeout=240) == 0
    finally:
        writers.kill()
    store.deliver()
    records = store.records(TRAINING)
    assert sorted((r.key, r.status) for r in records) == [(f"key{i}", "done") for i in range(WRITERS)]
    assert len(store.records(SWEEP)) == 1
    for record in records:
        number = int(record.params["number"])
        assert record.metrics["test/top1"] == number
        for name, value in (("train/loss", lambda epoch: number + 1 / epoch), ("knn/top1", float)):  # noqa: B023
            history = store.client.get_metric_history(record.run_id, name)
            assert [(m.step, m.value) for m in history] == [(e, value(e)) for e in range(1, EPOCHS + 1)]


@pytest.mark.slow
def test_tables_from_postgresql_are_those_from_sqlite(
    postgres: str,
    make_server: Callable[[str], Any],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = plan(SweepRequest(tables=["table1"], profile="smoke"))
    fill(Store(Workspace.from_environment()), sweep)
    server = make_server(postgres)
    done = migrate(str(home), server.uri, lambda _: None, Workspace.from_environment())
    assert len(done.copied) == 1 + len(sweep.trainings) + len(sweep.evaluations)
    for form in ("text", "markdown", "latex", "csv"):
        shown = []
        for uri in ("", server.uri):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            assert main(["table", "1", "--profile", "smoke", "--format", form]) == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1]
        assert "failed" in shown[0]
        assert "missing" in shown[0]

"""What a run holds in MLflow: source, description, data sets; and its networks in MLflow's registry."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eman.cli import main
from eman.platform.store.records import EVALUATION, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.options import Options, Report
from eman.sweeps.run.publish import begin_sweep, publish_sweep
from eman.trainers.data import catalog


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def images(count: int) -> Any:
    return catalog.load("digits", Workspace.from_environment()).test.take(torch.arange(count)).images


def test_a_run_is_described_evaluated_and_registered_as_mlflow_does(
    store_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    train = ("train", "fixmatch", "--scheme", "eman", "--profile", "smoke", "--set", "epochs=1")
    assert call(capsys, "--experiment", "norms", *train)[0] == 0
    store = Store(Workspace.from_environment(experiment="norms"))
    assert Store(Workspace.from_environment()).records() == []
    [record] = store.records(TRAINING)
    evaluate = ("evaluate", record.key, "--protocol", "knn", "--network", "teacher")
    assert call(capsys, "--experiment", "norms", *evaluate)[0] == 0
    [evaluation] = store.records(EVALUATION)

    note = evaluation.tags["mlflow.note.content"]
    assert note.startswith("kNN") and f"the teacher after the last epoch of {record.name}" in note
    [repeat] = [line.split()[1:] for line in note.splitlines() if line.startswith("    eman evaluate")]
    assert call(capsys, "--experiment", "norms", *repeat)[0] == 0
    assert store.records(EVALUATION) == [evaluation]  # the same one

    client = store.client
    run = client.get_run(record.run_id)
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} <= run.data.tags.keys()
    note = run.data.tags["mlflow.note.content"]
    assert "FixMatch with BN / EMAN" in note
    assert "eman train fixmatch --scheme eman --profile smoke --set epochs=1" in note
    used = {tag.value: part.dataset for part in run.inputs.dataset_inputs for tag in part.tags}
    assert set(used) == {"training", "held-out"}
    assert used["training"].digest == record.tags["eman.data_hash"]
    assert json.loads(used["training"].profile)["label_set"] == record.tags["eman.label_set_hash"]
    used = {
        tag.value: part.dataset for part in client.get_run(evaluation.run_id).inputs.dataset_inputs for tag in part.tags
    }
    assert set(used) == {"evaluation", "test"}

    register = ("--experiment", "norms", "runs", "register", record.key, "--name", "digits", "--network", "teacher")
    code, out, err = call(capsys, *register, "--alias", "best")
    assert code == 0, err
    assert "models:/digits@best: version 1 of digits, the teacher after the last epoch of BN / EMAN · FixMatch" in out
    assert "models:/digits/2" in call(capsys, *register)[1]
    assert client.get_model_version("digits", "2").description == f"The teacher after the last epoch of {record.name}"
    [model] = client.search_logged_models([store.experiment_id])  # its weights are stored once
    assert model.source_run_id == record.run_id
    measured = {metric.key: metric for metric in model.metrics}
    assert measured["knn/test_top1"].value == evaluation.metrics["knn/test_top1"]
    assert measured["knn/test_top1"].dataset_digest == record.tags["eman.data_hash"]
    assert measured["test/teacher_top1"].value == record.metrics["test/teacher_top1"]
    assert "test/top1" not in measured  # the student's

    mlflow.set_tracking_uri(store.uri)
    try:
        probabilities_NK = mlflow.pyfunc.load_model("models:/digits@best").predict(images(3).numpy())
    finally:
        mlflow.set_tracking_uri(None)
    assert probabilities_NK.shape == (3, 10)
    assert torch.allclose(torch.from_numpy(probabilities_NK).sum(1), torch.ones(3))


@pytest.mark.parametrize("option", [("--name", "a/b"), ("--name", "a", "--alias", "x:y")])
def test_a_name_that_mlflow_refuses_is_one_line_and_code_2(
    option: tuple[str, ...], store_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(Workspace.from_environment())
    store.begin(TRAINING, "abc", "a run", params={}, tags={}).finish()
    code, _, err = call(capsys, "runs", "register", "abc", *option)
    assert (code, err.count("\n")) == (2, 1)
    assert option[-2] in err


@pytest.mark.parametrize("given", [("--tag", "x"), ("--tag", "eman.key=3"), ("--note", " ")])
def test_notes_and_tags_are_checked_before_anything_runs(
    given: tuple[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "sweep", "1", "--profile", "smoke", *given)
    assert (code, err.count("\n")) == (2, 1)
    assert given[0] in err
    assert not list(home.iterdir())


def test_a_sweep_holds_its_request_and_its_tables_and_report(store_file: Path) -> None:
    sweep = plan(SweepRequest(methods=("moco",), schemes=("bn", "eman"), profile="smoke", name="pair"))
    store = Store(Workspace.from_environment())
    parent = begin_sweep(sweep, store, 1.0, Options(note="Why *this*.", tags={"project": "norms"}))
    for key, spec in sweep.trainings.items():
        tags = {"method": spec.entry.title, "profile": "smoke"}
        run = store.begin(TRAINING, key, sweep.titles[key], params=spec.flat(), tags=tags, parent=parent.run_id)
        run.point(1, {"step/loss": 2.0})
        run.epoch(1, {"train/loss": 1.0})
        run.finish()
    for key, evaluation in sweep.evaluations.items():
        metrics = {name: 50.0 for item in sweep.wanted for name in (item.metric, item.select_by) if name}
        store.begin(EVALUATION, key, key, params=evaluation.flat(), tags={}).finish(metrics)
    publish_sweep(sweep, store, parent, Report(trained=2))

    run = store.client.get_run(parent.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["profile"] == "smoke"
    assert json.loads(run.data.params["schemes"]) == ["bn", "eman"]
    assert run.data.params["command"] == "eman sweep grid --method moco --scheme bn,eman --profile smoke --name pair"
    assert run.data.tags["project"] == "norms"
    assert run.data.tags["mlflow.note.content"].startswith("Why *this*.")
    files = {file.path for file in store.client.list_artifacts(parent.run_id)}
    assert {"grid.md", "tables.csv", "tables.json", "report.html"} <= files
    assert [point.step for point in store.history(store.records(TRAINING)[0].run_id, "step/loss")] == [1]

"""Searches: ranges, points, objectives, what is refused, outcomes; and whole searches on Ray."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from eman.cli import main
from eman.evaluation.results.values import Results, values_of
from eman.parsing import parse_ranges, parse_rates
from eman.platform.errors import UserError
from eman.platform.store.records import SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep, plan, with_point
from eman.sweeps.request import SweepRequest, command
from eman.sweeps.run.options import Options
from eman.sweeps.run.publish import begin_sweep
from eman.sweeps.run.todo import find_todo
from eman.sweeps.search.outcome import outcomes
from eman.sweeps.search.picture import draw
from eman.sweeps.search.space import Range, grid_points, random_points
from eman.sweeps.view import report

RATES = Range(low=0.001, high=1, scale="log")
MOMENTA = Range(low=0.9, high=0.99999, scale="logit")


def search(**fields: Any) -> Sweep:
    given = {"profile": "smoke", "methods": ["moco"], "schemes": ["eman"], "ranges": {"lr": RATES}, "samples": 4}
    return plan(SweepRequest(**{**given, **fields}))


def rates_of(sweep: Sweep) -> list[float]:
    return [run.optim.lr for run in sweep.trainings.values()]


@pytest.mark.parametrize(
    "numbers",
    [RATES, MOMENTA, Range(low=2, high=9, whole=True), Range(low=1, high=1000, scale="log", whole=True)],
    ids=lambda numbers: numbers.text,
)
def test_a_range_gives_only_its_own_numbers_with_both_ends_and_more_of_them_in_between(numbers: Range) -> None:
    values = [numbers.at(number / 50) for number in range(51)]
    assert (values[0], values[-1]) == (numbers.low, numbers.high)
    assert values == sorted(values)
    assert len(set(values)) > 7
    assert all(isinstance(value, int) is numbers.whole for value in values)


def test_scales_space_numbers_by_ratio_and_by_odds() -> None:
    assert [RATES.at(share) for share in (0, 1 / 3, 2 / 3, 1)] == [0.001, 0.01, 0.1, 1]
    odds = [value / (1 - value) for value in (MOMENTA.at(0.25), MOMENTA.at(0.5), MOMENTA.at(0.75))]
    assert odds[1] / odds[0] == pytest.approx(odds[2] / odds[1], rel=0.05)


def test_whole_numbers_are_equally_likely() -> None:
    numbers = Range(low=1, high=3, whole=True)
    drawn = [point["n"] for point in random_points({"n": numbers}, 600, 0)]
    assert all(150 < drawn.count(number) < 250 for number in (1, 2, 3))


def test_random_points_are_a_function_of_seed_number_and_field() -> None:
    axes = {"lr": RATES, "queue": (64, 128)}
    few, many = list(random_points(axes, 3, seed=1)), list(random_points(axes, 9, seed=1))
    assert many[:3] == few
    assert [point["lr"] for point in random_points({"lr": RATES}, 3, seed=1)] == [point["lr"] for point in few]
    assert list(random_points(axes, 3, seed=2)) != few


def test_a_grid_takes_evenly_spaced_values_of_a_range_with_every_value_of_a_list() -> None:
    points = list(grid_points({"lr": RATES, "queue": (64, 128)}, 4))
    assert len(points) == 8
    assert sorted({point["lr"] for point in points}) == [0.001, 0.01, 0.1, 1]


def test_the_same_command_gives_the_same_runs_and_schemes_share_points() -> None:
    sweep = search(search="random", schemes=["bn", "eman"])
    assert len(sweep.trainings) == 8
    assert rates_of(sweep)[:4] == rates_of(sweep)[4:]
    assert search(search="random", schemes=["bn", "eman"]).trainings.keys() == sweep.trainings.keys()
    assert search(search="random", search_seed=1).trainings.keys().isdisjoint(sweep.trainings)


def test_a_range_that_a_scheme_lacks_varies_the_others_alone() -> None:
    sweep = search(schemes=["bn", "eman"], ranges={"eman_momentum": MOMENTA}, samples=3)
    assert sweep.cells == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"search": "random", "scheduler": "asha", "reduction": 2.0, "objective": "train/loss", "name": "rates"},
        {"ranges": {"lr": RATES, "eman_momentum": MOMENTA}, "samples": 2},
        {"search": "random", "search_seed": 3, "grid": {"queue": [64, 128]}, "linear_lr": [0.5, 1.0]},
    ],
)
def test_a_search_is_kept_and_planned_again(fields: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    sweep = search(**fields)
    again = plan(SweepRequest.from_json(sweep.request.model_dump_json()))
    assert (again.request, again.key) == (sweep.request, sweep.key)
    assert main([*shlex.split(command(sweep.request))[1:], "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keys"] == sorted(sweep.trainings)


def test_rates_of_linear_evaluation_are_taken_from_a_range() -> None:
    assert parse_rates("--linear-lr", "0.1:10:log", 3) == [0.1, 1, 10]
    drawn = parse_rates("--linear-lr", "0.1:10:log", 3, seed=0)
    assert len(set(drawn)) == 3
    assert drawn == parse_rates("--linear-lr", "0.1:10:log", 3, seed=0)
    with pytest.raises(UserError, match="give --samples"):
        parse_rates("--linear-lr", "0.1:10:log")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("lr", "give FIELD=LOW:HIGH"),
        ("lr=0.1", "give LOW:HIGH"),
        ("lr=0.1:1:cube", "linear, log, logit"),
        ("lr=a:1", "lr is 'a'"),
        ("lr=1:0.1", "lower end below"),
        ("lr=0:1:log", "above 0"),
        ("momentum=0.5:1:logit", "below 1"),
        ("leraning_rate=0.1:1", "unknown field"),
        ("optimizer=0:1", "--grid optimizer="),
        ("epochs=1.5:3", "a whole number"),
    ],
)
def test_a_malformed_range_is_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        parse_ranges([words])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "test/knn_top1"}, "measured on test images, by which nothing is selected"),
        ({"objective": "linear/10pct_top1"}, "measured on test images"),
        ({"objective": "accuracy/top1"}, "is not known; give one of knn/top1"),
        ({"objective": "knn"}, "is not known"),
        ({"objective": "linear/10pct_held_out_top1", "scheduler": "asha"}, "too late"),
        ({"overrides": {"held_out": 0}}, "held_out is 0"),
        ({"samples": 0}, "--samples is missing"),
        ({"ranges": {}, "samples": 3}, "--samples has no effect"),
        ({"ranges": {}, "search": "random"}, "needs a field to search"),
        ({"grace": 2}, "--grace has no effect"),
        ({"scheduler": "median", "reduction": 2.0}, "--reduction has no effect"),
        ({"scheduler": "asha", "grace": 2}, "nothing to stop in runs of 2 epochs"),
        ({"overrides": {"lr": 0.1}}, "an axis of the grid and an override"),
        ({"grid": {"lr": [0.1]}}, "a list and a range"),
        ({"ranges": {"eman_momentum": MOMENTA}, "schemes": ["bn"]}, "--range eman_momentum has no effect"),
        ({"ranges": {"lr": Range(low=0.1, high=20_000)}, "search": "random"}, "lr is .*at most 10,000"),
        ({"ranges": {"warmup_epochs": Range(low=0, high=3)}, "search": "optuna"}, "longer than the run"),
        ({"search": "optuna", "samples": 900}, "at most"),
        ({"tables": ["table1"], "methods": [], "schemes": []}, "belong to a grid"),
    ],
)
def test_a_search_is_checked_before_anything_runs(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        search(**fields)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", ["2", "1-2", "auto"])
def test_a_scheduler_needs_runs_of_one_worker(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "grid", "--method", "moco", "--scheme", "bn", "--grid", "lr=0.1,0.2", "--profile", "smoke"]
    words += ["--set", "epochs=3", "--scheduler", "asha", "--dry-run"]
    assert main([*words, "--workers", "1"]) == 0
    assert main([*words, "--workers", workers]) == 2
    assert "give --workers 1" in capsys.readouterr().err


def test_the_objective_may_be_a_result_on_held_out_images() -> None:
    assert search(objective="linear/10pct_held_out_top1").request.searches


def finished(store: Store, sweep: Sweep, values: list[float]) -> None:
    for (key, run), value in zip(sweep.trainings.items(), values, strict=False):
        log = store.begin(TRAINING, key, sweep.titles[key], params={"lr": run.optim.lr}, tags={})
        log.epoch(1, {"knn/top1": value, "train/loss": 1.0})
        log.finish()


def test_the_best_point_and_what_matters_come_from_the_store(store_file: Path, tmp_path: Path) -> None:
    store = Store(Workspace.from_environment())
    sweep = search(samples=3, grid={"queue": [64, 128]})
    # Rates 0.001, 0.0316, 1 with queues 64 and 128: the rate decides, the queue hardly.
    finished(store, sweep, [50.0, 60.0, 70.0, 51.0, 61.0])
    last = list(sweep.trainings)[5]
    log = store.begin(TRAINING, last, "last", params={}, tags={})
    log.epoch(1, {"knn/top1": 99.0})
    log.stop("at epoch 1")
    [outcome] = outcomes(sweep, Results.read(store, sweep.tables))
    assert outcome.best is not None
    assert outcome.best.value == 70.0  # a stopped run is observed, and is not the best
    assert outcome.best.point.fields["lr"] == 1
    assert [observation.status for observation in outcome.observations] == ["done"] * 5 + ["stopped"]
    assert outcome.importance["lr"] > 0.8 > outcome.importance["queue"]
    text = "\n".join(outcome.lines())
    assert "5 done, 1 stopped" in text
    assert "importance" in text
    begin_sweep(sweep, store, 1.0, Options()).finish()
    [record] = store.records(SWEEP)
    report.write(record, store, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "5 done, 1 stopped" in page
    assert "data:image/png;base64" in page
    assert draw([outcome], tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_run_fills_no_cell_and_continues_where_it_is_wanted_whole(store_file: Path) -> None:
    store = Store(Workspace.from_environment())
    sweep = search(scheduler="asha", samples=2)
    first, second = sweep.trainings
    log = store.begin(TRAINING, first, "first", params={}, tags={})
    log.epoch(1, {"knn/top1": 50.0})
    log.stop("at epoch 1 by scheduler asha")
    results = Results.read(store, sweep.tables)
    assert values_of(sweep.tables[0], results)[0].text() == "stopped"
    assert [spec.key for spec in find_todo(sweep, results, {}, 1, store.workspace).trainings] == [second]
    whole = search(samples=2)
    assert [spec.key for spec in find_todo(whole, results, {}, 1, store.workspace).trainings] == [first, second]
    store.begin(TRAINING, first, "first", params={}, tags={})
    assert store.by_key(TRAINING, [first])[first].status == "running"


def test_points_that_optuna_chose_belong_to_the_search() -> None:
    sweep = search(search="optuna")
    assert not sweep.trainings
    more, point = with_point(sweep, "moco", "eman", {"lr": 0.02})
    assert more.key == sweep.key
    assert list(more.trainings) == [point.runs[0].key]
    assert plan(SweepRequest.from_json(more.request.model_dump_json())).trainings.keys() == more.trainings.keys()


def test_optuna_chooses_by_what_it_is_told_and_gives_values_of_the_range() -> None:
    pytest.importorskip("optuna")
    from eman.sweeps.search.study import ask, study_of

    request = search(search="optuna", ranges={"lr": RATES}, grid={"queue": [64, 128]}, samples=8).request
    known = [(point, -abs(float(point["lr"]) - 0.01)) for point in random_points(request.axes, 20, 0)]  # type: ignore[arg-type]
    study = study_of(request.axes, known, "max", request)
    chosen = [ask(study, request.axes)[1] for _ in range(8)]
    assert all(0.001 <= point["lr"] <= 1 and point["queue"] in (64, 128) for point in chosen)  # type: ignore[operator]
    assert sum(0.002 < point["lr"] < 0.05 for point in chosen) > 4  # type: ignore[operator]


def test_without_optuna_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eman.sweeps.checks.find_spec", lambda name: None)
    words = "sweep grid --method moco --scheme eman --range lr=0.1:1 --samples 3 --search optuna --profile smoke"
    assert main([*words.split(), "--dry-run"]) == 2
    assert "needs the package optuna" in capsys.readouterr().err


def swept(home: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "eman", "sweep", "grid", "--method", "moco", "--scheme", "eman", *words],
        env={**os.environ, "EMAN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_scheduler_stops_runs_and_optuna_continues_from_what_the_store_has(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    common = ["--range", "lr=0.001:0.3:log", "--profile", "smoke", "--set", "epochs=3"]
    halving = [*common, "--samples", "4", "--search", "random", "--scheduler", "asha", "--name", "halving"]
    told = swept(tmp_path, *halving)
    store = Store(Workspace.from_environment(str(tmp_path)))
    states = {record.key: record.status for record in store.records(TRAINING)}
    assert sorted(set(states.values())) == ["done", "stopped"]
    assert "Search of moco by knn/top1" in told
    [record] = store.records(SWEEP)
    client = mlflow.MlflowClient(store.uri)
    [file] = client.list_artifacts(record.run_id, "trials")
    frame = pd.read_parquet(client.download_artifacts(record.run_id, file.path, str(tmp_path)))
    assert set(frame["config/key"]) == set(states)
    assert {"config/lr", "config/method", "config/scheme", "config/seed", "knn/top1", "epoch"} <= set(frame.columns)
    assert not [column for column in frame.columns if column.startswith("test/")]
    assert {"search.txt", "search.png"} <= {found.path for found in client.list_artifacts(record.run_id)}
    assert "0 trained" in swept(tmp_path, *halving)  # what was stopped stays stopped here

    median = [*common, "--samples", "4", "--search", "random", "--search-seed", "1", "--scheduler", "median"]
    assert ", 0 failed" in swept(tmp_path, *median, "--name", "median")

    asked = [*common, "--search", "optuna", "--name", "asked"]
    assert "3 trained" in swept(tmp_path, *asked, "--samples", "3")
    assert "0 trained, 3 reused" in swept(tmp_path, *asked, "--samples", "3")

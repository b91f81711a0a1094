"""What people see: MLflow's UI in a real browser after a real sweep, and who may reach it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from eman.cli import main
from eman.platform.store.records import SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.view.comparison import MEMBERS, comparisons, save_view
from eman.sweeps.view.links import link_lines
from eman.trainers.norm.colours import COLOURS
from eman.trainers.spec.labels import record_params, record_tags, run_title, scheme_label
from eman.trainers.spec.run import RunSpec

if TYPE_CHECKING:
    from playwright.sync_api import Page

EMAN = [sys.executable, "-m", "eman"]
#: A browser that asks nothing of the network but the pages it is told to open.
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


#: JavaScript: the background colours of all elements of a page.
BACKGROUNDS = "[...document.querySelectorAll('*')].map(element => getComputedStyle(element).backgroundColor)"


def rgb(colour: str) -> str:
    """A colour as browsers write it."""
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def record_sweep(store: Store, runs: Sequence[RunSpec]) -> list[str]:
    """Record a finished sweep of runs that nobody trained."""
    parent = store.begin(SWEEP, "one", "one", params={}, tags={})
    for spec in runs:
        tags = record_tags(spec, "smoke")
        log = store.begin(
            TRAINING, spec.key, run_title(spec), params=record_params(spec), tags=tags, parent=parent.run_id
        )
        for epoch in (1, 2):
            log.epoch(epoch, {"train/loss": 1.0 / epoch, "knn/top1": 50.0 + epoch})
        log.finish({"linear/10pct_top1": 60.0})
    keys = [spec.key for spec in runs]
    parent.finish(tags={MEMBERS: ",".join(keys)})
    return keys


class UI:
    """``eman ui`` on a work folder, and what it prints."""

    def __init__(self, home: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [*EMAN, "ui", "--no-open", "--port", str(self.port), *options],
            env={**os.environ, "EMAN_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith("Ctrl-C"):
                break

    def link(self, words: str) -> str:
        [found] = [line.rpartition(" ")[2] for line in self.lines if re.search(rf"(^|, ){words}.*: http", line)]
        return found

    def status(self, host: str) -> int:
        """What a browser gets that takes this server for another host."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def ui(grid: Path) -> Iterator[UI]:
    started = UI(grid)
    yield started
    started.stop()


@contextmanager
def open_browser(profile: Path) -> "Iterator[Page]":
    """A page of Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=shutil.which("chromium"),
            headless=False,  # playwright's own way to be headless is another; see QUIET
            args=list(QUIET),
            viewport={"width": 1600, "height": 900},
        )
        context.set_default_timeout(60_000)
        yield context.pages[0]
        context.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Page]":
    if shutil.which("chromium") is None:
        pytest.skip("Chromium is not installed; `make services` installs Debian's package")
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.slow
def test_the_comparison_that_eman_ui_names_shows_the_schemes_of_the_newest_sweep(
    ui: UI, page: "Page", tmp_path: Path
) -> None:
    page.goto(ui.link("schemes of MoCo"))
    for name in ("BN / BN · MoCo · s0", "BN / EMAN · MoCo · s0"):
        page.get_by_role("link", name=name).first.wait_for()
    page.get_by_text("2 matching runs").wait_for()
    page.get_by_text("MoCo: schemes compared").first.wait_for()  # our charts, above those that the UI adds
    page.get_by_text("linear/10pct_top1", exact=True).first.wait_for()
    page.get_by_text("knn/top1").first.wait_for()  # a chart with a line a scheme
    page.locator(".js-plotly-plot").first.wait_for()
    assert {rgb(COLOURS["bn"]), rgb(COLOURS["eman"])} <= set(page.evaluate(BACKGROUNDS))
    picture = page.screenshot(path=tmp_path / "compare.png")
    assert len(picture) > 30_000  # not an empty page


@pytest.mark.slow
def test_seeds_are_grouped_by_scheme_and_no_scheme_is_hidden(tmp_path: Path, page: "Page") -> None:
    store = Store(Workspace(home=str(tmp_path)))
    schemes, seeds = ("default", "bn", "syncbn", "gn", "in", "eman"), (0, 1)
    members = record_sweep(store, [PROFILES["smoke"].run("moco", n, seed) for n in schemes for seed in seeds])
    started = UI(tmp_path)
    try:
        page.goto(started.link("schemes of MoCo"))
        page.get_by_text(f"{len(members)} matching runs").wait_for()  # by default, the UI draws the first ten
        for scheme in schemes:
            label = scheme_label(PROFILES["smoke"].run("moco", scheme))
            page.get_by_text(f"Group: {label}").first.wait_for()
        page.locator(".js-plotly-plot").first.wait_for()
        bars = page.locator(".js-plotly-plot").first.locator(".bars .point")
        bars.first.wait_for()
        assert bars.count() == len(schemes)  # a mean each
    finally:
        started.stop()


@pytest.mark.slow
def test_a_run_shows_its_data_and_its_registered_networks(ui: UI, page: "Page", grid: Path) -> None:
    [run, _] = Store(f"sqlite:///{grid / 'mlflow.db'}").records(TRAINING)
    command = [*EMAN, "runs", "register", run.key, "--name", "browsed", "--alias", "champion"]
    subprocess.run(command, check=True, env={**os.environ, "EMAN_HOME": str(grid)}, stdout=subprocess.DEVNULL)
    server = ui.link("all runs").split("/#/")[0]
    page.goto(f"{ui.link('tables').split('/runs/')[0]}/runs/{run.run_id}?workflowType=machine_learning")
    page.get_by_text("digits training").first.wait_for()
    page.get_by_text("student-last").first.wait_for()
    page.get_by_text("eman sweep grid --method moco --scheme bn,eman --profile smoke").first.wait_for()
    page.goto(f"{server}/#/models/browsed")
    page.get_by_text("champion").first.wait_for()
    page.get_by_text("Version 1").first.wait_for()


@pytest.mark.slow
def test_the_sweep_is_found_by_its_name_with_its_description_and_table(ui: UI, page: "Page") -> None:
    page.goto(ui.link("all runs"))
    page.get_by_role("link", name="grid · smoke").click()
    page.get_by_text("Schemes compared:").wait_for()
    page.get_by_text("Show more").click()
    page.get_by_text("eman sweep grid --method moco --scheme bn,eman --profile smoke").first.wait_for()
    assert page.get_by_role("cell", name="BN / EMAN").count()
    page.get_by_role("link", name="BN / EMAN · MoCo · s0").first.wait_for()  # a child
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="MoCo", exact=True).click()  # the description's own link
    opened.value.get_by_text("2 matching runs").wait_for()
    opened.value.close()


@pytest.mark.slow
def test_the_table_is_an_artifact_that_the_ui_shows(ui: UI, page: "Page") -> None:
    page.goto(ui.link("tables").replace("?", "/artifacts?"))
    page.get_by_text("tables.json").first.click()
    page.get_by_text("BN / EMAN").first.wait_for()
    page.get_by_text("grid.md").first.wait_for()


@pytest.mark.slow
def test_a_training_has_system_metrics(ui: UI, page: "Page", grid: Path) -> None:
    store = Store(f"sqlite:///{grid / 'mlflow.db'}")
    for record in store.records(TRAINING):
        assert record.metrics["system/system_memory_usage_megabytes"] > 0
        assert 0 <= record.metrics["system/cpu_utilization_percentage"] <= 100
    run = ui.link("tables").split("/runs/")[0] + f"/runs/{store.records(TRAINING)[0].run_id}/system-metrics"
    page.goto(run)
    page.get_by_text("system/cpu_utilization_percentage").first.wait_for()


def test_all_methods_and_schemes_log_metrics_by_the_same_names(grid: Path) -> None:
    first, second = Store(f"sqlite:///{grid / 'mlflow.db'}").records(TRAINING)
    assert first.metrics.keys() == second.metrics.keys()


def test_a_server_on_this_machine_answers_to_no_other_name(ui: UI) -> None:
    assert ui.status(f"127.0.0.1:{ui.port}") == 200
    assert ui.status("evil.example.com") == 403
    assert ui.status("192.168.1.5") == 403  # as a page elsewhere would, which has learned to be this machine


@pytest.mark.slow
def test_a_name_that_is_written_down_is_answered_to(grid: Path) -> None:
    started = UI(grid, "--allowed-host", "lab.example.org")  # as behind a proxy
    try:
        assert any("there is no login" in line for line in started.lines)
        assert started.link("all runs").startswith(f"http://lab.example.org:{started.port}/#/")
        assert started.status(f"lab.example.org:{started.port}") == 200
        assert started.status("evil.example.com") == 403
    finally:
        started.stop()
    with socket.socket() as probe:  # nothing stays behind
        assert probe.connect_ex(("127.0.0.1", started.port)) != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 opens the store to the network"),
        (["--host", "192.168.1.5"], "there is no login. If you mean it"),
        (["--host", "0.0.0.0", "--allowed-host", "*"], "--allowed-host *: give a host's name"),
    ],
)
def test_the_network_is_not_reached_by_mistake(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ui", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_sweep_that_reuses_runs_of_another_is_compared_whole(store_file: Path) -> None:
    store = Store(Workspace.from_environment())
    first = store.begin(SWEEP, "one", "one", params={}, tags={})
    tags = {"method": "MoCo"}
    old = store.begin(TRAINING, "a", "a", params={}, tags=tags, parent=first.run_id)
    old.finish({"linear/10pct_top1": 1.0, "test/knn_top1": 1.0})
    first.finish()
    second = store.begin(SWEEP, "two", "two", params={}, tags={})
    new = store.begin(TRAINING, "b", "b", params={}, tags=tags, parent=second.run_id)
    new.finish({"linear/10pct_top1": 2.0})
    second.finish(tags={"eman.trainings": "a,b"})
    newest = store.by_key(SWEEP)["two"]
    pages = comparisons(store.experiment_id, newest, store.by_key(TRAINING))
    assert re.findall("[0-9a-f]{32}", unquote(pages["MoCo"].link)) == [old.run_id, new.run_id]
    assert "linear%2F10pct_top1" in pages["MoCo"].link
    assert link_lines(store, "http://h:1")[0].startswith("two, schemes of MoCo: http://h:1/#/experiments/")


def test_seeds_are_grouped_by_what_else_differs(store_file: Path) -> None:
    def groups(runs: Sequence[RunSpec]) -> Any:
        store = Store(Workspace.from_environment())
        record_sweep(store, runs)
        [newest] = store.records(SWEEP, limit=1)
        return comparisons(store.experiment_id, newest, store.by_key(TRAINING))["MoCo"].view()["groupBy"]

    smoke = PROFILES["smoke"]
    assert groups([smoke.run("moco", "bn"), smoke.run("moco", "eman")]) is None
    assert groups([smoke.run("moco", "eman", seed, {"lr": lr}) for seed in (0, 1) for lr in (0.1, 0.2)]) == {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "scheme"}, {"mode": "param", "groupByData": "lr"}],
    }


def test_a_view_that_mlflow_would_refuse_is_a_plain_link(store_file: Path) -> None:
    store = Store(Workspace.from_environment())
    record_sweep(store, [PROFILES["smoke"].run("moco", "bn")])
    assert "viewStateShareKey=eman-moco" in link_lines(store, "http://h:1")[0]
    [newest] = store.records(SWEEP, limit=1)
    comparison = comparisons(store.experiment_id, newest, store.by_key(TRAINING))["MoCo"]
    many = replace(comparison, condition=f"attributes.run_id IN ('{'0' * 32}'{200 * (',' + repr('1' * 32))})")
    assert save_view(many, store) == many.link  # longer than MLflow allows


def test_a_store_that_is_a_server_is_shown_by_its_own_ui(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", server.uri, "ui"]) == 0
    printed = capsys.readouterr().out
    assert f"all runs: {server.uri}/#/experiments/" in printed

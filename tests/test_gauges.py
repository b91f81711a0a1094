"""Metrics of a running sweep: from its state, through Ray, to Prometheus and the dashboard's panels."""

import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eman.sweeps.plan import plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.events import Done, Event, Failed, Progress, Started
from eman.sweeps.run.state import SweepState
from eman.sweeps.view.gauges import METRICS, samples

DEPLOY = Path(__file__).parents[1] / "deploy" / "grafana"
SWEEP = plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["bn", "eman"], seeds=[0, 1]))
FIRST, SECOND = [key for key, spec in SWEEP.trainings.items() if "EMAN" not in SWEEP.titles[key]]


def values(*events: Event, launched: float = 0.0, now: float = 1.0) -> dict[tuple[str, ...], float]:
    """Samples of the sweep after some events, by name and labels without those of the sweep."""
    state = SweepState(SWEEP, launched)
    for event in events:
        state.apply(event)
    found = list(samples(state, now))
    for sample in found:
        assert set(sample.labels) == set(sample.metric.labels)
        assert (sample.labels["sweep"], sample.labels["profile"]) == (SWEEP.name, "smoke")
    return {(s.metric.name, *(s.labels[name] for name in s.metric.labels[2:])): s.value for s in found}


def test_runs_are_counted_by_status() -> None:
    found = values(Started(FIRST, at=1.0), Failed(SECOND, "the loss is not finite", at=2.0))
    counted = {status: found["eman_runs", "training", status] for status in ("waiting", "running", "failed", "done")}
    assert counted == {"waiting": 2, "running": 1, "failed": 1, "done": 0}
    assert sum(value for name, value in found.items() if name[:2] == ("eman_runs", "evaluation")) == len(
        SWEEP.evaluations
    )


def test_speeds_add_up_over_running_trainings_and_losses_are_averaged() -> None:
    row = ("MoCo", "BN / BN")
    metrics = {"train/images_per_second": 100.0, "train/loss": 2.0, "knn/top1": 30.0, "test/knn_top1": 99.0}
    both: list[Event] = [
        Started(FIRST, at=1.0),
        Progress(FIRST, 0.5, metrics, at=2.0),
        Started(SECOND, at=1.0),
        Progress(SECOND, 0.5, metrics | {"train/loss": 4.0, "knn/top1": 40.0}, at=2.0),
    ]
    found = values(*both)
    assert found["eman_images_per_second", *row] == 200.0
    assert found["eman_loss", *row] == 3.0
    assert found["eman_monitor", *row, "knn/top1"] == 35.0
    assert 99.0 not in found.values()
    assert found["eman_images_per_second", "MoCo", "BN / EMAN"] == 0.0
    assert ("eman_loss", "MoCo", "BN / EMAN") not in found
    assert values(*both, Done(FIRST, at=3.0))["eman_images_per_second", *row] == 100.0


def test_labels_are_exported_in_ascii() -> None:
    """Ray refuses others, and titles of schemes have an α."""
    state = SweepState(plan(SweepRequest(profile="smoke", tables=["schemes"])), 0.0)
    schemes = {sample.exported_labels.get("scheme", "") for sample in samples(state)}
    assert all(scheme.isascii() and "?" not in scheme for scheme in schemes)
    assert "BN / teacher PN (alpha=0.9)" in schemes


def test_the_time_left_is_the_states() -> None:
    events = [Started(FIRST, at=0.0), Done(FIRST, at=50.0)]
    state = SweepState(SWEEP, 0.0)
    for event in events:
        state.apply(event)
    left = state.seconds_left(100.0)
    assert left is not None
    assert values(*events, now=100.0)["eman_hours_left",] == left / 3600
    assert ("eman_hours_left",) not in values(Started(FIRST, at=0.0))


def queries() -> Iterator[str]:
    """The dashboard's queries: of its panels and its variables."""
    dashboard = json.loads((DEPLOY / "eman.json").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    yield from (found["definition"] for found in dashboard["templating"]["list"] if found["type"] == "query")


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    known = {metric.exported: set(metric.labels) for metric in METRICS}
    asked = set()
    for query in queries():
        [name] = re.findall(r"\bray_\w+", query)
        asked.add(name)
        grouped = re.findall(r"by \((.*?)\)|_values\(.*, (\w+)\)", query)
        labels = {label for match in grouped for part in match for label in part.split(", ") if label}
        assert labels | set(re.findall(r"(\w+)=", query)) <= known[name], query
    assert asked == set(known)


@pytest.fixture
def prometheus(cluster: Any, tmp_path: Path) -> Iterator[str]:
    """A Prometheus server that scrapes the cluster as `deploy/grafana/prometheus.yml` says, only more often."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed; `make services` installs Debian's package")
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"]["scrape_interval"] = "5s"
    [scrape] = config["scrape_configs"]
    [discovery] = scrape["http_sd_configs"]
    discovery["url"] = discovery["url"].replace("http://127.0.0.1:8265", cluster.job_server)
    discovery["refresh_interval"] = "1s"
    (tmp_path / discovery["authorization"]["credentials_file"]).write_text(cluster.environment["RAY_AUTH_TOKEN"])
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = subprocess.Popen(
        [
            *(program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address={address}"),
            f"--storage.tsdb.path={tmp_path / 'data'}",
        ],
        stderr=subprocess.DEVNULL,
    )
    yield f"http://{address}"
    server.terminate()
    server.wait(timeout=30)


def get_json(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)["data"]


@pytest.mark.slow
def test_prometheus_answers_every_query_of_the_dashboard(cluster: Any, prometheus: str) -> None:
    started = time.time()
    words = ["grid", "--method", "moco", "--scheme", "bn,eman", "--profile", "smoke", "--set", "epochs=30"]
    done = subprocess.run(
        [sys.executable, "-m", "eman", "sweep", *words, "--name", "watched", "--address", cluster.address],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for query in queries():
        if query.startswith("label_values"):
            continue
        whole = query.replace("$sweep", "watched").replace("$profile", "smoke")
        asked = urllib.parse.urlencode({"query": whole, "start": started, "end": time.time(), "step": 1})
        series = get_json(f"{prometheus}/api/v1/query_range?{asked}")["result"]
        assert series, (query, get_json(f"{prometheus}/api/v1/targets?state=active"), done.stderr)
        numbers = [float(value) for one in series for _, value in one["values"]]
        assert all(math.isfinite(number) for number in numbers), query
        assert max(numbers) > 0, query
        schemes = {one["metric"]["scheme"] for one in series if "scheme" in one["metric"]}
        assert schemes in (set(), {"BN / BN", "BN / EMAN"}), query

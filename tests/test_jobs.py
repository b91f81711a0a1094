"""A sweep submitted as a job to a cluster, over HTTP, with a token."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eman.cli import main
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.sweeps.run.submit import source_for_job

EMAN = [sys.executable, "-m", "eman"]


def call(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EMAN, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=500
    )


GRID = ["grid", "--method", "moco", "--scheme", "bn,eman", "--profile", "smoke"]


#: A scheme of one's own, whose module travels with the job.
MODULE = """
from eman.api import Move, Scheme, TeacherNorm, register_scheme, register_teacher_norm
register_teacher_norm("own", TeacherNorm(title="own", statistics=Move.AVERAGE_STATISTICS))
register_scheme("own", Scheme(title="BN / own", teacher="own"))
"""


@pytest.mark.slow
def test_a_submitted_sweep_runs_and_is_continued(cluster: tuple[str, dict[str, str], str], tmp_path: Path) -> None:
    address, environment, _ = cluster
    module = tmp_path / "own_scheme.py"
    module.write_text(MODULE, encoding="utf-8")
    grid = ["grid", "--method", "moco", "--scheme", "bn,own", "--profile", "smoke", "--module", str(module)]
    done = call(environment, "submit", *grid, "--address", address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trained, 0 reused" in done.stdout
    job = done.stderr.split("submitted ")[1].split(";")[0]
    listed = call({**environment, "RAY_API_SERVER_ADDRESS": address}, "jobs").stdout
    [line] = [line for line in listed.splitlines() if job in line]
    assert re.fullmatch(rf"{job}  SUCCEEDED  20\d\d-\d\d-\d\d \d\d:\d\d  \d+ s +grid · smoke", line), line
    assert "BN / own" in call(environment, "logs", job, "--no-follow", "--address", address).stdout
    again = call(environment, "submit", *grid, "--address", address)
    assert "0 trained, 2 reused" in again.stdout
    local = call(environment, "sweep", *grid)
    assert "0 trained, 2 reused" in local.stderr  # the table is there from the store, without the cluster


@pytest.mark.slow
def test_a_stopped_job_has_ended_and_leaves_no_run_that_looks_alive(cluster: tuple[str, dict[str, str], str]) -> None:
    address, environment, _ = cluster
    environment = {**environment, "RAY_API_SERVER_ADDRESS": address}
    words = ["grid", "--method", "moco", "--scheme", "in", "--profile", "smoke", "--set", "epochs=5000"]
    job = call(environment, "submit", *words, "--detach").stderr.split("submitted ")[1].split(";")[0]
    store = Store(f"sqlite:///{environment['EMAN_HOME']}/mlflow.db")
    deadline = time.monotonic() + 120
    while not (records := [r for r in store.records(TRAINING) if r.status == "running"]):
        assert time.monotonic() < deadline
        time.sleep(1.0)
    assert f"{job} ended (STOPPED) after" in call(environment, "stop", job).stdout
    assert f"{job}  STOPPED" in call(environment, "jobs").stdout
    assert [r.status for r in store.records(TRAINING, records[0].key)] == ["missing"]
    assert f"{job} had already ended (STOPPED)" in call(environment, "stop", job).stdout


def test_the_project_travels_and_not_what_lies_beside_it(tmp_path: Path) -> None:
    checkout, installed = tmp_path / "work" / "eman", tmp_path / "site-packages" / "eman"
    for folder in (checkout, installed):
        folder.mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    assert source_for_job(checkout)["working_dir"] == str(checkout)
    assert source_for_job(installed) == {"py_modules": [str(installed)]}


@pytest.mark.slow
def test_a_submission_too_large_for_the_cluster_ends_with_the_sweeps_exit_code(
    cluster: tuple[str, dict[str, str], str],
) -> None:
    address, environment, _ = cluster
    arguments = ["grid", "--method", "moco", "--scheme", "gn", "--profile", "smoke", "--workers", "4"]
    done = call(environment, "submit", *arguments, "--address", address)
    assert done.returncode == 2
    assert "one run needs 4 CPU (4 workers), and the cluster has 2 CPU" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel1", "--address", "http://127.0.0.1:9"], "did you mean 'table1'"),
        (["table1", "--address", "http://127.0.0.1:9"], "no Ray job server answers there"),
        (["table1", "--address", "127.0.0.1:8265"], "give the job server's address"),
    ],
)
def test_a_submission_that_cannot_be_sent_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("given", ["option", "variable"])
def test_a_sweep_at_the_job_servers_address_says_what_to_use(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server, words = "http://127.0.0.1:8265", ["sweep", *GRID]
    if given == "option":
        words += ["--address", server]
    else:
        monkeypatch.setenv("RAY_ADDRESS", server)
    assert main(words) == 2
    assert f"--address {server}: that is the job server; use `eman submit`" in capsys.readouterr().err


def test_the_job_servers_address_has_rays_variables_as_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:7")
    for expected in ("http://127.0.0.1:7", "http://127.0.0.1:9"):
        assert main(["jobs"]) == 2
        assert f"--address {expected}: no Ray job server answers there" in capsys.readouterr().err
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")  # goes before the other


@pytest.mark.slow
def test_what_a_job_server_refuses_is_one_line_and_code_2(cluster: tuple[str, dict[str, str], str]) -> None:
    address, environment, _ = cluster
    for changes, arguments, message in (
        ({"RAY_AUTH_TOKEN": "0" * 64}, ["jobs"], "refuses the token"),
        ({}, ["logs", "nothing"], "there is no job 'nothing'"),
        ({}, ["stop", "nothing"], "there is no job 'nothing'"),
    ):
        done = call({**environment, **changes}, *arguments, "--address", address)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


#: A client that believes that it is another Ray, on another Python.
OTHER_VERSION = """
import sys
import ray._private.utils as utils
utils.compute_version_info = lambda: ("2.0.0", "3.10.1")
from eman.cli import main
sys.argv[0] = "eman"
sys.exit(main())
"""


@pytest.mark.slow
def test_a_cluster_that_cannot_be_joined_says_why(cluster: tuple[str, dict[str, str], str]) -> None:
    _, environment, address = cluster
    sweep = ["sweep", "grid", "--method", "moco", "--scheme", "ln", "--profile", "smoke", "--address"]
    other = [sys.executable, "-c", OTHER_VERSION]
    for command, changes, where, message in (
        (EMAN, {"RAY_AUTH_TOKEN": "0" * 64}, address, "the cluster refuses the token"),
        (EMAN, {}, "127.0.0.1:9", "no Ray cluster answers there"),
        (other, {}, address, "and this is Ray 2.0.0 and Python 3.10.1; install the same versions"),
    ):
        done = subprocess.run(
            [*command, *sweep, where],
            env={**environment, **changes},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 2, done.stderr
        *waits, line = done.stderr.splitlines()
        assert line.startswith("eman: ")
        assert message in line
        assert set(waits) <= {"opening the store", "reading the store", f"joining Ray at {where}"}
        assert "Traceback" not in done.stderr

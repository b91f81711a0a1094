"""A sweep submitted as a job to a cluster, over HTTP, with a token."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eman.sweeps.run.submit import travelling

EMAN = [sys.executable, "-m", "eman"]

#: A cluster of three nodes until its input ends: a process of its own, so that stopping it stops no other. Each has a
#: folder of its own for temporary files, as on machines of their own: in a common one, the first node that is done with
#: a job's files deletes them for all.
CLUSTER = """
import sys, tempfile
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 0, "include_dashboard": True, "dashboard_port": 0, "dashboard_host": "127.0.0.1"})
for _ in range(2):
    cluster.add_node(num_cpus=1, temp_dir=tempfile.mkdtemp(prefix="ray"))
print("READY", cluster.webui_url, cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str], str]]:
    """The job server's address, the environment of somebody who may use it, and the cluster's own address."""
    folder = tmp_path_factory.mktemp("jobs")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(32).hex(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "EMAN_HOME": str(folder),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith("READY")), "")
    assert line, "the cluster did not start"
    _, server, address = line.split()
    yield f"http://{server.removeprefix('http://')}", environment, address
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


def call(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EMAN, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=500
    )


GRID = ["grid", "--method", "moco", "--scheme", "bn,eman", "--profile", "smoke"]


def test_a_submitted_sweep_runs_and_is_continued(cluster: tuple[str, dict[str, str], str]) -> None:
    address, environment, _ = cluster
    done = call(environment, "submit", *GRID, "--address", address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trained, 0 reused" in done.stdout
    job = done.stderr.split("submitted ")[1].split(";")[0]
    assert f"{job}  SUCCEEDED" in call(environment, "jobs", "--address", address).stdout
    assert "BN / EMAN" in call(environment, "logs", job, "--no-follow", "--address", address).stdout
    again = call(environment, "submit", *GRID, "--address", address)
    assert "0 trained, 2 reused" in again.stdout
    local = call(environment, "sweep", *GRID)
    assert "0 trained, 2 reused" in local.stderr  # the table is there from the store, without the cluster


def test_the_project_travels_and_not_what_lies_beside_it(tmp_path: Path) -> None:
    checkout, installed = tmp_path / "work" / "eman", tmp_path / "site-packages" / "eman"
    for folder in (checkout, installed):
        folder.mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    assert travelling(checkout)["working_dir"] == str(checkout)
    assert travelling(installed) == {"py_modules": [str(installed)]}


def test_a_submission_too_large_for_the_cluster_ends_with_the_sweeps_exit_code(
    cluster: tuple[str, dict[str, str], str],
) -> None:
    address, environment, _ = cluster
    arguments = ["grid", "--method", "moco", "--scheme", "gn", "--profile", "smoke", "--workers", "4"]
    done = call(environment, "submit", *arguments, "--address", address)
    assert done.returncode == 2
    assert "one run needs 4 CPU (4 workers), and the cluster has 2 CPU" in done.stdout


def test_mistakes_are_one_line_and_code_2(cluster: tuple[str, dict[str, str], str]) -> None:
    address, environment, _ = cluster
    for changes, arguments, message in (
        ({}, ["submit", "tabel1", "--address", address], "did you mean 'table1'"),
        ({}, ["submit", "table1", "--address", "http://127.0.0.1:9"], "no Ray job server answers there"),
        ({}, ["submit", "table1", "--address", "127.0.0.1:8265"], "give the job server's address"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, ["jobs", "--address", address], "refuses the token"),
        ({}, ["logs", "nothing", "--address", address], "there is no job 'nothing'"),
        ({}, ["stop", "nothing", "--address", address], "there is no job 'nothing'"),
    ):
        done = call({**environment, **changes}, *arguments)
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
        assert message in done.stderr
        assert done.stderr.startswith("eman: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr

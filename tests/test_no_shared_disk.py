"""A sweep on a cluster whose nodes share no disk: an MLflow server, a bucket, and a node that is lost meanwhile."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eman.platform.store.records import EVALUATION, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace

#: A head without processors and two nodes, each with a folder of its own for all its files. At each line of its input
#: it loses the first node and gets another.
NODES = """
import sys, tempfile
from pathlib import Path
from ray.cluster_utils import Cluster
folder = Path(sys.argv[1])
head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0, "dashboard_host": "127.0.0.1",
    "env_vars": {"EMAN_CACHE": str(folder / "head")}}
cluster = Cluster(initialize_head=True, head_node_args=head)
def node(name):
    temporary = tempfile.mkdtemp(prefix="ray")
    return cluster.add_node(num_cpus=1, temp_dir=temporary, env_vars={"EMAN_CACHE": str(folder / name)})
nodes = [node("first"), node("second")]
print("READY", cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(0), allow_graceful=False)
    nodes.append(node("third"))
    print("LOST", flush=True)
cluster.shutdown()
"""


@pytest.fixture
def environment(s3: Any, server: Any, tmp_path: Path) -> dict[str, str]:
    """The environment of the driver, a machine of its own."""
    return {
        **os.environ,
        **s3.environment,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(32).hex(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "EMAN_HOME": s3.uri,
        "EMAN_CACHE": str(tmp_path / "driver"),
        "EMAN_CHECKPOINT_SECONDS": "0.2",
        "MLFLOW_TRACKING_URI": server.uri,
    }


@pytest.fixture
def nodes(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", NODES, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


def answer(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith(word)), "")
    assert line, "the cluster did not start"
    return line


def table(environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "eman", "table", "1", "--profile", "smoke", "--format", "csv"]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)  # with the sweep that it is compared with
def test_a_sweep_without_a_shared_disk_survives_a_node_and_gives_the_same_table(
    swept: Path, environment: dict[str, str], nodes: subprocess.Popen[str], s3: Any, server: Any, tmp_path: Path
) -> None:
    address = answer(nodes, "READY").split()[1]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "eman", "sweep", "1", "--profile", "smoke", "--address", address],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    store = Store(Workspace(s3.uri, store=server.uri, cache=str(tmp_path / "test")), patient=True)
    deadline = time.monotonic() + 240
    while True:  # until both nodes train, and some runs are done
        states = [record.status for record in store.records(TRAINING)]
        if states.count("done") >= 3 and states.count("running") == 2:
            break
        assert time.monotonic() < deadline and sweep.poll() is None
        time.sleep(0.1)
    assert nodes.stdin is not None
    print("lose one", file=nodes.stdin, flush=True)
    answer(nodes, "LOST")
    out, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, out
    assert "0 failed" in out
    own = {**environment, "EMAN_HOME": str(swept)}
    own.pop("MLFLOW_TRACKING_URI")
    assert table(environment) == table(own)
    trainings = store.by_key(TRAINING)
    machines = {key: [owner.partition("/")[0] for owner in record.claims] for key, record in trainings.items()}
    assert any(len(set(owners)) > 1 for owners in machines.values())  # resumed on another node
    evaluated = [(record.tags["eman.run"], record.host) for record in store.records(EVALUATION)]
    assert any(host not in machines[run] for run, host in evaluated)  # by a node that has never seen the run
    assert not (tmp_path / "driver" / "copies").exists()  # nor has the driver any file of it

"""A node that is drained: the run leaves a checkpoint, moves to other nodes, and ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing as mp

from eman.platform import checkpoint
from eman.platform.storage import Place
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers.loop import fit
from eman.trainers.spec.run import RunSpec

#: Enough that the notice, some seconds after the second epoch, finds the run still training on a fast machine.
EPOCHS = 24

#: A cluster of a head and two nodes that a run of two workers fills. A word on its input adds a third node and drains
#: the first, as the operator of a cluster does who has been told that a spot machine goes; then that node goes.
CLUSTER = """
import subprocess, sys, tempfile, time
import ray
from ray.cluster_utils import Cluster
def add():
    return cluster.add_node(num_cpus=1, temp_dir=tempfile.mkdtemp(prefix="ray"))
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [add(), add()]
print("READY", cluster.address, flush=True)
sys.stdin.readline()
add()
drain = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address,
         "--node-id", nodes[0].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
         "--deadline-remaining-seconds", "20"]
subprocess.run(drain, check=True, stdout=subprocess.DEVNULL)
time.sleep(20)
cluster.remove_node(nodes[0])
sys.stdin.read()
cluster.shutdown()
"""

#: A sweep of one run of two workers, which prints its epochs as they are reported.
SWEEP = """
import sys
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.events import Progress
from eman.sweeps.run.options import Options
from eman.sweeps.run.sweep import run_sweep
address, epochs = sys.argv[1], int(sys.argv[2])
def listen(state, event):
    if isinstance(event, Progress) and event.metrics:
        print("EPOCH", round(event.share * epochs), flush=True)
sweep = plan(SweepRequest(profile="smoke", methods=["byol"], schemes=["eman"], overrides={"epochs": epochs}))
options = Options(workers=2, address=address, retries=0)
report = run_sweep(sweep, Store(Workspace.from_environment()), options=options, listen=listen)
print("REPORT", report.trained, len(report.failed), flush=True)
"""


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """Nothing but a notice leads to a checkpoint."""
    return {
        **os.environ,
        "EMAN_HOME": str(home),
        "EMAN_CHECKPOINT_SECONDS": "1000000",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(32).hex(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    }


def start(code: str, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


def words(output: IO[str] | None, first: str) -> Iterator[list[str]]:
    """What follows this word on its lines."""
    assert output is not None
    yield from (line.split()[1:] for line in output if line.startswith(first))


def _train(rank: int, folder: str, fields: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    spec = RunSpec.from_flat(json.loads(fields))
    fit(spec, Workspace(folder, data=os.environ.get("EMAN_DATA") or Workspace.data), folder=Place(folder))
    dist.destroy_process_group()


def tensors(path: Place, key: str) -> dict[str, Any]:
    state = checkpoint.load(path, key)
    networks = {"student": state["student"], "teacher": state["teacher"]}
    return {f"{network}.{name}": value for network, part in networks.items() for name, value in part.items()}


@pytest.mark.slow
def test_a_drained_node_costs_no_step_and_no_failure(environment: dict[str, str], home: Path, tmp_path: Path) -> None:
    epochs = []
    with start(CLUSTER, environment) as cluster:
        [address] = next(words(cluster.stdout, "READY"))
        with start(SWEEP, environment, address, str(EPOCHS)) as sweep:
            for [epoch] in words(sweep.stdout, "EPOCH"):
                epochs.append(int(epoch))
                if epoch == "2":
                    assert cluster.stdin is not None
                    cluster.stdin.write("drain\n")
                    cluster.stdin.flush()
        assert sweep.returncode == 0
    assert epochs == list(range(1, EPOCHS + 1))
    [record] = Store(Workspace(str(home))).records(TRAINING)
    assert (record.status, len(record.claims)) == ("done", 2)
    spec = SMOKE.run("byol", "eman", overrides={"epochs": EPOCHS})
    assert spec.key == record.key
    mp.start_processes(_train, (str(tmp_path), json.dumps(spec.flat())), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    moved = tensors(Workspace(str(home)).run_folder(spec.key) / "last.pt", spec.key)
    whole = tensors(Place(str(tmp_path / "last.pt")), spec.key)
    assert moved.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(moved[name], value), name

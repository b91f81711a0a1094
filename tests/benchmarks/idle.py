"""Trials that train nothing, through the driver of sweeps: what the driver costs. `growth.py` runs this file.

`python idle.py empty 500` measures 500 trials, two at a time; `python idle.py at_once 200` checks that 200 can run at
once, on a simulated cluster whose nodes have more CPUs than the machine. PyTorch is not imported.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from eman.platform.cluster import cluster
from eman.platform.store.records import new_id
from eman.platform.workspace import Workspace
from eman.sweeps.plan import plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.events import Done, Event, Lost, Outcome, Progress, Stopped
from eman.sweeps.run.interrupt import Interruption
from eman.sweeps.run.jobs import Config, TrainJob
from eman.sweeps.run.listener import Listener
from eman.sweeps.run.state import SweepState
from eman.sweeps.run.trials import Find
from eman.sweeps.view.terminal import line_of


def empty_trial(config: Config, find: Find) -> None:
    """A training of no steps."""
    from ray import tune

    tune.report({"event": Done(find(config).spec.key)})


def waiting_trial(config: Config, find: Find) -> None:
    """A training that begins its work when all others of the sweep are there too."""
    from ray import tune

    job = find(config)
    here = job.workspace.local / "here"
    (here / job.spec.key).touch()
    while len(os.listdir(here)) < int(job.profile):
        tune.report({"event": Progress(job.spec.key, 0.0)})
        time.sleep(5.0)
    tune.report({"event": Done(job.spec.key)})


def drive(trainable: Any, number: int, home: Path, resources: dict[str, float], concurrent: int) -> SweepState:
    """The state after trials that train nothing, through the driver of sweeps: Tune, its callback, the reducer, and the
    lines of a terminal.
    """
    from eman.sweeps.run.tuning import run_jobs

    workspace = Workspace(str(home))
    seeds = min(number, 50)
    rates = [1 / (1 + rate) for rate in range(number // seeds)]
    sweep = plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["bn"], seeds=seeds, grid={"lr": rates}))
    jobs = [
        TrainJob(
            spec=spec,
            title=sweep.titles[key],
            profile=str(number),
            workspace=workspace,
            launch=new_id(),
            varying=sweep.varying,
        )
        for key, spec in sweep.trainings.items()
    ]
    state = SweepState(sweep)

    def emit(event: Event) -> None:
        state.apply(event)
        line_of(state, event)

    def lost(event: Lost) -> Outcome:
        raise RuntimeError(event.reason)

    def stopped(key: str) -> Stopped:
        raise RuntimeError(f"nothing stops {key}")

    listener = Listener(Interruption(), emit, lost, stopped)
    run_jobs(trainable, jobs, resources=resources, concurrent=concurrent, workspace=workspace, listener=listener)
    return state


def empty(number: int) -> dict[str, float]:
    """Run trials one after the other; return what they cost."""
    with tempfile.TemporaryDirectory() as folder, cluster(cpus=2):
        home, me = Path(folder), psutil.Process()
        drive(empty_trial, 20, home, {"CPU": 1.0}, 2)  # imports, processes
        before, started = me.memory_info().rss, time.monotonic()
        state = drive(empty_trial, number, home, {"CPU": 1.0}, 2)
        seconds = time.monotonic() - started
        if state.ended() != number:
            raise RuntimeError(f"{state.ended()} of {number} trials ended")
        files = sum(path.is_file() for path in home.rglob("*"))
        return {"seconds": seconds, "KiB": (me.memory_info().rss - before) / 1024, "files": files}


def at_once(number: int) -> dict[str, float]:
    """Run trials each of which waits for all others; return how long they took."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(4):
            nodes.add_node(num_cpus=-(-number // 4), temp_dir=tempfile.mkdtemp(prefix="ray"))
        (Path(folder) / "here").mkdir()
        with cluster(nodes.address):
            started = time.monotonic()
            state = drive(waiting_trial, number, Path(folder), {"CPU": 1.0}, number)
            seconds = time.monotonic() - started
        if state.ended() != number:
            raise RuntimeError(f"{state.ended()} of {number} trials ended")
        nodes.shutdown()
    return {"seconds": seconds}


if __name__ == "__main__":
    print(json.dumps({"empty": empty, "at_once": at_once}[sys.argv[1]](int(sys.argv[2]))))

"""How a sweep's time grows with its runs, what a trial costs beyond its training, and what more devices cost:
`make bench-growth`. The runs are tiny (profile smoke, one epoch, no evaluation after it), so that all shows that is not
training. The last two parts train nothing at all. Nothing here passes or fails.

`python growth.py NAME...` runs only these parts.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bench import about, machine, medians

from eman.platform.cluster import cluster
from eman.platform.store.records import new_id
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import plan
from eman.sweeps.profiles.mini import MINI
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.events import Done, Event, Lost, Outcome, Progress
from eman.sweeps.run.interrupt import Interruption
from eman.sweeps.run.jobs import TrainJob
from eman.sweeps.run.options import Options, Report
from eman.sweeps.run.state import SweepState
from eman.sweeps.run.sweep import run_sweep
from eman.sweeps.view.terminal import line_of
from eman.trainers.training import Training

SCHEMES = ("default", "bn", "syncbn", "gn", "in", "ln", "eman")
SEEDS = (5, 10, 20, 50)  # 35, 70, 140 and 350 runs
DEVICES = (8, 16, 32, 64)
TRIALS = (250, 500, 1000, 2000)  # of nothing
AT_ONCE = 200


def swept(schemes: tuple[str, ...], seeds: int, workers: int) -> tuple[Report, int]:
    """What a sweep of FixMatch runs in a new work folder says of itself, and the bytes of its store."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EMAN_HOME"] = folder
        planned = plan(
            SweepRequest(
                profile="smoke",
                methods=["fixmatch"],
                schemes=schemes,
                seeds=seeds,
                overrides={"epochs": 1, "warmup_epochs": 0.0},
            )
        )
        with contextlib.redirect_stderr(io.StringIO()):
            report = run_sweep(planned, Store(Workspace.from_environment()), options=Options(workers=workers))
        if report.failed:
            raise RuntimeError("\n".join(report.failed))
        return report, sum(path.stat().st_size for path in Path(folder).glob("*.db"))


def runs() -> None:
    """Runs that are trained inside their trials."""
    found = {}
    for seeds in SEEDS:
        report, size = swept(SCHEMES, seeds, workers=1)
        found[seeds] = report
        beyond = report.seconds * report.cores - report.training_seconds
        each = [x / report.trained for x in (report.seconds, report.training_seconds, beyond, size / 1024)]
        print(
            f"{report.trained:4} runs                      {report.seconds:.0f} s; a run: {each[0]:.2f} s, "
            f"{each[1]:.2f} core-s of training, {each[2]:.2f} core-s beyond it, {each[3]:.0f} KiB in the store",
            flush=True,
        )
    least, most = found[SEEDS[0]], found[SEEDS[-1]]
    more = most.trained - least.trained
    wall, training = most.seconds - least.seconds, most.training_seconds - least.training_seconds
    print(f"one more run in its trial      {(wall * most.cores - training) / more:.2f} core-s beyond its training")


def workers() -> None:
    """Runs of two workers, through Ray Train."""
    one, many = (swept(("eman",), seeds, workers=2)[0] for seeds in (1, 11))
    wall = (many.seconds - one.seconds) / 10
    training = (many.training_seconds - one.training_seconds) / 10 / 2
    print(
        f"one more run of two workers    {wall - training:.1f} s beyond its training of {training:.1f} s; "
        f"a sweep of one run {one.seconds:.0f} s"
    )


def devices() -> None:
    """A step of MoCo with the mini net."""
    trainings = {
        number: Training.fresh(MINI.run("moco", "eman", overrides={"devices": number}), Workspace.from_environment())
        for number in DEVICES
    }
    found = medians({str(number): one.train_step for number, one in trainings.items()}, 15)
    steps = ", ".join(f"{number}: {1e3 * seconds:.0f} ms" for number, seconds in found.items())
    print(f"devices, a step of MoCo        {steps}; 64 take {found['64'] / found['8']:.2f}x the time of 8")


def empty_trial(config: dict[str, TrainJob]) -> None:
    """A training of no steps."""
    from ray import tune

    tune.report({"event": Done(config["job"].spec.key)})


def waiting_trial(config: dict[str, TrainJob]) -> None:
    """A training that begins its work when all others of the sweep are there too."""
    from ray import tune

    job = config["job"]
    here = job.workspace.home / "here"
    (here / job.spec.key).touch()
    while len(os.listdir(here)) < AT_ONCE:
        tune.report({"event": Progress(job.spec.key, 0.0)})
        time.sleep(5.0)
    tune.report({"event": Done(job.spec.key)})


def drive(trainable: Any, number: int, home: Path, resources: dict[str, float], concurrent: int) -> SweepState:
    """The state after trials that train nothing, through the driver of sweeps: Tune, its callback, the reducer, and the
    lines of a terminal.
    """
    from eman.sweeps.run.tuning import Follow, run_jobs

    workspace = Workspace(home)
    sweep = plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["bn"], seeds=range(number)))
    jobs = [
        TrainJob(spec=spec, title=sweep.titles[key], profile="smoke", workspace=workspace, launch=new_id())
        for key, spec in sweep.trainings.items()
    ]
    state = SweepState(sweep)

    def emit(event: Event) -> None:
        state.apply(event)
        line_of(state, event)

    def lost(event: Lost) -> Outcome:
        raise RuntimeError(event.reason)

    follow = Follow(Interruption(), emit, lost)
    run_jobs(trainable, jobs, resources=resources, concurrent=concurrent, workspace=workspace, follow=follow)
    return state


def empty(number: int) -> None:
    """Print what this many trials that train nothing cost, as JSON."""
    with tempfile.TemporaryDirectory() as folder, cluster(cpus=2):
        home, me = Path(folder), psutil.Process()
        drive(empty_trial, 20, home, {"CPU": 1.0}, 2)  # imports, processes
        before, started = me.memory_info().rss, time.monotonic()
        state = drive(empty_trial, number, home, {"CPU": 1.0}, 2)
        seconds = time.monotonic() - started
        assert state.over() == number
        files = sum(path.is_file() for path in home.rglob("*"))
        print(json.dumps({"seconds": seconds, "KiB": (me.memory_info().rss - before) / 1024, "files": files}))


def trials() -> None:
    """Trials that train nothing, each number in a process of its own."""
    found = []
    for number in TRIALS:
        code = f"import growth; growth.empty({number})"
        child = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True
        )
        found.append(json.loads(child.stdout.splitlines()[-1]))
        one = found[-1]
        print(
            f"{number:4} trials of nothing         {one['seconds']:.0f} s; a trial: {one['seconds'] / number:.3f} s, "
            f"{one['KiB'] / number:.1f} KiB of the driver; files left: {one['files']}",
            flush=True,
        )
    slopes = {name: np.polyfit(TRIALS, [one[name] for one in found], 1)[0] for name in ("seconds", "KiB")}
    print(f"one more trial, a linear fit   {slopes['seconds']:.3f} s, {slopes['KiB']:.1f} KiB of the driver")


def at_once() -> None:
    """Trials that all run at once, on a simulated cluster whose nodes have more CPUs than there are."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(4):
            nodes.add_node(num_cpus=AT_ONCE // 4, temp_dir=tempfile.mkdtemp(prefix="ray", dir=folder))
        (Path(folder) / "here").mkdir()
        with cluster(nodes.address):
            started = time.monotonic()
            state = drive(waiting_trial, AT_ONCE, Path(folder), {"CPU": 1.0}, AT_ONCE)
            assert state.over() == AT_ONCE
            print(f"{AT_ONCE} trials at once             on 4 nodes: {time.monotonic() - started:.0f} s")
        nodes.shutdown()


PARTS = {part.__name__: part for part in (devices, runs, workers, trials, at_once)}


def main() -> int:
    """Prints the parts of these names, or all."""
    print(about(machine()))
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())

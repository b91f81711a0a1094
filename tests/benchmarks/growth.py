"""How a sweep's time grows with its runs, what a trial costs beyond its training, and what more devices cost:
`make bench-growth`. The runs are tiny (profile smoke, one epoch, no evaluation after it), so that all shows that is not
training. `trials` and `at_once` train nothing at all. Nothing here passes or fails.

`python growth.py NAME...` runs only these parts: devices, runs, workers, trials, or at_once, which runs only by name.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench import about, machine, medians

from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import plan
from eman.sweeps.profiles.mini import MINI
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.options import Options, Report
from eman.sweeps.run.sweep import run_sweep
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


def idle(what: str, number: int) -> dict[str, float]:
    """What `idle.py` prints, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("idle.py")), what, str(number)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def trials() -> None:
    """Trials that train nothing."""
    found = []
    for number in TRIALS:
        found.append(idle("empty", number))
        one = found[-1]
        print(
            f"{number:4} trials of nothing         {one['seconds']:.0f} s; a trial: {one['seconds'] / number:.3f} s, "
            f"{one['KiB'] / number:.1f} KiB of the driver; files left: {one['files']}",
            flush=True,
        )
    slopes = {name: np.polyfit(TRIALS, [one[name] for one in found], 1)[0] for name in ("seconds", "KiB")}
    print(f"one more trial, a linear fit   {slopes['seconds']:.3f} s, {slopes['KiB']:.1f} KiB of the driver")


def at_once() -> None:
    """Trials that all run at once."""
    print(f"{AT_ONCE:4} trials at once, on 4 nodes  {idle('at_once', AT_ONCE)['seconds']:.0f} s")


PARTS = {part.__name__: part for part in (devices, runs, workers, trials)}
LARGE = {at_once.__name__: at_once}  # 200 processes, each of which imports Ray Tune


def main() -> int:
    """Prints the parts of these names, or all but the large one."""
    print(about(machine()))
    for name in sys.argv[1:] or PARTS:
        (PARTS | LARGE)[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())

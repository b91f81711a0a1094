"""Options and report of a launch, and the resources of its runs."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eman.platform.cluster import Resources, request_room
from eman.platform.errors import UserError
from eman.sweeps.plan import Sweep
from eman.sweeps.run.jobs import Workers
from eman.trainers.spec.labels import scheme_of
from eman.trainers.spec.run import RunSpec

if TYPE_CHECKING:
    import pandas as pd

#: Seconds between checks of a growing cluster.
_GROWTH_SECONDS = 2.0

#: A cluster whose size has not changed for so many seconds has stopped growing.
_SETTLED_SECONDS = 60.0

#: Workers to ask an autoscaler for at most; it has its own limits too.
_MOST_BUNDLES = 1000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a launch. None of them changes a result.

    Attributes:
        workers: Workers per training: a number, a range, ``"auto"`` for the largest divisor of the devices that fits
            the cluster, or ``None`` for the profile's number, else one.
        cpus: CPUs per worker; with a fraction, several runs share one. Default: 1.
        gpus: GPUs per worker, likewise. Default: 1 if the cluster has any.
        retries: Retries of a failed run in this launch.
        address: Address of a Ray cluster; ``None`` to start one on this machine.
        wait: Seconds to wait for a growing cluster to fit one run.
        note, tags: Text and tags of the sweep's run in the store.
    """

    workers: Workers | str | None = None
    cpus: float | None = None
    gpus: float | None = None
    retries: int = 1
    address: str | None = None
    wait: float = 0.0
    note: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """Report of a launch: trainings and evaluations carried out, trainings reused, names and reasons of failed runs.

    ``training_seconds`` is the time in training loops, summed over workers; ``cores`` is 0 if nothing ran;
    ``trials`` are Ray Tune's tables of the trainings.
    """

    trained: int = 0
    evaluated: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    training_seconds: float = 0.0
    cores: float = 0.0
    interrupted: bool = False
    trials: list["pd.DataFrame"] = field(default_factory=list)

    @property
    def efficiency(self) -> float:
        return self.training_seconds / (self.seconds * self.cores) if self.seconds and self.cores else 0.0

    def lines(self) -> list[str]:
        out = [
            f"{self.trained} trained, {self.reused} reused, {self.evaluated} evaluations, "
            f"{len(self.failed)} failed, {self.seconds:.0f} s"
        ]
        if self.efficiency:
            out.append(
                f"sweep efficiency {self.efficiency:.2f} ({self.training_seconds:.0f} s of training / "
                f"({self.seconds:.0f} s x {self.cores:.0f} cores))"
            )
        return out + [f"failed: {line}" for line in self.failed]


def largest_divisor(devices: int, most: int) -> int:
    """Return the largest divisor of the devices that is at most ``most``."""
    return max(number for number in range(1, max(most, 1) + 1) if devices % number == 0)


def workers_of(spec: RunSpec, sweep: Sweep, options: Options, resources: Resources) -> Workers:
    """Return a run's workers: the options', else the profile's, limited by the cluster's CPUs."""
    if isinstance(options.workers, int | tuple):
        return options.workers
    if sweep.request.scheduler != "none":  # see check_workers
        return 1
    room = max(1, math.floor(resources.cpus / (options.cpus or 1.0)))
    wanted = room
    if options.workers is None:
        wanted = 1
        for (method, scheme), count in sweep.profile.workers.items():
            if spec.method.name == method and scheme_of(spec) == scheme_of(sweep.profile.run(method, scheme)):
                wanted = count
    return largest_divisor(spec.norm.devices, min(wanted, room))


def worker_resources(options: Options, resources: Resources) -> dict[str, float]:
    """Return the resources that Ray reserves for one worker."""
    gpus = options.gpus if options.gpus is not None else float(resources.gpus > 0)
    return {"CPU": 1.0 if options.cpus is None else options.cpus} | ({"GPU": gpus} if gpus else {})


def wait_for_room(options: Options, resources: Resources, runs: int = 1) -> Resources:
    """Wait until one run fits the cluster, for at most ``options.wait`` seconds; return its resources.

    The autoscaler of a cluster that is too small is asked for room for all ``runs`` at once. Then this returns when
    they fit, or when one fits and the cluster has stopped growing.

    Raises:
        UserError: No run fits.
    """
    fewest = options.workers[0] if isinstance(options.workers, tuple) else options.workers
    workers = fewest if isinstance(fewest, int) else 1

    def fits(resources: Resources, runs: int = 1) -> bool:
        needs = worker_resources(options, resources)
        total = runs * workers
        return total * needs["CPU"] <= resources.cpus and total * needs.get("GPU", 0) <= resources.gpus

    if fits(resources):
        return resources
    if options.wait:
        bundles = [worker_resources(options, resources)] * min(_MOST_BUNDLES, workers * max(runs, 1))
        deadline, changed = time.monotonic() + options.wait, time.monotonic()
        with request_room(bundles):
            while time.monotonic() < deadline and not fits(resources, runs):
                if fits(resources) and time.monotonic() - changed >= _SETTLED_SECONDS:
                    break
                time.sleep(_GROWTH_SECONDS)
                now = resources.now()
                changed, resources = (changed if now == resources else time.monotonic()), now
    if not fits(resources):
        needed = ", ".join(f"{workers * need:g} {name}" for name, need in worker_resources(options, resources).items())
        waited = f" after {options.wait:.0f} s" if options.wait else ""
        raise UserError(
            f"one run needs {needed} ({workers} workers), and the cluster has {resources.cpus:g} CPU, "
            f"{resources.gpus:g} GPU{waited}; give fewer --workers, less --cpus or --gpus, a larger cluster with "
            f"--address, or --wait SECONDS for one that grows."
        )
    return resources

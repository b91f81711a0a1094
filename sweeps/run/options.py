"""How a sweep is carried out, what it did, and the resources of its runs."""

import math
import time
from dataclasses import dataclass, field

from eman.platform.cluster import Resources
from eman.platform.errors import UserError
from eman.sweeps.plan import Sweep
from eman.sweeps.run.jobs import Workers
from eman.trainers.spec.labels import scheme_of
from eman.trainers.spec.run import RunSpec

#: Seconds between two looks at a cluster that grows.
_GROWTH_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a sweep is carried out. None of it changes a result.

    Attributes:
        workers: Workers of each training: a number, the fewest and the most, ``"auto"`` for as many as the cluster has
            CPUs and the devices can be divided by, or ``None`` for the profile's choice, else one.
        cpus: CPUs of each worker; fractions let several runs share one. Default: 1.
        gpus: GPUs of each worker, likewise. Default: 1 where the cluster has any.
        retries: How often this launch tries a failed run again.
        address: A running Ray cluster; ``None`` for one of this machine's cores.
        wait: Seconds to wait for a cluster that grows to have room for one run.
    """

    workers: Workers | str | None = None
    cpus: float | None = None
    gpus: float | None = None
    retries: int = 1
    address: str | None = None
    wait: float = 0.0


@dataclass
class Report:
    """What a launch did.

    Attributes:
        trained, evaluated: Runs that were carried out.
        reused: Trainings that were done before.
        failed: Names of runs without a result, with the reason.
        seconds: Wall time.
        training_seconds: Seconds spent in training loops, over all workers.
        cores: Cores of the cluster; 0 if nothing had to run.
        interrupted: Whether it was stopped before its end.
    """

    trained: int = 0
    evaluated: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    training_seconds: float = 0.0
    cores: float = 0.0
    interrupted: bool = False

    @property
    def efficiency(self) -> float:
        """Training seconds over wall seconds times cores."""
        return self.training_seconds / (self.seconds * self.cores) if self.seconds and self.cores else 0.0

    def lines(self) -> list[str]:
        """Return the report for a person."""
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
    """Return the largest number of workers, at most ``most``, that divides the devices."""
    return max(number for number in range(1, max(most, 1) + 1) if devices % number == 0)


def workers_of(spec: RunSpec, sweep: Sweep, options: Options, resources: Resources) -> Workers:
    """Return the workers of a run: what the options say, else the profile, as far as the cluster has room."""
    if isinstance(options.workers, int | tuple):
        return options.workers
    room = max(1, math.floor(resources.cpus / (options.cpus or 1.0)))
    wanted = room
    if options.workers is None:
        wanted = 1
        for (method, scheme), count in sweep.profile.workers.items():
            if spec.method.name == method and scheme_of(spec) == scheme_of(sweep.profile.run(method, scheme)):
                wanted = count
    return largest_divisor(spec.norm.devices, min(wanted, room))


def worker_resources(options: Options, resources: Resources) -> dict[str, float]:
    """Return what Ray reserves for one worker."""
    gpus = options.gpus if options.gpus is not None else float(resources.gpus > 0)
    return {"CPU": 1.0 if options.cpus is None else options.cpus} | ({"GPU": gpus} if gpus else {})


def wait_for_room(options: Options, resources: Resources) -> Resources:
    """Wait until one run fits the cluster, for at most ``options.wait`` seconds.

    Raises:
        UserError: It does not fit.
    """
    fewest = options.workers[0] if isinstance(options.workers, tuple) else options.workers
    workers = fewest if isinstance(fewest, int) else 1
    deadline = time.monotonic() + options.wait
    while True:
        needs = {name: workers * need for name, need in worker_resources(options, resources).items()}
        if needs.get("CPU", 0) <= resources.cpus and needs.get("GPU", 0) <= resources.gpus:
            return resources
        if time.monotonic() >= deadline:
            asked = ", ".join(f"{value:g} {name}" for name, value in needs.items())
            waited = f" after {options.wait:.0f} s" if options.wait else ""
            raise UserError(
                f"one run needs {asked} ({workers} workers), and the cluster has {resources.cpus:g} CPU, "
                f"{resources.gpus:g} GPU{waited}; give fewer --workers, less --cpus or --gpus, a larger cluster with "
                f"--address, or --wait SECONDS for one that grows."
            )
        time.sleep(_GROWTH_SECONDS)
        resources = resources.now()

"""Jobs: the work of one Ray Tune trial."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

from eman.evaluation.protocols.spec import EvalSpec
from eman.platform.modules import Shipment
from eman.platform.workspace import Workspace
from eman.trainers.spec.kinds import Value
from eman.trainers.spec.labels import record_params, scheme_label
from eman.trainers.spec.run import RunSpec

#: Number of processes of one run, or a range within which Ray Train may change it.
Workers = int | tuple[int, int]


def max_workers(workers: Workers) -> int:
    """Return the largest number of workers that a run may have."""
    return workers[1] if isinstance(workers, tuple) else workers


#: The configuration of a Tune trial.
Config = dict[str, Value]


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """A job. Where it is unpickled, the modules of the process that pickled it are imported first.

    Attributes:
        title: Display name of the training, or of the run to evaluate.
        workspace: Workspace to read and write.
        launch: Id of the launch.
        parent: MLflow run of the sweep or, for evaluations, of the training; ``None`` for `eman train`.
        sweep: MLflow run of the sweep; empty for `eman train` and `eman evaluate`.
        command: The command that repeats it, for its description.
    """

    title: str
    workspace: Workspace
    launch: str
    parent: str | None = None
    sweep: str = ""
    command: str = ""

    @property
    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """Keys of the runs that the job fills."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (Shipment(), type(self), {part.name: getattr(self, part.name) for part in fields(self)})

    def here(self) -> Self:
        """Return the job for the machine that carries it out."""
        return replace(self, workspace=self.workspace.here())

    @property
    @abstractmethod
    def config(self) -> Config:
        """What distinguishes the job in Ray's tables, and ``key``, by which its trial finds it."""


def _received(_installed: None, kind: type["JobT"], values: Mapping[str, Any]) -> "JobT":
    return kind(**values)


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """One training.

    Attributes:
        spec: The run.
        profile: Name of its profile.
        workers: Number of processes.
        resources: Resources that Ray reserves for each worker.
        previous_owner: Owner of the finished run that is trained again because its files are gone; else empty.
        varying: Fields in which the sweep's runs differ.
        stoppable: Whether a scheduler may stop it, so that it saves a checkpoint before every report of an epoch.
    """

    spec: RunSpec
    profile: str
    workers: Workers = 1
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    previous_owner: str = ""
    varying: tuple[str, ...] = ()
    stoppable: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.spec.key,)

    @property
    def config(self) -> Config:
        flat = record_params(self.spec)
        named: Config = {"method": self.spec.method.name, "scheme": scheme_label(self.spec), "seed": self.spec.seed}
        return {**named, **{name: _plain(flat.get(name)) for name in self.varying}, "key": self.spec.key}


@dataclass(frozen=True, kw_only=True)
class EvalJob(Job):
    """Evaluations of one run that share their computation; ``tags`` are the run's profile, method, scheme, colour."""

    specs: tuple[EvalSpec, ...]
    tags: Mapping[str, str]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(spec.key for spec in self.specs)

    @property
    def config(self) -> Config:
        protocol, run = self.specs[0].protocol.name, self.specs[0].run
        named: Config = {"method": self.tags["method"], "scheme": self.tags["scheme"]}
        return {**named, "protocol": protocol, "run": run, "key": self.keys[0]}


def _plain(value: Value) -> Value:
    """Return a value that Tune does not take apart."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


JobT = TypeVar("JobT", TrainJob, EvalJob)

"""Jobs: the work of one Ray Tune trial."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from eman.evaluation.protocols.spec import EvalSpec
from eman.platform.workspace import Workspace
from eman.trainers.spec.run import RunSpec

#: Number of processes of one run, or a range within which Ray Train may change it.
Workers = int | tuple[int, int]


def max_workers(workers: Workers) -> int:
    """Return the largest number of workers that a run may have."""
    return workers[1] if isinstance(workers, tuple) else workers


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training.

    Attributes:
        spec: The run.
        title: Its display name.
        profile: Name of its profile.
        workspace: Workspace to read and write.
        launch: Id of the launch.
        parent: MLflow run of the sweep; ``None`` for a run in the foreground.
        workers: Number of processes.
        resources: Resources that Ray reserves for each worker.
        redo: Owner of the finished run, if it is trained again because its files are gone; else empty.
    """

    spec: RunSpec
    title: str
    profile: str
    workspace: Workspace
    launch: str
    parent: str | None = None
    workers: Workers = 1
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    redo: str = ""

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys of the runs that the job carries out."""
        return (self.spec.key,)

    def __str__(self) -> str:
        return self.spec.key


@dataclass(frozen=True, kw_only=True)
class EvalJob:
    """Evaluations of one run that share their computation, for example a grid of learning rates.

    Attributes:
        specs: The evaluations.
        title: Display name of the evaluated run.
        tags: Tags copied from the run: profile, method, scheme.
        workspace: Workspace to read and write.
        launch: Id of the launch.
        parent: MLflow run of the training.
    """

    specs: tuple[EvalSpec, ...]
    title: str
    tags: Mapping[str, str]
    workspace: Workspace
    launch: str
    parent: str

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys of the runs that the job carries out."""
        return tuple(spec.key for spec in self.specs)

    def __str__(self) -> str:
        return self.specs[0].key


Job = TrainJob | EvalJob

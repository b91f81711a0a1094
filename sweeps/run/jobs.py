"""Jobs: what one trial of Ray Tune carries out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from eman.evaluation.protocols.spec import EvalSpec
from eman.platform.workspace import Workspace
from eman.trainers.spec.run import RunSpec

#: Processes of one run: a number, or the fewest and the most between which Ray Train may change it.
Workers = int | tuple[int, int]


def most(workers: Workers) -> int:
    """Return the largest number of workers that a run may have."""
    return workers[1] if isinstance(workers, tuple) else workers


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training.

    Attributes:
        spec: The run.
        title: Its name, for people.
        profile: Name of the profile that it was planned at.
        workspace: Where it reads and writes.
        launch: Identifier of the launch that carries it out.
        parent: MLflow run of the sweep; ``None`` for a run in the foreground.
        workers: Processes that train it.
        resources: What Ray reserves for each worker.
        redo: Owner that has finished the run although its files are gone, so that it is trained again; else empty.
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
        title: Name of the run that they evaluate, for people.
        tags: The run's tags that its evaluations repeat: profile, method, scheme.
        workspace: Where they read and write.
        launch: Identifier of the launch that carries them out.
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

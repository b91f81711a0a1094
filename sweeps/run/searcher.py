"""Let Optuna choose the points of a search, as a searcher of Ray Tune. This module imports Ray and Optuna.

The store holds the observations: a repeated launch begins with every point that has a value there.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import TrialState
from ray import put
from ray.tune.search import Searcher

from eman.evaluation.results.values import Results
from eman.platform.errors import UserError
from eman.sweeps.grid import Point, axes_of, grid_points_of
from eman.sweeps.plan import Sweep
from eman.sweeps.run.events import Failed
from eman.sweeps.run.jobs import Config, TrainJob
from eman.sweeps.search.objective import mode_of, objective_of
from eman.sweeps.search.outcome import observed
from eman.sweeps.search.study import Axes, ask, study_of
from eman.trainers.spec.kinds import Value

#: Consecutive points, known already or not allowed, after which a space counts as exhausted.
_TRIES = 30

#: Make the point of a scheme with these fields, and the jobs of its runs.
Make = Callable[[str, Mapping[str, Value]], tuple[Point, list[TrainJob]]]


@dataclass
class Space:
    """The search of one scheme: its study, its axes, the keys of known points, and the number of points to ask for."""

    scheme: str
    study: Any
    axes: Axes
    known: set[str]
    left: int


@dataclass
class _PendingPoint:
    """A suggested point; `values` are the objectives of its ended runs, ``None`` for a run without one."""

    space: Space
    trial: Any
    runs: int
    values: list[float | None] = field(default_factory=list)


def spaces_of(sweep: Sweep, method: str, results: Results) -> list[Space]:
    """Return the search of each scheme of a method, with the observations in the store."""
    request, scope = sweep.request, sweep.scope
    points = [point for point in grid_points_of(request, scope) if point.method == method]
    spaces = []
    for scheme in dict.fromkeys(request.schemes):
        axes = axes_of(request, method, scheme)
        mine = [point for point in points if point.scheme == scheme]
        if axes:
            run = scope.run(method, scheme, scope.seeds[0])
            objective = objective_of(request.objective, run, while_training=True)
            seen = [observed(point, objective, results) for point in mine]
            known = [(o.point.fields, o.value) for o in seen if o.value is not None]
            study = study_of(axes, known, mode_of(objective), request)
            spaces.append(Space(scheme, study, axes, {p.runs[0].key for p in mine}, request.samples - len(mine)))
    return spaces


class OptunaSearcher(Searcher):
    """Suggest runs until every space has had its points; the runs of one point follow each other."""

    def __init__(self, objective: str, mode: str, spaces: list[Space], make: Make) -> None:
        super().__init__(metric=objective, mode=mode)
        self._objective, self._spaces, self._make = objective, spaces, make
        self._queue: list[tuple[_PendingPoint, TrainJob]] = []
        self._running: dict[str, _PendingPoint] = {}
        self._last: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher, and the store has what this one knows

    def set_search_properties(self, metric: str | None, mode: str | None, config: Config, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        while not self._queue:
            space = max(self._spaces, key=lambda space: space.left)
            if space.left <= 0:
                return Searcher.FINISHED
            self._queue_point(space)
        self._running[trial_id], job = self._queue.pop(0)
        return {**job.config, "job": put(job)}

    def _queue_point(self, space: Space) -> None:
        """Ask Optuna for one more point, and queue its runs."""
        for _ in range(_TRIES):
            trial, fields = ask(space.study, space.axes)
            try:
                point, jobs = self._make(space.scheme, fields)
            except UserError:  # a relation between fields forbids it
                space.study.tell(trial, state=TrialState.FAIL)
                continue
            key = point.runs[0].key
            if key not in space.known:
                space.known.add(key)
                space.left -= 1
                pending = _PendingPoint(space, trial, len(jobs))
                self._queue += [(pending, job) for job in jobs]
                return
            space.study.tell(trial, state=TrialState.FAIL)
        space.left = 0

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if isinstance(result.get("event"), Failed):
            self._last.pop(trial_id, None)
        elif self._objective in result:
            self._last[trial_id] = float(result[self._objective])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result is not None:
            self.on_trial_result(trial_id, result)
        point = self._running.pop(trial_id)
        point.values.append(None if error else self._last.pop(trial_id, None))
        if len(point.values) == point.runs:
            known = [value for value in point.values if value is not None]
            if len(known) == point.runs:
                point.space.study.tell(point.trial, statistics.fmean(known))
            else:
                point.space.study.tell(point.trial, state=TrialState.FAIL)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the store has the observations."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Set nothing."""

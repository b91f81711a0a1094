"""The outcome of a search: the value of each point, the best one, and how much each field matters."""

import itertools
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from eman.evaluation.results.values import Results
from eman.platform.store.records import Status
from eman.sweeps.grid import Point, axes_of, grid_points_of
from eman.sweeps.plan import Sweep
from eman.sweeps.request import SweepRequest
from eman.sweeps.search.objective import mode_of, objective_of
from eman.sweeps.search.space import Range
from eman.sweeps.search.study import study_of
from eman.trainers.spec.kinds import Value

#: Least number of observations from which importance is computed.
_LEAST = 4


@dataclass(frozen=True)
class Observation:
    """A point and its objective: the mean over its seeds, or ``None`` until all have a value.

    ``status`` is the first of running, missing, stopped and failed that any of its runs has, else done. The value of a
    stopped run is the last one that it reported.
    """

    point: Point
    title: str
    value: float | None
    status: Status


@dataclass(frozen=True)
class SearchOutcome:
    """The search of one method."""

    method: str
    objective: str
    request: SweepRequest
    observations: tuple[Observation, ...]

    @property
    def valued(self) -> tuple[Observation, ...]:
        return tuple(observation for observation in self.observations if observation.value is not None)

    @property
    def best(self) -> Observation | None:
        """The best point whose runs are finished."""
        done = [observation for observation in self.valued if observation.status == "done"]
        choose = min if mode_of(self.objective) == "min" else max
        return choose(done, key=lambda observation: observation.value or 0.0, default=None)

    @property
    def fields(self) -> dict[str, Sequence[Value] | Range]:
        """The searched fields that this method has, with their values or ranges; `scheme` if there are several."""
        schemes = tuple(dict.fromkeys(self.request.schemes))
        axes = [axes_of(self.request, self.method, scheme) for scheme in schemes]
        found = {name: values for each in axes for name, values in each.items()}
        return {**({"scheme": schemes} if len(schemes) > 1 else {}), **found}

    def values_of(self, field: str) -> list[tuple[Value, float]]:
        """Return the field's value and the objective of each point that has both."""
        return [
            (known, observation.value)
            for observation in self.valued
            if observation.value is not None and (known := _field(observation.point, field)) is not None
        ]

    @property
    def importance(self) -> dict[str, float]:
        """Importance of each field, from 0 to 1; empty if there are too few points.

        For a search by Optuna of one scheme, Optuna's own measure; else the rank correlation.
        """
        if len(self.valued) < _LEAST:
            return {}
        if self.by_optuna:
            return _optuna_importance(self)
        return {name: _rank_correlation(self.values_of(name)) for name in self.fields}

    @property
    def by_optuna(self) -> bool:
        pairs = {observation.point.scheme for observation in self.observations}
        return self.request.search == "optuna" and find_spec("optuna") is not None and len(pairs) == 1

    def lines(self) -> Iterator[str]:
        """Yield the outcome as lines of text."""
        better = "smaller" if mode_of(self.objective) == "min" else "larger"
        counts = Counter(observation.status for observation in self.observations)
        counted = ", ".join(f"{count} {status}" for status, count in counts.items())
        yield f"Search of {self.method} by {self.objective}, {better} is better: {counted or 'no points yet'}."
        if self.best is not None:
            keys = ", ".join(run.key[:8] for run in self.best.point.runs)
            yield f"  best: {self.best.value:.4g} at {self.best.title} (run {keys})"
        measure = "Optuna's measure" if self.by_optuna else "correlation of ranks"
        if self.importance:
            ordered = sorted(self.importance.items(), key=lambda item: -item[1])
            yield f"  importance ({measure}): {', '.join(f'{name} {value:.2f}' for name, value in ordered)}"


def outcomes(sweep: Sweep, results: Results) -> list[SearchOutcome]:
    """Return the outcome of a sweep's search, method by method."""
    points = grid_points_of(sweep.request, sweep.scope)
    distinct = {(point.method, point.runs[0].key): point for point in points}.values()
    found = []
    for method, group in itertools.groupby(distinct, key=lambda point: point.method):
        listed = list(group)
        objective = objective_of(sweep.request.objective, listed[0].runs[0], while_training=False)
        observations = tuple(observed(point, objective, results) for point in listed)
        found.append(SearchOutcome(method, objective, sweep.request, observations))
    return found


def observed(point: Point, objective: str, results: Results) -> Observation:
    """Return what the store knows of a point."""
    values = [value for run in point.runs if (value := _value(run.key, objective, results)) is not None]
    states = [results.state(run)[0] for run in point.runs]
    order: tuple[Status, ...] = ("running", "missing", "stopped", "failed")
    status: Status = next((state for state in order if state in states), "done")
    mean = statistics.fmean(values) if len(values) == len(point.runs) else None
    return Observation(point, point.row(), mean, status)


def _value(key: str, objective: str, results: Results) -> float | None:
    """Return a run's objective: its own metric, or the best of its evaluations."""
    record = results.trainings.get(key)
    if record is None or record.status not in ("done", "stopped"):
        return None
    if objective in record.metrics:
        return record.metrics[objective]
    evaluations = [r for r in results.evaluations.values() if r.params.get("run") == key]
    return max((r.metrics[objective] for r in evaluations if objective in r.metrics), default=None)


def _field(point: Point, name: str) -> Value:
    return point.scheme if name == "scheme" else point.fields.get(name)


def _rank_correlation(pairs: Sequence[tuple[Value, float]]) -> float:
    """Return the absolute rank correlation of numbers with the objective; for names, the correlation ratio of ranks."""
    values, ranks = [value for value, _ in pairs], _ranks([objective for _, objective in pairs])
    mean = (len(ranks) + 1) / 2
    total = sum((rank - mean) ** 2 for rank in ranks)
    if not total or len(set(values)) < 2:
        return 0.0
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        return abs(statistics.correlation(_ranks(numbers), ranks))
    groups = [[rank for other, rank in zip(values, ranks, strict=True) if other == value] for value in set(values)]
    between = sum(len(group) * (statistics.fmean(group) - mean) ** 2 for group in groups)
    return float((between / total) ** 0.5)


def _ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def _optuna_importance(outcome: SearchOutcome) -> dict[str, float]:
    from optuna.importance import get_param_importances

    axes = axes_of(outcome.request, outcome.method, outcome.observations[0].point.scheme)
    known = [(o.point.fields, o.value) for o in outcome.valued if o.value is not None]
    study = study_of(axes, known, mode_of(outcome.objective), outcome.request)
    return dict(get_param_importances(study))

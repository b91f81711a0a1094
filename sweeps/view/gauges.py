"""Metrics of a running sweep for Prometheus. Ray exports them from every node and adds ``ray_`` to their names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from eman.evaluation.headline import headline
from eman.sweeps.run.state import STATUSES, SweepState
from eman.trainers.spec.labels import scheme_label
from eman.trainers.spec.run import RunSpec

_SWEEP = ("sweep", "profile")
_ROW = (*_SWEEP, "method", "scheme")


@dataclass(frozen=True)
class Metric:
    """A metric; ``exported`` is its name in Prometheus."""

    name: str
    description: str
    labels: tuple[str, ...]

    @property
    def exported(self) -> str:
        return f"ray_{self.name}"


RUNS = Metric("eman_runs", "Trainings and evaluations by status.", (*_SWEEP, "kind", "status"))
SPEED = Metric("eman_images_per_second", "Images per second, summed over running trainings.", _ROW)
LOSS = Metric("eman_loss", "Training loss of the last epoch, mean over this launch's trainings.", _ROW)
MONITOR = Metric("eman_monitor", "Monitor metric on held-out images, mean like the loss.", (*_ROW, "metric"))
HOURS = Metric("eman_hours_left", "Estimated hours until the sweep ends.", _SWEEP)

#: ASCII spellings of characters in titles: Ray exports only ASCII labels.
_SPELLED = str.maketrans({"α": "alpha", "²": "^2", "·": "-", "×": "x"})

METRICS = (RUNS, SPEED, LOSS, MONITOR, HOURS)


@dataclass(frozen=True)
class Sample:
    """The value of a metric with these labels."""

    metric: Metric
    labels: Mapping[str, str]
    value: float

    @property
    def exported_labels(self) -> dict[str, str]:
        """The labels in ASCII."""
        return {n: v.translate(_SPELLED).encode("ascii", "replace").decode() for n, v in self.labels.items()}


def samples(state: SweepState, now: float | None = None) -> Iterator[Sample]:
    """Yield a sweep's metrics. Like the views, they never show a test metric of a run that selects on held-out images.

    A metric without a value yet, such as the time left of a sweep that has just begun, is omitted.
    """
    sweep = {"sweep": state.sweep.name, "profile": state.sweep.profile.name}
    for kind, trainings in (("training", True), ("evaluation", False)):
        counts = state.count(trainings=trainings)
        for status in STATUSES:
            yield Sample(RUNS, {**sweep, "kind": kind, "status": status}, counts[status])

    def row(spec: RunSpec) -> tuple[str, str]:
        return spec.entry.title, scheme_label(spec)

    for (method, scheme), specs in groupby(sorted(state.sweep.trainings.values(), key=row), row):
        yield from _row_samples(state, list(specs), {**sweep, "method": method, "scheme": scheme})
    left = state.seconds_left(now)
    if left is not None:
        yield Sample(HOURS, sweep, left / 3600)


def _row_samples(state: SweepState, specs: list[RunSpec], labels: Mapping[str, str]) -> Iterator[Sample]:
    """Yield the metrics of the trainings of one method and scheme."""
    running = [state.runs[spec.key] for spec in specs if state.runs[spec.key].status == "running"]
    yield Sample(SPEED, labels, sum(run.metrics.get("train/images_per_second", 0.0) for run in running))
    launched = [(spec, state.runs[spec.key]) for spec in specs if state.runs[spec.key].status in ("running", "done")]
    if losses := [run.metrics["train/loss"] for _, run in launched if "train/loss" in run.metrics]:
        yield Sample(LOSS, labels, fmean(losses))
    name = headline(specs[0].entry)
    monitored = [run.metrics[name] for spec, run in launched if spec.data.held_out and name in run.metrics]
    if monitored:
        yield Sample(MONITOR, {**labels, "metric": name}, fmean(monitored))


class Gauges:
    """Hands the metrics of a sweep to Ray, which must be connected."""

    def __init__(self, state: SweepState) -> None:
        from ray.util.metrics import Gauge

        self._state = state
        self._gauges = {m: Gauge(m.name, m.description, m.labels) for m in METRICS}

    def update(self) -> None:
        """Set every metric to its current value."""
        with self._state.lock:
            found = list(samples(self._state))
        for sample in found:
            self._gauges[sample.metric].set(sample.value, sample.exported_labels)

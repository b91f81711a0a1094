"""The state of a sweep: a reducer of events, with the estimate of the time left."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from eman.evaluation.headline import headline
from eman.evaluation.protocols.groups import eval_title, group_title, together
from eman.evaluation.results.values import Results
from eman.platform.store.records import Record
from eman.sweeps.plan import Sweep
from eman.sweeps.run.events import Done, Event, Failed, Lost, Progress, Started, Stopped, Waiting
from eman.sweeps.work import evaluation_work, work

Status = Literal["waiting", "running", "done", "stopped", "failed", "reused"]

#: In the order of the views. Reused runs were done before the launch.
STATUSES: tuple[Status, ...] = ("done", "running", "waiting", "stopped", "failed", "reused")

#: Seconds before the time left is estimated, so that start-up does not count as work.
_SETTLING_SECONDS = 8.0


@dataclass
class RunState:
    """The state of one run: see :data:`STATUSES`.

    Attributes:
        is_training: Whether a training has started its first step, after loading data.
        seconds: Time in the training loop.
        reason: Why it failed or was lost.
    """

    status: Status = "waiting"
    share: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    is_training: bool = False
    seconds: float = 0.0
    reason: str = ""
    _updated: float = 0.0
    _rate: float = 0.0

    def apply(self, event: Started | Progress | Done | Failed | Lost | Stopped, launched: float) -> None:
        match event:
            case Started():
                self.status, self.share, self.is_training, self._rate = "running", 0.0, False, 0.0
                self._updated = event.at
            case Progress():
                if event.share > self.share and event.at > self._updated:
                    self._rate = (event.share - self.share) / (event.at - self._updated)
                self.status, self.is_training = "running", True
                self.share, self._updated = max(self.share, event.share), event.at
                self.metrics.update(event.metrics)
            case Done():
                self.status, self.share, self.seconds = "done", 1.0, event.seconds
                if event.at < launched:
                    self.status = "reused"
                self.metrics.update(event.metrics)
            case Failed():
                self.status, self.share, self.reason = "failed", 1.0, event.reason
            case Stopped():
                self.status, self.share, self.reason = "stopped", 1.0, event.reason
            case Lost():
                self.status, self.share, self.reason = "waiting", 0.0, event.reason

    def share_at(self, now: float) -> float:
        """Return the completed share, extrapolated at the current rate since the last report."""
        if self.status != "running":
            return self.share
        return max(self.share, min(self.share + self._rate * (now - self._updated), 0.99))


@dataclass(frozen=True)
class Best:
    """The best result so far of a method on held-out images."""

    method: str
    metric: str
    value: float
    title: str


class SweepState:
    """The state of every run of a sweep launched at this time. One thread applies events; others may read."""

    def __init__(self, sweep: Sweep, launched: float | None = None) -> None:
        self.sweep = sweep
        self.launched = time.time() if launched is None else launched
        self.runs: dict[str, RunState] = {}
        self.waiting_for = ""
        self.warning = ""
        self.lock = threading.RLock()
        self._began = float("inf")
        self.extend(sweep)

    def extend(self, sweep: Sweep) -> None:
        """Replace the sweep by one with further runs."""
        with self.lock:
            self._extend(sweep)

    def _extend(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.runs |= {key: RunState() for key in [*sweep.trainings, *sweep.evaluations] if key not in self.runs}
        self.titles = dict(sweep.titles)
        self._shown = dict(sweep.titles)  # evaluations that run together share a name
        # Every event updates the totals, because summing over thousands of runs each time is slow. Work is in whole
        # numbers, which add up exactly.
        self._work = {key: round(work(spec)) for key, spec in sweep.trainings.items()}
        for group in together(list(sweep.evaluations.values())):
            whole = evaluation_work(group, sweep.trainings[group[0].run])
            for spec in group:
                self._work[spec.key] = round(whole / len(group))
                self.titles[spec.key] = f"{sweep.titles[spec.run]} · {eval_title(spec)}"
                self._shown[spec.key] = f"{sweep.titles[spec.run]} · {group_title(group)}"
        self._total_work, self._ended_work, self._reused_work = sum(self._work.values()), 0, 0
        self._counts = {True: Counter[str](), False: Counter[str]()}
        self._running: dict[str, RunState] = {}
        for key in self.runs:
            self._add(key, 1)

    def apply(self, event: Event) -> None:
        with self.lock:
            if isinstance(event, Waiting):
                self.waiting_for = event.reason
                return
            self._add(event.key, -1)
            self.runs[event.key].apply(event, self.launched)
            self._add(event.key, 1)
            if isinstance(event, Started):
                self.waiting_for, self._began = "", min(self._began, max(event.at, self.launched))
            elif isinstance(event, Failed | Lost) and event.reason and event.at >= self.launched:
                self.warning = f"{self.titles[event.key]}: {event.reason}"

    def _add(self, key: str, sign: int) -> None:
        """Add a run to the totals, or take it out."""
        run, work = self.runs[key], sign * self._work[key]
        self._counts[key in self.sweep.trainings][run.status] += sign
        if run.status == "running":
            if sign > 0:
                self._running[key] = run
            else:
                del self._running[key]
        elif run.status != "waiting":
            self._ended_work += work
            self._reused_work += work if run.status == "reused" else 0

    def changes(self, results: Results) -> Iterator[Event]:
        """Yield the events that lead from this state to the store's results."""
        for key, run in self.runs.items():
            record = results.trainings.get(key) or results.evaluations.get(key)
            yield from _events(key, run, record)

    def count(self, *, trainings: bool = True) -> Mapping[str, int]:
        """Return the number of trainings, or of evaluations, by status."""
        return +self._counts[trainings]

    def ended(self, *, trainings: bool = True) -> int:
        """Return the number of trainings, or of evaluations, that are done, reused, stopped or failed."""
        counts = self.count(trainings=trainings)
        return sum(counts[status] for status in ("done", "reused", "stopped", "failed"))

    def running(self) -> dict[str, str]:
        """Return running runs as keys by name; evaluations that share their computation count as one."""
        return {self._shown[key]: key for key in self._running}

    def share(self, now: float | None = None) -> float:
        """Return the completed share of the sweep's work."""
        now = now or time.time()
        done = self._ended_work + sum(self._work[key] * run.share_at(now) for key, run in self._running.items())
        return done / self._total_work if self._total_work else 1.0

    def seconds_left(self, now: float | None = None) -> float | None:
        """Return the estimated seconds until the sweep ends; ``None`` if it is too early."""
        now = now or time.time()
        spent, done = now - self._began, self.share(now) * self._total_work
        if spent < _SETTLING_SECONDS or done - self._reused_work < 0.02 * (self._total_work - self._reused_work):
            return None
        return spent * (self._total_work - done) / (done - self._reused_work)

    def best(self) -> Iterator[Best]:
        """Yield each method's best result on held-out images, from its tables' evaluations if any are done, else from
        the monitor. Runs without held-out images are skipped, because nothing is selected on test images.
        """
        sources = [(item.run, item.select_by, spec.key) for item in self.sweep.wanted for spec in item.evaluations]
        sources += [(run, headline(run.entry), key) for key, run in self.sweep.trainings.items()]
        results: dict[str, dict[str, list[tuple[float, str]]]] = {}
        for run, metric, key in sources:
            value = self.runs[key].metrics.get(metric)
            if value is not None and run.data.held_out:
                results.setdefault(run.entry.title, {}).setdefault(metric, []).append((value, run.key))
        for method, by_metric in results.items():
            metric, values = next(iter(by_metric.items()))
            value, key = max(values)
            yield Best(method, metric, value, self.sweep.titles[key].partition(" · ")[2])


def _events(key: str, run: RunState, record: Record | None) -> Iterator[Event]:
    """Yield the events that lead from a run's state to its record."""
    if record is None or record.status == "missing":
        if run.status != "waiting":
            yield Lost(key)
    elif record.status == "running":
        if run.status != "running":
            yield Started(key, at=record.start)
        if record.share > run.share or dict(record.metrics) != run.metrics:
            yield Progress(key, record.share, record.metrics, at=record.heartbeat or record.start)
    elif record.status == "failed":
        if run.status != "failed" or run.reason != record.reason:
            yield Failed(key, record.reason, at=record.end)
    elif record.status == "stopped":
        if run.status != "stopped":
            yield Stopped(key, record.reason, at=record.end)
    elif record.status == "done" and run.status not in ("done", "reused"):
        yield Done(key, record.metrics.get("train/seconds", 0.0), record.metrics, at=record.end)

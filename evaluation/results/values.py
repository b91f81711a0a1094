"""From the store to the values of cells."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eman.evaluation.results import significance
from eman.evaluation.results.cells import Cell, Table, Wanted, wanted_by
from eman.platform.store.records import EVALUATION, TRAINING, Record, Status
from eman.trainers.spec.run import RunSpec

if TYPE_CHECKING:
    from eman.platform.store.store import Store

#: States of results. A cell has the first one that any of its results has.
_WORST_FIRST: tuple[Status, ...] = ("running", "missing", "stopped", "failed")


@dataclass(frozen=True)
class Value:
    """The value of a cell: mean over seeds in percent, sample standard deviation, Student's 95 % interval of the mean.

    ``status`` combines the states of the results; ``reason`` is that of a failure.
    """

    cell: Cell
    value: float | None
    spread: float | None
    interval: tuple[float, float] | None
    by_seed: Mapping[int, float]
    status: Status
    reason: str = ""

    @property
    def n(self) -> int:
        """Number of seeds with a result."""
        return len(self.by_seed)

    def text(self) -> str:
        """Return the value to print: a number, or the state that explains why there is none."""
        if not self.cell.wanted:
            return "-"
        if self.value is None:
            return self.status
        spread = f" ±{self.spread:.1f}" if self.spread is not None else ""
        return f"{self.value:.1f}{spread}" + ("" if self.status == "done" else f" ({self.status})")


@dataclass(frozen=True)
class Results:
    """Trainings and evaluations of a store, by key."""

    trainings: Mapping[str, Record]
    evaluations: Mapping[str, Record]

    @classmethod
    def read(cls, store: "Store", tables: Iterable[Table]) -> "Results":
        """Read the results of some tables only, at a cost independent of other runs in the store."""
        wanted = wanted_by(tables)
        runs = {wanted.run.key: wanted.run for wanted in wanted}
        trainings = store.by_key(TRAINING, {run.key for start in runs.values() for run in start.lineage})
        evaluations = {spec.key for item in wanted for spec in item.evaluations if spec.run in trainings}
        return cls(trainings, store.by_key(EVALUATION, evaluations))

    def done(self, key: str) -> bool:
        return key in self.trainings and self.trainings[key].status == "done"

    def state(self, run: RunSpec) -> tuple[Status, str]:
        """Return the status of a training and the reason of a failure: its own, or that of the run it starts from."""
        init = run.network.init
        if run.key not in self.trainings and init is not None and not self.done(init.key):
            status, reason = self.state(init)
            if status == "failed":
                return status, f"the run that it starts from failed: {reason}"
        return _state(self.trainings.get(run.key))

    def one(self, wanted: Wanted) -> tuple[float | None, Status, str]:
        """Return a single result: its value if it is done, its status, and the reason of a failure."""
        training = self.trainings.get(wanted.run.key)
        if training is None or training.status != "done":
            return None, *self.state(wanted.run)
        if not wanted.evaluations:
            value = training.metrics.get(wanted.metric)
            return (value, "done", "") if value is not None else (None, "missing", "")
        records = [self.evaluations.get(spec.key) for spec in wanted.evaluations]
        for state, reason in map(_state, records):
            if state in ("running", "missing"):
                return None, state, reason
        best = self.chosen(wanted)
        return (None, *_state(records[0])) if best is None else (best.metrics[wanted.metric], "done", "")

    def collapsed(self, wanted: Wanted) -> bool:
        """Return whether a result is missing because a run failed and would fail again."""
        records = [self.trainings.get(run.key) for run in wanted.run.lineage]
        records += [self.evaluations.get(spec.key) for spec in wanted.evaluations]
        return any(record is not None and record.final for record in records)

    def chosen(self, wanted: Wanted) -> Record | None:
        """Return the evaluation that gives a result: the best by ``select_by`` of those that are done.

        A learning rate that diverges is left out; the others still give a number.
        """
        records = [self.evaluations.get(spec.key) for spec in wanted.evaluations]
        done = [record for record in records if record is not None and record.status == "done"]
        if len(done) < 2:
            return done[0] if done else None
        return max(done, key=lambda record: record.metrics[wanted.select_by])


def _state(record: Record | None) -> tuple[Status, str]:
    return ("missing", "") if record is None else (record.status, record.reason)


def value_of(cell: Cell, results: Results) -> Value:
    """Return a cell's value. A cell is done when all of its results are."""
    if not cell.wanted:
        return Value(cell, None, None, None, {}, "published")
    singles = [(wanted.run.seed, *results.one(wanted)) for wanted in cell.wanted]
    by_seed = {seed: value for seed, value, _, _ in singles if value is not None}
    states = [state for _, _, state, _ in singles]
    status: Status = next((s for s in _WORST_FIRST if s in states), "done")
    reason = next((reason for _, _, state, reason in singles if state == "failed"), "")
    numbers = list(by_seed.values())
    mean = statistics.fmean(numbers) if numbers else None
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    half = significance.half_width(numbers)
    interval = None if mean is None or half is None else (mean - half, mean + half)
    return Value(cell, mean, spread, interval, by_seed, status, reason)


def values_of(table: Table, results: Results) -> list[Value]:
    """Return the values of a table's cells, in their order."""
    return [value_of(cell, results) for cell in table.cells]


def against(table: Table, results: Results, name: str) -> Table:
    """Return the table with another store's results as its reference values, under this name."""
    cells = tuple(replace(cell, paper=value_of(cell, results).text()) for cell in table.cells)
    return replace(table, cells=cells, reference=name)

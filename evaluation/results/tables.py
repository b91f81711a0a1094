"""Tables as data: a table says which results stand behind each cell, how they are chosen, and what the paper has.

The same cells are walked twice: when a sweep is planned, to the distinct runs; when a table is printed, to the results
that MLflow holds. Nothing else feeds a table.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.results import significance
from eman.platform.output import output_file
from eman.platform.store.records import EVALUATION, TRAINING, Record, Status
from eman.platform.store.store import Store
from eman.trainers.spec.run import RunSpec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Wanted:
    """One result behind a cell: a metric of a training, or of one of its evaluations.

    Attributes:
        run: The training.
        evaluations: Where there are any, the one with the best ``select_by`` gives the result: a learning-rate grid.
        metric: What is read.
        select_by: Metric by which an evaluation is chosen.
    """

    run: RunSpec
    evaluations: tuple[EvalSpec, ...]
    metric: str
    select_by: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the mean over its wanted results (one a seed), none where the paper quotes others' work."""

    table: int
    row: str
    column: str
    paper: str
    wanted: tuple[Wanted, ...]


@dataclass(frozen=True)
class Table:
    """A table of the paper, at a profile.

    Attributes:
        contrasts: Pairs of rows whose difference is tested in each column, the first minus the second.
        side: What stands above the row titles.
        beside: What stands beside each of our numbers.
    """

    number: int
    title: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    contrasts: tuple[tuple[str, str], ...] = ()
    side: str = "student / teacher"
    beside: str = "paper"

    @property
    def heading(self) -> str:
        """Number and title; a table that is not the paper's has no number."""
        return f"Table {self.number}. {self.title}" if self.number else self.title

    @property
    def rows(self) -> tuple[str, ...]:
        """Row titles in order."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """Column titles in order."""
        return tuple(dict.fromkeys(cell.column for cell in self.cells))


@dataclass(frozen=True)
class Value:
    """What a cell says.

    Attributes:
        value: Mean over seeds in percent.
        spread: Sample standard deviation.
        interval: Student's 95 % interval of the mean.
        by_seed: The single results.
        status: Of all results together.
        reason: Why one failed.
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
        """For a person: a number, or the truth about why there is none."""
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
    def read(cls, store: Store) -> "Results":
        """Everything that the store has."""
        return cls(store.by_key(TRAINING), store.by_key(EVALUATION))

    def done(self, key: str) -> bool:
        """Whether a training is done."""
        return key in self.trainings and self.trainings[key].status == "done"

    def state(self, run: RunSpec) -> tuple[Status, str]:
        """Status of a training, and the reason of a failure: its own, or that of the run that it starts from."""
        init = run.network.init
        if run.key not in self.trainings and init is not None and not self.done(init.key):
            status, reason = self.state(init)
            if status == "failed":
                return status, f"the run that it starts from failed: {reason}"
        return _state(self.trainings.get(run.key))

    def one(self, wanted: Wanted) -> tuple[float | None, Status, str]:
        """A single result: its value if it is done, its status, and the reason of a failure."""
        training = self.trainings.get(wanted.run.key)
        if training is None or training.status != "done":
            return None, *self.state(wanted.run)
        if not wanted.evaluations:
            found = training.metrics.get(wanted.metric)
            return (found, "done", "") if found is not None else (None, "missing", "")
        records = [self.evaluations.get(spec.key) for spec in wanted.evaluations]
        for record in records:
            if record is None or record.status in ("running", "missing"):
                return None, *_state(record)
        best = self.chosen(wanted)
        return (None, *_state(records[0])) if best is None else (best.metrics[wanted.metric], "done", "")

    def chosen(self, wanted: Wanted) -> Record | None:
        """The evaluation that gives a result: the best by ``select_by``. A learning rate that diverges is out of the
        running; the others still give a number.
        """
        records = [self.evaluations.get(spec.key) for spec in wanted.evaluations]
        done = [record for record in records if record is not None and record.status == "done"]
        if len(done) < 2:
            return done[0] if done else None
        return max(done, key=lambda record: record.metrics[wanted.select_by])


def _state(record: Record | None) -> tuple[Status, str]:
    if record is None:
        return "missing", ""
    return record.status, record.reason


_WORST_FIRST: tuple[Status, ...] = ("running", "missing", "failed")


def value_of(cell: Cell, results: Results) -> Value:
    """A cell's value from what the store holds. A cell is done when all of its results are."""
    found = [results.one(wanted) for wanted in cell.wanted]
    if not cell.wanted:
        return Value(cell, None, None, None, {}, "published")
    by_seed = {
        wanted.run.seed: value for wanted, (value, _, _) in zip(cell.wanted, found, strict=True) if value is not None
    }
    states = [state for _, state, _ in found]
    status: Status = next((s for s in _WORST_FIRST if s in states), "done")
    reason = next((reason for _, state, reason in found if state == "failed"), "")
    numbers = list(by_seed.values())
    mean = statistics.fmean(numbers) if numbers else None
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    half = significance.half_width(numbers)
    interval = None if mean is None or half is None else (mean - half, mean + half)
    return Value(cell, mean, spread, interval, by_seed, status, reason)


def values(table: Table, results: Results) -> list[Value]:
    """Every cell's value."""
    return [value_of(cell, results) for cell in table.cells]


def against(table: Table, results: Results, name: str) -> Table:
    """The same table with another store's numbers in place of the paper's.

    Args:
        table: A table.
        results: What the other store holds.
        name: What to call it.
    """
    cells = tuple(replace(cell, paper=value_of(cell, results).text()) for cell in table.cells)
    return replace(table, cells=cells, beside=name)


# Output ---------------------------------------------------------------------------------------------------------------

#: Forms in which tables are written.
FORMATS = ("text", "markdown", "latex", "csv", "parquet")
#: Columns of the long form, which CSV and Parquet have.
LONG_COLUMNS = ("table", "row", "column", "value", "spread", "low", "high", "n", "status", "paper")


def _grid(table: Table, found: Sequence[Value]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of (title, [(ours, paper) a column])."""
    by_place = {(value.cell.row, value.cell.column): value for value in found}
    grid = []
    for row in table.rows:
        cells = []
        for column in table.columns:
            value = by_place.get((row, column))
            cells.append((value.text(), value.cell.paper) if value else ("-", "-"))
        grid.append((row, cells))
    return grid


def _below(table: Table, found: Sequence[Value]) -> list[str]:
    """What stands under a table: its notes, what its seeds allow one to say, and what failed."""
    failed = [f"failed: {value.cell.row}, {value.cell.column}: {value.reason}" for value in found if value.reason]
    return [*table.notes, *said(table, found), *failed]


def said(table: Table, found: Sequence[Value]) -> list[str]:
    """What a table's seeds allow one to say: one line a column of its contrasts, and how its order agrees with the
    paper's.
    """
    if not table.contrasts:
        return []
    if max((value.n for value in found), default=0) < 2:
        return ["One seed: nothing can be said about differences between rows; --seeds 3 allows it."]
    by_place = {(value.cell.row, value.cell.column): value for value in found}
    lines = []
    for column in table.columns:
        parts = []
        for rows in table.contrasts:
            pair = [by_place.get((row, column)) for row in rows]
            shown = significance.difference(*(value.by_seed if value else {} for value in pair))
            if shown is not None:
                p = f"p = {shown.p:.3f}" if shown.p >= 0.0005 else "p < 0.001"
                parts.append(
                    f"{rows[0]} minus {rows[1]} {shown.mean:+.1f} ±{shown.half_width:.1f} ({p}, "
                    f"{shown.n} seeds): {shown.verdict}"
                )
        ranked = [value for value in found if value.cell.column == column and value.value is not None]
        tau = significance.kendall([v.value or 0.0 for v in ranked], [_published(v.cell.paper) for v in ranked])
        if tau is not None:
            whose = "the paper's" if table.beside == "paper" else f"{table.beside}'s"
            parts.append(f"Kendall's tau with {whose} column {tau:+.2f} over {len(ranked)} rows")
        if parts:
            lines.append(f"{column}: {'; '.join(parts)}.")
    if lines:
        lines.append(
            "Differences are means over seeds with 95 % intervals, tested by a paired t-test; ±x.x in a cell is the "
            "sample standard deviation. A row that failed there ranks lowest."
        )
    return lines


def _published(text: str) -> float:
    try:
        return float(text.split(maxsplit=1)[0].rstrip("*"))
    except ValueError:
        return 0.0


def text(table: Table, found: Sequence[Value]) -> str:
    """Plain text with aligned columns; the paper's number stands behind ours, in parentheses."""
    grid = _grid(table, found)
    first = max(len(row) for row in [table.side, *table.rows])
    cells = [[f"{ours} ({paper})" for ours, paper in row] for _, row in grid]
    widths = [max([len(column), *(len(row[i]) for row in cells)]) for i, column in enumerate(table.columns)]
    rule = "-" * (first + sum(widths) + 3 * len(widths))
    lines = [
        table.heading,
        f"ours ({table.beside})",
        rule,
        "   ".join([table.side.ljust(first), *(c.rjust(w) for c, w in zip(table.columns, widths, strict=True))]),
        rule,
    ]
    lines += [
        "   ".join([title.ljust(first), *(c.rjust(w) for c, w in zip(row, widths, strict=True))])
        for (title, _), row in zip(grid, cells, strict=True)
    ]
    return "\n".join([*lines, rule, *_below(table, found)])


def markdown(table: Table, found: Sequence[Value]) -> str:
    """A table for a README."""
    head = [table.side, *(f"{c} | {table.beside}" for c in table.columns)]
    lines = [
        f"**{table.heading}**",
        "",
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|---:|" * len(table.columns),
    ]
    lines += [
        "| " + " | ".join([row, *(f"{ours} | {paper}" for ours, paper in cells)]) + " |"
        for row, cells in _grid(table, found)
    ]
    return "\n".join([*lines, "", *(f"{note}  " for note in _below(table, found))]).rstrip()


_LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "α": r"$\alpha$", "×": r"$\times$"}
)


def latex(table: Table, found: Sequence[Value]) -> str:
    """A ``tabular`` with booktabs rules; ours, then the paper's in parentheses."""
    lines = [
        r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
        r"\toprule",
        " & ".join([table.side, *table.columns]).translate(_LATEX).replace(r"\& ", "& ") + r" \\",
        r"\midrule",
    ]
    for row, cells in _grid(table, found):
        lines.append(" & ".join([row.translate(_LATEX), *(f"{o} ({p})".translate(_LATEX) for o, p in cells)]) + r" \\")
    notes = [f"% {note.translate(_LATEX)}" for note in _below(table, found)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes])


def frame(tables: Sequence[tuple[Table, Sequence[Value]]]) -> "pd.DataFrame":
    """Long form: one row a cell, with the columns of :data:`LONG_COLUMNS`; ``paper`` is what stands beside."""
    import pandas as pd

    rows = [
        (
            *(table.number, v.cell.row, v.cell.column, v.value, v.spread),
            *(v.interval or (None, None)),
            *(v.n, v.status, v.cell.paper),
        )
        for table, found in tables
        for v in found
    ]
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS)).astype(
        dict.fromkeys(("value", "spread", "low", "high"), "float64")
    )


def render(tables: Sequence[tuple[Table, Sequence[Value]]], form: str) -> str:
    """Tables in a textual format of :data:`FORMATS`."""
    if form == "csv":
        return frame(tables).to_csv(index=False, float_format="%.4f").rstrip("\n")
    make = {"text": text, "markdown": markdown, "latex": latex}[form]
    return "\n\n".join(make(table, found) for table, found in tables)


#: Columns of the Parquet form beside the long one's: where each number comes from.
PROVENANCE = ("keys", "evaluations", "seeds", "network", "selection", "profile", "git", "beside")


def write_parquet(tables: Sequence[tuple[Table, Sequence[Value]]], results: Results, path: Path) -> None:
    """Long form, with the provenance of each cell: keys of its runs and of the evaluations that were chosen, seeds,
    network and selection, profile, and the git revisions that trained it.
    """
    long = frame(tables)
    rows = [_provenance(value.cell, table, results) for table, found in tables for value in found]
    for column, values in zip(PROVENANCE, zip(*rows, strict=True), strict=True):
        long[column] = values
    with output_file(path) as temporary:
        long.to_parquet(temporary, index=False)


def _provenance(cell: Cell, table: Table, results: Results) -> tuple[str, ...]:
    def listed(values: Iterable[str]) -> str:
        return ",".join(dict.fromkeys(value for value in values if value))

    records = [results.trainings[w.run.key] for w in cell.wanted if w.run.key in results.trainings]
    chosen = [results.chosen(wanted) for wanted in cell.wanted]
    evaluations = [spec for wanted in cell.wanted for spec in wanted.evaluations]
    by_metric = [
        ("teacher" if "teacher" in w.metric else "student", "best" if w.metric.endswith("_best") else "last")
        for w in cell.wanted
        if not w.evaluations
    ]
    made = [(spec.network, spec.selection) for spec in evaluations] or by_metric
    return (
        listed(wanted.run.key for wanted in cell.wanted),
        listed(record.key for record in chosen if record is not None),
        listed(str(wanted.run.seed) for wanted in cell.wanted),
        listed(network for network, _ in made),
        listed(selection for _, selection in made),
        listed(record.tags.get("profile", "") for record in records),
        listed(record.tags.get("eman.git", "") for record in records),
        table.beside,
    )

"""Tables in long form, one row per cell, for programs; in Parquet with the provenance of each number."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eman.evaluation.results.cells import Cell, Table
from eman.evaluation.results.values import Results, Value
from eman.platform.output import output_file

if TYPE_CHECKING:
    import pandas as pd

#: Columns of CSV and Parquet.
LONG_COLUMNS = ("table", "row", "column", "value", "spread", "low", "high", "n", "status", "paper")

#: Further columns of Parquet: keys of the runs and of the chosen evaluations, seeds, network, selection, profile, git
#: revisions of the runs, and the name of the reference values in `paper`.
PROVENANCE = ("keys", "evaluations", "seeds", "network", "selection", "profile", "git", "reference")


def frame(tables: Sequence[tuple[Table, Sequence[Value]]], *, printed: bool = False) -> "pd.DataFrame":
    """Return the cells with the columns of :data:`LONG_COLUMNS`; ``paper`` is the reference value.

    Rows have the paper's titles, so that profiles can be joined; if ``printed``, those that tables print.
    """
    import pandas as pd

    rows = [
        (
            *(table.name, table.printed(v.cell.row) if printed else v.cell.row, v.cell.column, v.value, v.spread),
            *(v.interval or (None, None)),
            *(v.n, v.status, v.cell.paper),
        )
        for table, values in tables
        for v in values
    ]
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS)).astype(
        dict.fromkeys(("value", "spread", "low", "high"), "float64")
    )


def write_parquet(tables: Sequence[tuple[Table, Sequence[Value]]], results: Results, path: Path) -> None:
    """Write the long form with :data:`PROVENANCE`; raise `UserError` if the file cannot be written."""
    long = frame(tables)
    rows = [_provenance(value.cell, table, results) for table, values in tables for value in values]
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
        table.reference,
    )

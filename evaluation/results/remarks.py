"""The lines under a table: notes, comparisons over seeds, and failures."""

from collections.abc import Mapping, Sequence

from eman.evaluation.results import significance
from eman.evaluation.results.cells import Table
from eman.evaluation.results.values import Value

ONE_SEED = "One seed cannot show differences between rows; use --seeds 3."

_METHOD = (
    "Differences are means over seeds with 95 % intervals, tested by a paired t-test; ±x.x in a cell is the sample "
    "standard deviation. Rows that the paper reports as failed rank last."
)


def lines_below(table: Table, values: Sequence[Value]) -> list[str]:
    """Return all lines under a table."""
    failed = [f"failed: {value.cell.row}, {value.cell.column}: {value.reason}" for value in values if value.reason]
    return [*table.notes, *comparisons(table, values), *failed]


def comparisons(table: Table, values: Sequence[Value]) -> list[str]:
    """Return, for each column, the contrasts over seeds and the rank correlation with the reference values."""
    if not table.contrasts:
        return []
    if max((value.n for value in values), default=0) < 2:
        return [ONE_SEED]
    by_place = {(value.cell.row, value.cell.column): value for value in values}
    lines = []
    for column in table.columns:
        parts = [
            *_differences(table, column, by_place),
            *_agreement(table, [value for value in values if value.cell.column == column and value.value is not None]),
        ]
        if parts:
            lines.append(f"{column}: {'; '.join(parts)}.")
    return [*lines, _METHOD] if lines else []


def _differences(table: Table, column: str, by_place: Mapping[tuple[str, str], Value]) -> list[str]:
    parts = []
    for rows in table.contrasts:
        pair = [by_place.get((row, column)) for row in rows]
        shown = significance.difference(*(value.by_seed if value else {} for value in pair))
        if shown is not None:
            p = f"p = {shown.p:.3f}" if shown.p >= 0.0005 else "p < 0.001"
            parts.append(
                f"{rows[0]} minus {rows[1]} {shown.mean:+.1f} ±{shown.half_width:.1f} ({p}, {shown.n} seeds): "
                f"{shown.verdict}"
            )
    return parts


def _agreement(table: Table, ranked: Sequence[Value]) -> list[str]:
    tau = significance.kendall([v.value or 0.0 for v in ranked], [_published(v.cell.paper) for v in ranked])
    if tau is None:
        return []
    whose = "the paper's" if table.reference == "paper" else f"{table.reference}'s"
    return [f"Kendall's tau with {whose} column {tau:+.2f} over {len(ranked)} rows"]


def _published(text: str) -> float:
    try:
        return float(text.split(maxsplit=1)[0].rstrip("*"))
    except ValueError:
        return 0.0

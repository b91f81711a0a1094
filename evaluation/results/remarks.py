"""The lines under a table: notes, comparisons over seeds, and failures."""

import math
import re
from collections.abc import Mapping, Sequence

from eman.evaluation.results import significance
from eman.evaluation.results.cells import Table
from eman.evaluation.results.values import Value

ONE_SEED = "One seed cannot show differences between rows; use --seeds 3."

#: Rank of a row that failed.
FAILED = -math.inf

_METHOD = (
    "Differences are means over seeds with 95 % intervals, tested by a paired t-test; ±x.x in a cell is the sample "
    "standard deviation. Kendall's tau ranks the rows with a number or a failure on both sides, failures last; a run "
    "that fills two rows counts once."
)


def lines_below(table: Table, values: Sequence[Value]) -> list[str]:
    """Return all lines under a table."""
    return [*table.notes, *comparisons(table, values), *(f"failed: {line}" for line in failures(table, values))]


def failures(table: Table, values: Sequence[Value]) -> list[str]:
    """Return row, column and reason of each cell that failed."""
    return [f"{table.printed(v.cell.row)}, {v.cell.column}: {v.reason}" for v in values if v.reason]


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
            *_agreement(table, [value for value in values if value.cell.column == column]),
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
                f"{' minus '.join(map(table.printed, rows))} {shown.mean:+.1f} ±{shown.half_width:.1f} "
                f"({p}, {shown.n} seeds): {shown.verdict}"
            )
    return parts


def _agreement(table: Table, column: Sequence[Value]) -> list[str]:
    """Compare the order of a column's rows with that of the reference, over the rows that both of them rank."""
    distinct = {value.cell.results: value for value in column if value.cell.wanted}
    pairs = [(_rank(value), _reference_rank(value.cell.paper)) for value in distinct.values()]
    ranked = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    tau = significance.kendall([ours for ours, _ in ranked], [theirs for _, theirs in ranked])
    if tau is None:
        return []
    whose = "the paper's" if table.reference == "paper" else f"{table.reference}'s"
    return [f"Kendall's tau with {whose} column {tau:+.2f} over {len(ranked)} rows"]


def _rank(value: Value) -> float | None:
    """Return the number by which a row is ranked: below all others if it failed, ``None`` if it has no result."""
    return FAILED if value.status == "failed" else value.value


def _reference_rank(text: str) -> float | None:
    """Return the same for a reference value as printed: the paper's, or another store's."""
    number = re.match(r"[\d.]+", text)
    if "failed" in text:
        return FAILED
    return float(number[0]) if number else None

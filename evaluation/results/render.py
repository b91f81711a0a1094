"""Tables as text, Markdown, LaTeX and CSV."""

import re
from collections.abc import Sequence

from eman.evaluation.results.cells import Table
from eman.evaluation.results.long import frame
from eman.evaluation.results.remarks import lines_below
from eman.evaluation.results.values import Value

#: Escapes for LaTeX.
LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "α": r"$\alpha$", "×": r"$\times$"}
)


def render(tables: Sequence[tuple[Table, Sequence[Value]]], form: str) -> str:
    """Return tables as text, Markdown, LaTeX or CSV."""
    if form == "csv":
        return frame(tables).to_csv(index=False, float_format="%.4f").rstrip("\n")
    make = {"text": text, "markdown": markdown, "latex": latex}[form]
    return "\n\n".join(make(table, values) for table, values in tables)


def _grid(table: Table, values: Sequence[Value]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the rows: a title, and for each column our value and the reference."""
    by_place = {(value.cell.row, value.cell.column): value for value in values}
    grid = []
    for row in table.rows:
        cells = []
        for column in table.columns:
            value = by_place.get((row, column))
            cells.append((value.text(), value.cell.paper) if value else ("-", "-"))
        grid.append((table.printed(row), cells))
    return grid


def text(table: Table, values: Sequence[Value]) -> str:
    """Return plain text with aligned columns, references in parentheses."""
    grid = _grid(table, values)
    first = max(len(title) for title in [table.side, *(title for title, _ in grid)])
    cells = [[f"{ours} ({paper})" for ours, paper in row] for _, row in grid]
    widths = [max([len(column), *(len(row[i]) for row in cells)]) for i, column in enumerate(table.columns)]
    rule = "-" * (first + sum(widths) + 3 * len(widths))
    lines = [
        table.heading,
        f"ours ({table.reference})",
        rule,
        "   ".join([table.side.ljust(first), *(c.rjust(w) for c, w in zip(table.columns, widths, strict=True))]),
        rule,
    ]
    lines += [
        "   ".join([title.ljust(first), *(c.rjust(w) for c, w in zip(row, widths, strict=True))])
        for (title, _), row in zip(grid, cells, strict=True)
    ]
    return "\n".join([*lines, rule, *lines_below(table, values)])


def plain(text: str) -> str:
    """Return a name as Markdown that shows it as it is: no markup, no table cell, one line."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"\s", " ", text))
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)


def markdown(table: Table, values: Sequence[Value]) -> str:
    """Return a Markdown table with a column of reference values beside each column."""
    head = [plain(table.side), *(f"{plain(c)} | {plain(table.reference)}" for c in table.columns)]
    lines = [
        f"**{plain(table.heading)}**",
        "",
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|---:|" * len(table.columns),
    ]
    lines += [
        "| " + " | ".join([plain(row), *(f"{plain(ours)} | {plain(paper)}" for ours, paper in cells)]) + " |"
        for row, cells in _grid(table, values)
    ]
    return "\n".join([*lines, "", *(f"{plain(line)}  " for line in lines_below(table, values))]).rstrip()


def latex(table: Table, values: Sequence[Value]) -> str:
    """Return a ``tabular`` with booktabs rules, references in parentheses."""
    lines = [
        r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
        r"\toprule",
        " & ".join([table.side, *table.columns]).translate(LATEX).replace(r"\& ", "& ") + r" \\",
        r"\midrule",
    ]
    for row, cells in _grid(table, values):
        lines.append(" & ".join([row.translate(LATEX), *(f"{o} ({p})".translate(LATEX) for o, p in cells)]) + r" \\")
    notes = [f"% {line.translate(LATEX)}" for line in lines_below(table, values)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes])

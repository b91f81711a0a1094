"""Print lines and tables, or write tables to a file."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eman.context import workspace
from eman.options import Format
from eman.platform.errors import UserError
from eman.platform.output import check_output, output_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eman.evaluation.results.cells import Table
    from eman.evaluation.results.values import Value
    from eman.platform.store.store import Store
    from eman.sweeps.plan import Sweep

PAPER = "paper"

#: Control characters, which a file's or a class's name may hold and a terminal would obey, shown as they are written.
_CONTROL = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}


def show(lines: Iterable[str], content: object = None, *, as_json: bool = False) -> None:
    """Print lines as they come, or the same content as JSON."""
    for line in [json.dumps(content, ensure_ascii=False)] if as_json else lines:
        print(line.translate(_CONTROL))


def print_tables(
    planned: "Sweep",
    store: "Store",
    form: Format | None = None,
    out: Path | None = None,
    other: str = PAPER,
    *,
    as_json: bool = False,
) -> None:
    """Print a sweep's tables, or write them to `out`, beside the values of the paper or of another store."""
    from eman.evaluation.results.long import write_parquet
    from eman.evaluation.results.render import render
    from eman.evaluation.results.values import Results, against, values_of
    from eman.platform.store.store import store_at
    from eman.sweeps.changed import changed_modules

    check_format(form, out)
    shown = planned.tables
    if other != PAPER:
        reference = Results.read(store_at(other, workspace()), planned.tables)
        shown = tuple(against(table, reference, other) for table in shown)
    results = Results.read(store, planned.tables)
    for line in changed_modules(planned.trainings.values(), results.trainings):
        print(f"eman: {line}", file=sys.stderr)
    valued = [(table, values_of(table, results)) for table in shown]
    if form == "parquet" and out is not None:
        write_parquet(valued, results, out)
        print(f"wrote {out}")
    else:
        write_text(json.dumps(content(valued), ensure_ascii=False) if as_json else render(valued, form or "text"), out)


def check_format(form: Format | None, out: Path | None) -> None:
    """Raise `UserError` if a format needs a file, or the file cannot be written."""
    if form == "parquet" and out is None:
        raise UserError("--format parquet needs --out FILE.")
    if out is not None:
        check_output(out)


def write_text(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file."""
    if out is None:
        print(text)
        return
    with output_file(out) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {out}")


def content(valued: "Sequence[tuple[Table, Sequence[Value]]]") -> list[dict[str, Any]]:
    """Return tables as plain values for JSON."""
    return [
        {
            "name": table.name,
            "title": table.title,
            "notes": list(table.notes),
            "cells": [
                {
                    "row": value.cell.row,
                    "column": value.cell.column,
                    "value": value.value,
                    "spread": value.spread,
                    "by_seed": {str(seed): number for seed, number in value.by_seed.items()},
                    "status": value.status,
                    "reason": value.reason,
                    table.reference: value.cell.paper,
                }
                for value in values
            ],
        }
        for table, values in valued
    ]

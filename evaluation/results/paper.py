"""The paper's published numbers, from ``paper-tables.csv`` in this folder."""

import csv
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).with_name("paper-tables.csv")


@lru_cache(maxsize=1)
def published() -> dict[tuple[str, str, str], str]:
    """Return values by (table, row, column): ``-`` if the paper gives none, ``failed`` if it reports a failure."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return {(f"table{line['table']}", line["row"], line["column"]): line["value"] for line in csv.DictReader(file)}


def value(table: str, row: str, column: str) -> str:
    """Return a number as printed in the paper; raise `KeyError` if its table has no such cell."""
    return published()[table, row, column]


def number(table: str) -> int | None:
    """Return the paper's number of a table, for example 1 for ``table1``; ``None`` if the paper does not have it."""
    digits = table.removeprefix("table")
    return int(digits) if any(name == table for name, _, _ in published()) else None

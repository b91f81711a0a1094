"""The paper's published numbers, from ``paper-tables.csv`` beside this file: the one source of every paper column."""

import csv
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).with_name("paper-tables.csv")


@lru_cache(maxsize=1)
def published() -> dict[tuple[int, str, str], str]:
    """Values by (table, row, column); ``-`` where the paper gives none, ``failed`` where it says so."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return {(int(line["table"]), line["row"], line["column"]): line["value"] for line in csv.DictReader(file)}


def value(table: int, row: str, column: str) -> str:
    """One number, as printed in the paper.

    Raises:
        KeyError: The paper's table has no such cell.
    """
    return published()[table, row, column]

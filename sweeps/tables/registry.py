"""Tables by name."""

import re
from collections.abc import Callable, Mapping

from eman.evaluation.results.cells import Table
from eman.sweeps.tables import schemes, table1, table2, table3, table4, table5, table6, table7, table8
from eman.sweeps.tables.scope import Scope

#: The paper's tables, and those beyond it.
TABLES: Mapping[str, Callable[[Scope], Table]] = {
    "table1": table1.table,
    "table2": table2.table,
    "table3": table3.table,
    "table4": table4.table,
    "table5": table5.table,
    "table6": table6.table,
    "table7": table7.table,
    "table8": table8.table,
    "schemes": schemes.table,
}


def table_name(word: str) -> str:
    """Return the table name for a word on the command line: ``table1`` for ``1``, any other word unchanged."""
    return f"table{word}" if word.isdecimal() else word


def is_table(word: str) -> bool:
    """Return whether a word names a table, or could only name one: a number, or ``table`` and a number."""
    return table_name(word) in TABLES or re.fullmatch(r"(table)?\d+", word) is not None

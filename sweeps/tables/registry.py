"""Tables by name."""

import re
from collections.abc import Callable

from eman.evaluation.results.cells import Table
from eman.platform.errors import UserError
from eman.platform.registry import Registry
from eman.sweeps.tables import schemes, table1, table2, table3, table4, table5, table6, table7, table8
from eman.sweeps.tables.scope import Scope

#: The paper's tables, and others; :func:`register_table` adds to it.
TABLES = Registry[Callable[[Scope], Table]]("table", reserved=("grid", "claims"))


def register_table(name: str, table: Callable[[Scope], Table]) -> None:
    """Add a table: from a scope to its cells.

    Raises:
        UserError: The name is taken, or cannot be a table's.
    """
    if name.isdecimal():
        raise UserError(f"table {name!r}: numbers stand for the paper's tables; give a name, for example mine{name}.")
    if not callable(table):
        raise UserError(f"table {name!r} is {table!r}; give a function from a Scope to a Table.")
    TABLES.add(name, table)


for _name, _table in {
    "table1": table1.table,
    "table2": table2.table,
    "table3": table3.table,
    "table4": table4.table,
    "table5": table5.table,
    "table6": table6.table,
    "table7": table7.table,
    "table8": table8.table,
    "schemes": schemes.table,
}.items():
    register_table(_name, _table)


def table_name(word: str) -> str:
    """Return the table name for a word on the command line: ``table1`` for ``1``, any other word unchanged."""
    return f"table{word}" if word.isdecimal() else word


def is_table(word: str) -> bool:
    """Return whether a word names a table, or could only name one: a number, or ``table`` and a number."""
    return table_name(word) in TABLES or re.fullmatch(r"(table)?\d+", word) is not None

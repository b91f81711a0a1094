"""Table 1: accuracy with different normalization."""

from eman.evaluation.results.cells import Table
from eman.sweeps.tables.schemes import scheme_table
from eman.sweeps.tables.scope import Scope

ROWS = ("default", "bn", "syncbn", "shufflebn", "gn", "in", "eman")


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    return scheme_table("table1", "Accuracy with different normalization", ROWS, scope)

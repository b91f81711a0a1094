"""Table 8: the ablations, EMAN's momentum and proxy norms."""

from eman.evaluation.results.cells import Table
from eman.sweeps.tables.schemes import scheme_table
from eman.sweeps.tables.scope import Scope

ROWS = (
    "default",
    "bn",
    "eman",
    "eman-m0.9",
    "eman-m0.99999",
    "teacher-pn-0.9",
    "student-pn-0.9",
    "teacher-pn-0.999",
    "student-pn-0.999",
)


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    return scheme_table("table8", "Ablations: EMAN momentum and proxy norms (PN)", ROWS, scope)

"""Table 7: comparison with other semi-supervised models."""

from eman.evaluation.results.cells import Table
from eman.sweeps.tables import table2, table6
from eman.sweeps.tables.pretrained import QUOTED
from eman.sweeps.tables.scope import Scope

OTHERS = ("Supervised", "Pseudo-label", "S4L Rotation", "UDA", "FixMatch", "SimCLR-v2")
OURS = "FixMatch-EMAN"

#: The row of Table 6 with the paper's numbers.
ROW = table6.Row("EMAN", "MoCo-EMAN", 3)


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    cells = [
        scope.cell(
            "table7",
            name,
            table2.labels(fraction, top),
            table6.result(scope, ROW, fraction, top) if name == OURS else None,
        )
        for name in (*OTHERS, OURS)
        for fraction in table6.FRACTIONS
        for top in table2.TOPS
    ]
    about = f"{OURS} is the row '{ROW.title}' of Table 6. * is an estimate from a plot."
    title = "Comparison with other semi-supervised models"
    return scope.table("table7", title, cells, table6.about(scope), about, QUOTED, side="method")

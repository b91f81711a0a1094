"""Table 7: comparison with other semi-supervised models."""

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Cell, Table, Wanted
from eman.sweeps.tables import table2, table6
from eman.sweeps.tables.pretrained import QUOTED
from eman.sweeps.tables.scope import Scope

OTHERS = ("Supervised", "Pseudo-label", "S4L Rotation", "UDA", "FixMatch", "SimCLR-v2")
OURS = "FixMatch-EMAN"

#: The row of Table 6 with the paper's numbers.
ROW = ("EMAN", "MoCo-EMAN", 3)


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    cells = []
    for name in (*OTHERS, OURS):
        for fraction in table6.FRACTIONS:
            for top in table2.TOPS:
                title = table2.labels(fraction, top)
                wanted: tuple[Wanted, ...] = ()
                if name == OURS:
                    runs = [table6.run(scope, seed, *ROW, fraction) for seed in scope.seeds]
                    wanted = tuple(scope.classified(run, top) for run in runs)
                cells.append(Cell(7, name, title, paper.value(7, name, title), wanted))
    about = f"{OURS} is the row '{table6.title(*ROW)}' of Table 6. * is an estimate from a plot."
    notes = (*table6.notes(scope), about, QUOTED)
    return Table(7, "Comparison with other semi-supervised models", tuple(cells), notes, (), "method")

"""Tables 1 and 8: a row per scheme, a column per method."""

from collections.abc import Sequence

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Cell, Table
from eman.sweeps.tables.scope import Scope
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import SCHEMES

#: Methods, in the order of the columns.
METHODS = ("fixmatch", "moco", "byol")


def scheme_table(number: int, title: str, schemes: Sequence[str], scope: Scope) -> Table:
    """Return a table of schemes by methods. Cells that are empty in the paper are not trained."""
    cells = []
    for scheme in schemes:
        row = SCHEMES[scheme].title
        for method in METHODS:
            column = method_named(method).title
            published = paper.value(number, row, column)
            if published != "-":
                wanted = tuple(scope.standard(scope.run(method, scheme, seed)) for seed in scope.seeds)
                cells.append(Cell(number, row, column, published, wanted))
    eman = SCHEMES["eman"].title
    contrasts = tuple((eman, SCHEMES[other].title) for other in ("bn", "default"))
    return Table(number, title, tuple(cells), scope.results_notes(METHODS), contrasts)

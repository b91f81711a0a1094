"""Tables 1 and 8: a row per scheme, a column per method."""

from collections.abc import Callable, Sequence

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Table, Wanted
from eman.sweeps.tables.scope import Scope
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import SCHEMES

#: Methods, in the order of the columns.
METHODS = ("fixmatch", "moco", "byol")

#: Heading of the rows.
SIDE = "student / teacher"


def scheme_table(number: int, title: str, schemes: Sequence[str], scope: Scope) -> Table:
    """Return a table of schemes by methods. Cells that are empty in the paper are not trained."""

    def result(method: str, scheme: str) -> Callable[[int], Wanted]:
        return lambda seed: scope.standard(scope.run(method, scheme, seed))

    cells = [
        scope.cell(number, SCHEMES[scheme].title, column, result(method, scheme))
        for scheme in schemes
        for method, column in ((method, method_named(method).title) for method in METHODS)
        if paper.value(number, SCHEMES[scheme].title, column) != "-"
    ]
    contrasts = [(SCHEMES["eman"].title, SCHEMES[other].title) for other in ("bn", "default")]
    return scope.table(number, title, cells, scope.standard_note(METHODS), side=SIDE, contrasts=contrasts)

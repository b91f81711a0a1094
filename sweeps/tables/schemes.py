"""Tables of schemes: a row per scheme, a column per method. Tables 1 and 8, and the table `schemes` of all."""

from collections.abc import Callable, Sequence

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Cell, Table, Wanted
from eman.sweeps.tables.scope import Pairs, Scope
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.labels import scheme_label

#: Methods, in the order of the columns.
METHODS = ("fixmatch", "moco", "byol")

#: Heading of the rows.
SIDE = "student / teacher"


def scheme_table(name: str, title: str, schemes: Sequence[str], scope: Scope, contrasts: Pairs = ()) -> Table:
    """Return a table of schemes by methods. Cells that are empty in the paper's table of this name are not trained.

    `contrasts` are tested beside those of EMAN with BN and with the default.
    """

    def result(method: str, scheme: str) -> Callable[[int], Wanted]:
        return lambda seed: scope.standard(scope.run(method, scheme, seed))

    cells = []
    for scheme in schemes:
        for method in METHODS:
            row, column = SCHEMES[scheme].title, method_named(method).title
            published = paper.published().get((name, row, column))
            if published != "-":
                cells.append(scope.cell(name, row, column, result(method, scheme), published or "-"))
    pairs = [(SCHEMES["eman"].title, SCHEMES[other].title) for other in ("bn", "default")]
    note = scope.standard_note(METHODS)
    return scope.table(name, title, cells, note, side=SIDE, contrasts=(*pairs, *contrasts), labels=_labels(cells))


def _labels(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Return rows with their runs' own label, if all of a row's runs have the same and no two rows do."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        found.setdefault(cell.row, set()).update(scheme_label(wanted.run) for wanted in cell.wanted)
    labels = {row: min(names) if len(names) == 1 else row for row, names in found.items()}
    return [*labels.items()] if len(set(labels.values())) == len(labels) else []


def table(scope: Scope) -> Table:
    """Return the table of all schemes. Those that the paper does not have are compared with EMAN."""
    in_paper = {row for _, row, _ in paper.published()}
    eman = SCHEMES["eman"].title
    contrasts = [(scheme.title, eman) for scheme in SCHEMES.values() if scheme.title not in in_paper]
    return scheme_table("schemes", "All schemes", tuple(SCHEMES), scope, contrasts)

"""Table 4: kNN classification and image retrieval."""

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Cell, Table, Wanted
from eman.sweeps.tables import pretrained
from eman.sweeps.tables.pretrained import OURS, QUOTED, Row
from eman.sweeps.tables.scope import Scope

ROWS = (*OURS, *(Row(name) for name in ("InstDisc", "LA", "PCL (200 epochs)", "SwAV (800 epochs)")))

#: Columns: protocol and metric.
COLUMNS = {
    "kNN top-1": ("knn", "knn/test_top1"),
    "retrieval mAP": ("retrieval", "retrieval/map"),
    "retrieval recall": ("retrieval", "retrieval/recall"),
}


def about(scope: Scope) -> str:
    """Return a note on the two protocols."""
    run = pretrained.MOCO.run(scope, scope.seeds[0])
    knn, retrieval = (scope.evaluation(run, protocol).flat() for protocol in ("knn", "retrieval"))
    votes = f"votes weighted by exp(cosine / {knn['temperature']:g})" if "temperature" in knn else "one vote each"
    return (
        f"kNN: k = {knn['k']}, {votes}. Retrieval: mean average precision and recall of the {retrieval['top']:,} "
        "nearest. "
        "The bank is the training images, the queries are the test images."
    )


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    cells = []
    for row in ROWS:
        runs = [row.network.run(scope, seed) for seed in scope.seeds] if row.network else []
        for column, (protocol, metric) in COLUMNS.items():
            wanted: tuple[Wanted, ...] = tuple(scope.result(run, protocol, metric) for run in runs)
            cells.append(Cell(4, row.title, column, paper.value(4, row.title, column), wanted))
    notes = (*scope.profile.notes(), about(scope), QUOTED, pretrained.lengths(scope, ROWS), *scope.notes())
    title = "kNN classification and image retrieval"
    return Table(4, title, tuple(cells), notes, pretrained.contrasts(ROWS), "network")

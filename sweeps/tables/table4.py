"""Table 4: kNN classification and image retrieval."""

from collections.abc import Callable

from eman.evaluation.results.cells import Table, Wanted
from eman.sweeps.tables import pretrained
from eman.sweeps.tables.pretrained import OURS, QUOTED, Network, Row
from eman.sweeps.tables.scope import Scope

ROWS = (*OURS, *(Row(name) for name in ("InstDisc", "LA", "PCL (200 epochs)", "SwAV (800 epochs)")))

#: Columns: protocol and metric.
COLUMNS = {
    "kNN top-1": ("knn", "knn/test_top1"),
    "retrieval mAP": ("retrieval", "retrieval/map"),
    "retrieval recall": ("retrieval", "retrieval/recall"),
}


def table(scope: Scope) -> Table:
    """Return the table at a scale."""

    def result(network: Network | None, protocol: str, metric: str) -> Callable[[int], Wanted] | None:
        return None if network is None else lambda seed: scope.result(network.run(scope, seed), protocol, metric)

    cells = [
        scope.cell("table4", row.title, column, result(row.network, *source))
        for row in ROWS
        for column, source in COLUMNS.items()
    ]
    run = pretrained.MOCO.run(scope, scope.seeds[0])
    knn, retrieval = (scope.evaluation(run, protocol).flat() for protocol in ("knn", "retrieval"))
    votes = f"votes weighted by exp(cosine / {knn['temperature']:g})" if "temperature" in knn else "one vote each"
    return scope.table(
        "table4",
        "kNN classification and image retrieval",
        cells,
        f"kNN: k = {knn['k']}, {votes}. Retrieval: mean average precision and recall of the {retrieval['top']:,} "
        "nearest. The bank is the training images, the queries are the test images.",
        QUOTED,
        pretrained.lengths(scope, ROWS),
        contrasts=pretrained.contrasts(ROWS),
    )

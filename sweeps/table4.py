"""Table 4: kNN classification and image retrieval."""

from eman.evaluation.tables import Table
from eman.sweeps.pretrained import OURS, QUOTED, Column, Row, pretrained_table, result
from eman.sweeps.scope import Scope

ROWS = (*OURS, *(Row(name) for name in ("InstDisc", "LA", "PCL (200 epochs)", "SwAV (800 epochs)")))

COLUMNS = (
    Column("kNN top-1", result("knn", "knn/test_top1")),
    Column("retrieval mAP", result("retrieval", "retrieval/map")),
    Column("retrieval recall", result("retrieval", "retrieval/recall")),
)

ABOUT = (
    "kNN: k = 20, one vote each. Retrieval: mean average precision and recall of the 1,000 nearest. The bank is the "
    "training images, the queries are the test images.",
    QUOTED,
)


def table(scope: Scope) -> Table:
    """The table at a scale."""
    return pretrained_table(4, "kNN classification and image retrieval", ROWS, COLUMNS, ABOUT, scope)

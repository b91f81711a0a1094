"""Table 4: kNN classification and image retrieval."""

from collections.abc import Mapping, Sequence
from typing import Any

from eman.evaluation.tables import Table
from eman.sweeps.pretrained import OURS, Column, Network, pretrained_table
from eman.sweeps.profiles import Profile

NETWORKS = (*OURS, *(Network(row) for row in ("InstDisc", "LA", "PCL (200 epochs)", "SwAV (800 epochs)")))

COLUMNS = (
    Column("kNN top-1", "knn", {}, "knn/test_top1"),
    Column("retrieval mAP", "retrieval", {}, "retrieval/map"),
    Column("retrieval recall", "retrieval", {}, "retrieval/recall"),
)

ABOUT = (
    "kNN: k = 20, one vote each. Retrieval: mean average precision and recall of the 1,000 nearest. The bank is the "
    "training images, the queries are the test images."
)


def table(profile: Profile, seeds: Sequence[int], overrides: Mapping[str, Any] | None = None) -> Table:
    """The table at a profile."""
    title = "kNN classification and image retrieval"
    return pretrained_table(4, title, NETWORKS, COLUMNS, ABOUT, profile, seeds, overrides)

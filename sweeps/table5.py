"""Table 5: low-shot classification, the rows on the data set of the pretraining (ImageNet in the paper)."""

from collections.abc import Mapping, Sequence
from typing import Any

from eman.evaluation.tables import Table
from eman.sweeps.pretrained import OURS, Column, Network, pretrained_table
from eman.sweeps.profiles import Profile

NETWORKS = (OURS[0], Network("PCL (200 epochs)"), Network("SwAV (800 epochs)"), *OURS[1:])

SHOTS = (1, 2, 4, 8, 16)
COLUMNS = tuple(Column(f"k={k}", "lowshot", {"shots": k}, f"lowshot/k{k}_top1") for k in SHOTS)

ABOUT = (
    "Linear SVMs on k images a class, mean of 5 sets, C from 2^-5 to 2^5 chosen on images put aside. The paper's "
    "numbers are its ImageNet rows; VOC2007 and iNaturalist need data sets that this version cannot read."
)


def table(profile: Profile, seeds: Sequence[int], overrides: Mapping[str, Any] | None = None) -> Table:
    """The table at a profile."""
    title = "Low-shot classification"
    return pretrained_table(5, title, NETWORKS, COLUMNS, ABOUT, profile, seeds, overrides, prefix="ImageNet: ")

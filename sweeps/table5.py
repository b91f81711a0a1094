"""Table 5: low-shot classification, the rows on the data set of the pretraining (ImageNet in the paper)."""

from dataclasses import replace

from eman.evaluation.tables import Table
from eman.sweeps.pretrained import OURS, QUOTED, Column, Row, pretrained_table, result
from eman.sweeps.scope import Scope

ROWS = tuple(
    replace(row, paper=f"ImageNet: {row.title}")
    for row in (OURS[0], Row("PCL (200 epochs)"), Row("SwAV (800 epochs)"), *OURS[1:])
)

COLUMNS = tuple(
    Column(f"k={shots}", result("lowshot", f"lowshot/k{shots}_top1", shots=shots)) for shots in (1, 2, 4, 8, 16)
)

ABOUT = (
    "Linear SVMs on k images a class, mean of 5 sets, C from 2^-5 to 2^5 chosen on images put aside. The paper's "
    "numbers are its ImageNet rows; VOC2007 and iNaturalist need data sets that this version cannot read.",
    QUOTED,
)


def table(scope: Scope) -> Table:
    """The table at a scale."""
    return pretrained_table(5, "Low-shot classification", ROWS, COLUMNS, ABOUT, scope)

"""Table 3: comparison with other self-supervised models."""

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Table
from eman.sweeps.tables import pretrained, table2
from eman.sweeps.tables.pretrained import QUOTED, Row
from eman.sweeps.tables.scope import Scope

#: Our rows: network, and the kind of result that the paper prints at a share of the labels.
OURS = {
    "MoCo-EMAN": (pretrained.MOCO_EMAN_800, {0.01: "finetune", 0.1: "finetune"}),
    "BYOL-EMAN": (pretrained.BYOL_EMAN, {0.01: "linear", 0.1: "finetune"}),
}

OTHERS = ("Supervised", "InstDisc", "PIRL", "CPC v2", "MoCo-v2", "SimCLR", "PCL", "SwAV", "BYOL")


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    cells = []
    for name in (*OTHERS, *OURS):
        arch, epochs = (paper.value("table3", name, column) for column in ("arch", "pretraining epochs"))
        row = f"{name} ({arch}{f', {epochs} epochs' if epochs != '-' else ''})"
        for fraction in (0.01, 0.1):
            for top in table2.TOPS:
                result = None
                if name in OURS:
                    network, kinds = OURS[name]
                    result = table2.result(scope, network, kinds[fraction], fraction, top)
                title = table2.labels(fraction, top)
                cells.append(scope.cell("table3", row, title, result, paper.value("table3", name, title)))
    return scope.table(
        "table3",
        "Comparison with other self-supervised models",
        cells,
        *table2.about(scope),
        "As in the paper, MoCo-EMAN is finetuned; BYOL-EMAN has a linear classifier at 1 % and is finetuned at 10 % "
        "(cells of Table 2).",
        pretrained.lengths(scope, [Row(name, network) for name, (network, _) in OURS.items()]),
        QUOTED,
        side="method (paper's network and pretraining)",
    )

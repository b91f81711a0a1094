"""Table 3: comparison with other self-supervised models."""

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Cell, Table, Wanted
from eman.sweeps.tables import pretrained, table2
from eman.sweeps.tables.pretrained import QUOTED, Row
from eman.sweeps.tables.scope import Scope

#: Our rows: network, and the kinds of result that the paper prints at 1 % and at 10 % of the labels.
OURS: dict[str, tuple[pretrained.Network, table2.Kind, table2.Kind]] = {
    "MoCo-EMAN": (pretrained.MOCO_EMAN_800, table2.finetune, table2.finetune),
    "BYOL-EMAN": (pretrained.BYOL_EMAN, table2.linear, table2.finetune),
}

OTHERS = ("Supervised", "InstDisc", "PIRL", "CPC v2", "MoCo-v2", "SimCLR", "PCL", "SwAV", "BYOL")


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    cells = []
    for name in (*OTHERS, *OURS):
        arch, epochs = (paper.value(3, name, column) for column in ("arch", "pretraining epochs"))
        row = f"{name} ({arch}{f', {epochs} epochs' if epochs != '-' else ''})"
        for number, fraction in enumerate((0.01, 0.1)):
            for top in table2.TOPS:
                title = table2.labels(fraction, top)
                wanted: tuple[Wanted, ...] = ()
                if name in OURS:
                    network, *kinds = OURS[name]
                    wanted = tuple(kinds[number](scope, network, seed, fraction, top) for seed in scope.seeds)
                cells.append(Cell(3, row, title, paper.value(3, name, title), wanted))
    rows = [Row(name, network) for name, (network, *_) in OURS.items()]
    notes = (
        *scope.profile.notes(),
        *table2.about(scope),
        "As in the paper, MoCo-EMAN is finetuned; BYOL-EMAN has a linear classifier at 1 % and is finetuned at 10 % "
        "(cells of Table 2).",
        pretrained.lengths(scope, rows),
        *scope.notes(),
        QUOTED,
    )
    title = "Comparison with other self-supervised models"
    return Table(3, title, tuple(cells), notes, (), "method (paper's network and pretraining)")

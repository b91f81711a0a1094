"""Table 5: low-shot classification on the pretraining data set (ImageNet in the paper) and on others."""

from collections.abc import Callable
from dataclasses import replace

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Table, Wanted
from eman.sweeps.profiles.profile import LowShot
from eman.sweeps.tables import pretrained
from eman.sweeps.tables.pretrained import OURS, QUOTED, Row
from eman.sweeps.tables.scope import Scope

SHOTS = (1, 2, 4, 8, 16)

#: The paper's rows of each block.
BLOCKS = {
    "ImageNet": (OURS[0], Row("PCL (200 epochs)"), Row("SwAV (800 epochs)"), *OURS[1:]),
    "VOC2007": (OURS[0], Row("PCL (200 epochs)"), *OURS[1:3], *OURS[5:]),
    "iNaturalist": (
        Row("MoCo (1000 epochs)", pretrained.MOCO),
        Row("MoCo-EMAN (1000 epochs)", pretrained.MOCO_EMAN),
        *OURS[5:],
    ),
}

ABOUT = (
    "Linear SVMs on k images per class, mean of 5 sets, C from 2^-5 to 2^5 chosen on held-out images (the test images "
    "if there are none); top-1, on VOC2007 mean average precision."
)


def result(scope: Scope, row: Row, block: LowShot, shots: int) -> Callable[[int], Wanted] | None:
    """Return a function that gives a seed's result; `None` for a row without a network."""
    network, elsewhere = row.network, {"dataset": block.dataset} if block.dataset and not block.pretrained else {}
    metric = f"lowshot/k{shots}_{'map' if block.several else 'top1'}"
    if network is None:
        return None

    def make(seed: int) -> Wanted:
        run = network.run(scope, seed)
        if block.pretrained:
            run = run.replace(dataset=block.dataset, **block.pretrained.get(run.method.name, {}))
        return scope.result(run, "lowshot", metric, shots=shots, **elsewhere)

    return make


def table(scope: Scope) -> Table:
    """Return the table at a scale, with the blocks of the profile's data sets."""
    cells, contrasts = [], list[tuple[str, str]]()
    blocks = scope.profile.low_shot
    first = next(iter(blocks.values()))
    for name, block in blocks.items():
        rows = [row if block is first else replace(row, title=f"{name}: {row.title}") for row in BLOCKS[name]]
        contrasts += pretrained.contrasts(rows)
        for row, original in zip(rows, BLOCKS[name], strict=True):
            for shots in SHOTS:
                published = paper.value("table5", f"{name}: {original.title}", f"k={shots}")
                cells.append(scope.cell("table5", row.title, f"k={shots}", result(scope, row, block, shots), published))
    omitted = [name for name in BLOCKS if name not in blocks]
    missing = [f"The paper's numbers are its ImageNet rows; {' and '.join(omitted)} are omitted."] if omitted else []
    missing += [f"Rows without a data set: {next(iter(blocks))}."] if len(blocks) > 1 else []
    lengths = pretrained.lengths(scope, BLOCKS["ImageNet"])
    return scope.table(
        "table5", "Low-shot classification", cells, ABOUT, *missing, QUOTED, lengths, contrasts=contrasts
    )

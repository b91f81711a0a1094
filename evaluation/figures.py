"""Figure 3 of the paper, drawn from logged metrics: accuracy along training, one panel a method, one line a scheme."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eman.platform.errors import UserError
from eman.platform.home import replacing
from eman.platform.spec import RunSpec
from eman.platform.tracking import TRAINING, Store

FORMATS = (".png", ".svg", ".pdf")

#: Okabe and Ito's colours, which colour-blind readers can tell apart; the first is for the line that matters.
_COLOURS = ("#d55e00", "#000000", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Line:
    """A line of a panel: the mean over its runs (one a seed) of a metric, epoch by epoch."""

    panel: str
    label: str
    metric: str
    runs: tuple[RunSpec, ...]
    highlighted: bool = False


def points(line: Line, store: Store) -> tuple[list[int], list[float]]:
    """Epochs and means over the runs that have logged them."""
    known = store.by_key(TRAINING)
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for spec in line.runs:
        if spec.key in known:
            for metric in store.client.get_metric_history(known[spec.key].run_id, line.metric):
                by_epoch[metric.step].append(metric.value)
    epochs = sorted(by_epoch)
    return epochs, [statistics.fmean(by_epoch[epoch]) for epoch in epochs]


def draw(lines: Sequence[Line], store: Store, out: Path, caption: str) -> None:
    """Writes the figure.

    Args:
        lines: In the order of the legend; panels in the order in which they first occur.
        store: Where the metrics are.
        out: A file whose ending names the format.
        caption: One line beneath the panels: profile, seeds.

    Raises:
        UserError: The format is unknown, or nothing has been logged yet.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"--out {out}: the ending must be one of {', '.join(FORMATS)}.")
    found = {line: points(line, store) for line in lines}
    if not any(epochs for epochs, _ in found.values()):
        raise UserError(
            "the store holds no training of this figure yet; run `eman sweep table1` at the same profile first."
        )
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    panels = list(dict.fromkeys(line.panel for line in lines))
    labels = list(dict.fromkeys(line.label for line in sorted(lines, key=lambda line: not line.highlighted)))
    colour = dict(zip(labels, _COLOURS, strict=False))
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.4), squeeze=False)
    handles = {}
    for axis, panel in zip(axes[0], panels, strict=True):
        for line in lines:
            epochs, means = found[line]
            if line.panel == panel and epochs:
                [handles[line.label]] = axis.plot(
                    epochs,
                    means,
                    color=colour[line.label],
                    linewidth=2.4 if line.highlighted else 1.3,
                    marker="o",
                    markersize=3,
                    zorder=3 if line.highlighted else 2,
                )
                axis.set_ylabel(
                    {"accuracy/top1": "accuracy, %", "knn/top1": "kNN accuracy, %"}.get(line.metric, line.metric)
                )
        axis.set_title(panel)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        [handles[label] for label in labels if label in handles],
        [label for label in labels if label in handles],
        loc="lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
        bbox_to_anchor=(0.5, 0.04),
    )
    figure.text(0.5, 0.01, caption, ha="center", fontsize=7, color="0.35")
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=160)
    plt.close(figure)

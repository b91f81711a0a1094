"""Figure 3 of the paper, drawn from logged metrics: accuracy along training, one panel a method, one line a scheme."""

import io
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eman.platform.errors import UserError
from eman.platform.output import output_file
from eman.platform.store.records import TRAINING, Record
from eman.platform.store.store import Store
from eman.trainers.spec.run import RunSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FORMATS = (".png", ".svg", ".pdf")

#: Okabe and Ito's colours, which colour-blind readers can tell apart; the first is for the line that matters.
_COLOURS = ("#d55e00", "#000000", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Beyond seven lines the colours come again, with other dashes.
_DASHES = ("-", "--", ":")

#: Stands for the colour of a page's text until the picture is part of it.
_INK = "#010203"

_AXES = {
    "accuracy/top1": "accuracy, %",
    "knn/top1": "kNN accuracy, %",
    "train/loss": "loss",
    "train/feature_std": "spread of features",
}


@dataclass(frozen=True)
class Line:
    """A line of a panel: the mean over its runs (one a seed) of a metric, epoch by epoch."""

    panel: str
    label: str
    metric: str
    runs: tuple[RunSpec, ...]
    highlighted: bool = False


def points(line: Line, store: Store, known: Mapping[str, Record]) -> tuple[list[int], list[float]]:
    """Return epochs, and means over the runs that have logged them.

    Args:
        line: The line.
        store: Where the metrics are.
        known: The store's trainings by key.
    """
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for spec in line.runs:
        if spec.key in known:
            for metric in store.history(known[spec.key].run_id, line.metric):
                by_epoch[metric.step].append(metric.value)
    epochs = sorted(by_epoch)
    return epochs, [statistics.fmean(by_epoch[epoch]) for epoch in epochs]


def draw(lines: Sequence[Line], store: Store, out: Path, caption: str) -> None:
    """Write the figure.

    Args:
        lines: In the order of the legend; panels in the order in which they first occur, a panel's metrics below each
            other.
        store: Where the metrics are.
        out: A file whose ending names the format.
        caption: One line beneath the panels: profile, seeds.

    Raises:
        UserError: The format is unknown, or nothing has been logged yet.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"--out {out}: the ending must be one of {', '.join(FORMATS)}.")
    with _figure(lines, store, caption) as figure, output_file(out) as temporary:
        figure.savefig(temporary, dpi=160)


def inline_svg(lines: Sequence[Line], store: Store, name: str, caption: str = "") -> str:
    """Return the figure for a web page: an ``svg`` element without background, with text in the page's colour.

    Args:
        lines: See :func:`draw`.
        store: Where the metrics are.
        name: Differs between the figures of a page: what they refer to inside themselves is named after it.
        caption: See :func:`draw`.

    Raises:
        UserError: Nothing has been logged yet.
    """
    import matplotlib as mpl

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    chosen: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        **dict.fromkeys(inks, _INK),
    }
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    out = io.StringIO()
    with mpl.rc_context(chosen), _figure(lines, store, caption, ink=_INK) as figure:
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r' id="[\w.]+_\d+"', "", text)  # nothing refers to these, and two figures would share them


@contextmanager
def _figure(lines: Sequence[Line], store: Store, caption: str, ink: str = "#000000") -> Iterator["Figure"]:
    known = store.by_key(TRAINING, {spec.key for line in lines for spec in line.runs})
    curves = {line: points(line, store, known) for line in lines}
    if not any(epochs for epochs, _ in curves.values()):
        raise UserError(
            "the store holds no training of this figure yet; run `eman sweep table1` at the same profile first."
        )
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {line.panel: dict[str, None]() for line in lines}
    for line in lines:
        panels[line.panel][line.metric] = None
    styles = _styles(lines, ink)
    rows = max(len(metrics) for metrics in panels.values())
    legend = 0.18 * -(-len(styles) // 4) + 0.25  # inches
    height = 2.7 * rows + legend
    figure, axes = plt.subplots(rows, len(panels), figsize=(3.4 * len(panels), height), squeeze=False)
    handles: dict[str, Line2D] = {}
    for column, (panel, metrics) in enumerate(panels.items()):
        for row, metric in enumerate(metrics):
            shown = {line: curves[line] for line in lines if (line.panel, line.metric) == (panel, metric)}
            handles |= _plot(axes[row][column], shown, styles)
            _label(axes[row][column], metric, panel if row == 0 else "", "epoch" if row == len(metrics) - 1 else "")
        for axis in axes[len(metrics) :, column]:
            axis.set_visible(False)
    labels = [label for label in styles if label in handles]
    place = (0.5, 0.14 / height)
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
        bbox_to_anchor=place,
    )
    figure.text(0.5, 0.04 / height, caption, ha="center", fontsize=7, alpha=0.65)
    figure.tight_layout(rect=(0, (legend + 0.1) / height, 1, 1))
    try:
        yield figure
    finally:
        plt.close(figure)


def _styles(lines: Sequence[Line], ink: str) -> dict[str, tuple[str, str]]:
    """Return a colour and dashes for each label, in the order of the legend."""
    labels = dict.fromkeys(line.label for line in sorted(lines, key=lambda line: not line.highlighted))
    colours = [ink if colour == "#000000" else colour for colour in _COLOURS]
    return {label: (colours[n % len(colours)], _DASHES[n // len(colours) % 3]) for n, label in enumerate(labels)}


def _plot(
    axis: "Axes", curves: Mapping[Line, tuple[list[int], list[float]]], styles: Mapping[str, tuple[str, str]]
) -> "dict[str, Line2D]":
    """Draw the lines that have points, and return what the legend shows for each label."""
    handles = {}
    for line, (epochs, means) in curves.items():
        if epochs:
            colour, dash = styles[line.label]
            [handles[line.label]] = axis.plot(
                epochs,
                means,
                color=colour,
                linestyle=dash,
                linewidth=2.4 if line.highlighted else 1.3,
                marker="o",
                markersize=3,
                zorder=3 if line.highlighted else 2,
            )
    return handles


def _label(axis: "Axes", metric: str, title: str, below: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_ylabel(_AXES.get(metric, metric))
    axis.set_title(title)
    axis.set_xlabel(below)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)

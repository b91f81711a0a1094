"""Draw metrics logged during training, as in the paper's Figure 3: a panel per method, a line per scheme."""

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

FORMATS = (".png", ".svg", ".pdf")

#: Lines of the same colour have different dashes.
_DASHES = ("-", "--", ":", "-.")

#: The colour that stands for that of the page's text.
_BLACK = "#000000"

#: Placeholder for the colour of a page's text.
_INK = "#010203"

_AXES = {
    "accuracy/top1": "accuracy, %",
    "knn/top1": "kNN accuracy, %",
    "train/loss": "loss",
    "train/feature_std": "spread of features",
}


@dataclass(frozen=True)
class Line:
    """A line of a panel: the mean of a metric over its runs, one per seed, by epoch.

    Attributes:
        panel: The panel's title, and a line below it.
        colour: ``#rrggbb``; black stands for the colour of a page's text.
    """

    panel: str
    label: str
    metric: str
    runs: tuple[RunSpec, ...]
    colour: str = _BLACK
    highlighted: bool = False


@dataclass(frozen=True)
class Curve:
    """A line's points: mean and sample standard deviation over its seeds; 0 for a single one."""

    epochs: tuple[int, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


def points(line: Line, store: Store, known: Mapping[str, Record]) -> Curve:
    """Return a line's points from the runs that have logged them; ``known`` are the store's trainings by key."""
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for spec in line.runs:
        if spec.key in known:
            for metric in store.history(known[spec.key].run_id, line.metric):
                by_epoch[metric.step].append(metric.value)
    values = [by_epoch[epoch] for epoch in sorted(by_epoch)]
    return Curve(
        tuple(sorted(by_epoch)),
        tuple(statistics.fmean(seeds) for seeds in values),
        tuple(statistics.stdev(seeds) if len(seeds) > 1 else 0.0 for seeds in values),
    )


def draw(lines: Sequence[Line], store: Store, out: Path, caption: str) -> None:
    """Write the figure: a column per panel, a row per metric, a caption of one line below.

    Raises:
        UserError: The file's ending names no known format, or nothing has been logged yet.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"--out {out}: the ending must be one of {', '.join(FORMATS)}.")
    with _figure(lines, store, caption) as figure, output_file(out) as temporary:
        figure.savefig(temporary, dpi=160)


def inline_svg(lines: Sequence[Line], store: Store, name: str) -> str:
    """Return the figure for a web page: an ``svg`` element without background, with text in the page's colour.

    ``name`` must differ between the figures of a page, because references inside a figure contain it.

    Raises:
        UserError: Nothing has been logged yet.
    """
    import matplotlib as mpl

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, **dict.fromkeys(inks, _INK)}
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    out = io.StringIO()
    with mpl.rc_context(settings), _figure(lines, store, "", ink=_INK) as figure:
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r' id="[\w.]+_\d+"', "", text)  # unused, and not unique on a page with two figures


@contextmanager
def _figure(lines: Sequence[Line], store: Store, caption: str, ink: str = "#000000") -> Iterator["Figure"]:
    known = store.by_key(TRAINING, {spec.key for line in lines for spec in line.runs})
    curves = {line: points(line, store, known) for line in lines}
    if not any(curve.epochs for curve in curves.values()):
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
    legend = 0.17 * -(-len(styles) // 4) + 0.1  # inches
    height = 2.7 * rows + legend
    figure, axes = plt.subplots(rows, len(panels), figsize=(3.4 * len(panels), height), squeeze=False)
    for column, (panel, metrics) in enumerate(panels.items()):
        for axis in axes[len(metrics) :, column]:
            axis.set_visible(False)
        title, _, below = panel.partition("\n")
        axes[0, column].set_title(title, fontsize=11, pad=18 if below else None)
        axes[0, column].annotate(
            below, (0.5, 1), (0, 6), "axes fraction", "offset points", ha="center", fontsize=8, alpha=0.8
        )
        axes[len(metrics) - 1, column].set_xlabel("epoch")
        for axis, metric in zip(axes[:, column], metrics, strict=False):
            _plot(axis, metric, {x: curves[x] for x in lines if (x.panel, x.metric) == (panel, metric)}, styles)
    handles = {handle.get_label(): handle for axis in axes.flat for handle in axis.lines}
    shown, place = [handles[label] for label in styles if label in handles], (0.5, 0.14 / height)
    figure.legend(handles=shown, loc="lower center", ncols=4, frameon=False, fontsize=8, bbox_to_anchor=place)
    figure.text(0.5, 0.04 / height, caption, ha="center", fontsize=7, alpha=0.65)
    figure.tight_layout(rect=(0, (legend + 0.1) / height, 1, 1))
    try:
        yield figure
    finally:
        plt.close(figure)


def _styles(lines: Sequence[Line], ink: str) -> dict[str, tuple[str, str]]:
    """Return a colour and dashes for each label, in the order of the legend."""
    colours = {line.label: line.colour for line in sorted(lines, key=lambda line: not line.highlighted)}
    used = defaultdict[str, list[str]](list)
    for label, colour in colours.items():
        used[colour].append(label)
    return {
        label: (ink if colour == _BLACK else colour, _DASHES[used[colour].index(label) % len(_DASHES)])
        for label, colour in colours.items()
    }


def _plot(axis: "Axes", metric: str, curves: Mapping[Line, Curve], styles: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for line, curve in curves.items():
        if curve.epochs:
            colour, dash = styles[line.label]
            width, order = (2.4, 4) if line.highlighted else (1.3, 3)
            style: Any = {"linewidth": width, "zorder": order, "marker": "o", "markersize": 3}
            axis.plot(curve.epochs, curve.means, color=colour, linestyle=dash, label=line.label, **style)
            if any(curve.deviations):
                low, high = (
                    [mean + sign * deviation for mean, deviation in zip(curve.means, curve.deviations, strict=True)]
                    for sign in (-1, 1)
                )
                axis.fill_between(curve.epochs, low, high, color=colour, alpha=0.15, linewidth=0, zorder=order - 2)
    axis.set_ylabel(_AXES.get(metric, metric))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)

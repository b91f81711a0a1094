"""Draw the objective of a search against each searched field."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eman.platform.output import output_file
from eman.sweeps.search.outcome import Observation, SearchOutcome
from eman.sweeps.search.space import Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def draw(outcomes: "Sequence[SearchOutcome]", out: Path) -> bool:
    """Write a picture with a row per method and a column per field; return whether there was anything to draw."""
    drawn = [outcome for outcome in outcomes if outcome.valued and outcome.fields]
    if not drawn:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = max(len(outcome.fields) for outcome in drawn)
    size = (1.0 + 3.2 * columns, 0.6 + 2.6 * len(drawn))
    figure, axes = plt.subplots(len(drawn), columns, figsize=size, squeeze=False)
    for outcome, row in zip(drawn, axes, strict=True):
        for axis in row[len(outcome.fields) :]:
            axis.set_visible(False)
        for axis, field in zip(row, outcome.fields, strict=False):
            _plot(axis, outcome, field)
        row[0].set_ylabel(f"{outcome.method}: {outcome.objective}")
    handles = {h.get_label(): h for axis in axes.flat for h in axis.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="lower center", ncols=4, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.3 / size[1], 1, 1))
    with output_file(out) as temporary:
        figure.savefig(temporary, dpi=140)
    plt.close(figure)
    return True


def _plot(axis: "Axes", outcome: SearchOutcome, field: str) -> None:
    """Plot points, a colour per scheme; those of stopped runs are hollow."""
    schemes = list(dict.fromkeys(observation.point.scheme for observation in outcome.observations))
    values = outcome.fields[field]
    for number, scheme in enumerate(schemes):
        colour = _COLOURS[number % len(_COLOURS)]
        for stopped in (False, True):
            chosen = [o for o in outcome.valued if o.point.scheme == scheme and (o.status != "done") is stopped]
            x = [_x(o, field) for o in chosen]
            label = f"{scheme}, stopped" if stopped else scheme
            style: Any = {"edgecolors": colour, "facecolors": "none" if stopped else colour, "s": 22}
            if chosen:
                axis.scatter(x, [o.value or 0.0 for o in chosen], label=label, **style)
    if isinstance(values, Range):
        axis.set_xscale(values.scale)
        if values.scale == "logit":
            low, high = values.scaled(values.low) - 0.3, values.scaled(values.high) + 0.3
            axis.set_xlim(values.unscaled(low), values.unscaled(high))
    axis.set_xlabel(field)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _x(observation: Observation, field: str) -> Any:
    value = observation.point.scheme if field == "scheme" else observation.point.fields.get(field)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)

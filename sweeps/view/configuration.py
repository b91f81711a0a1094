"""The configuration of a sweep's runs: common and varying fields."""

from typing import Any

from eman.sweeps.plan import Sweep
from eman.trainers.spec.labels import row_title
from eman.trainers.spec.run import RunSpec


def label(sweep: Sweep, spec: RunSpec) -> str:
    """Return a run's title without its method and seed."""
    return row_title(spec, sweep.titles[spec.key])


def configuration(sweep: Sweep) -> dict[str, Any]:
    """Return fields and values: `common` to all runs, `by_method`, and `schemes`, by those `varying` within a method.

    The seed counts as varying in neither.
    """
    import pandas as pd

    specs = list(sweep.trainings.values())
    frame = pd.DataFrame([{name: _shown(value) for name, value in _fields(spec).items()} for spec in specs]).fillna("–")
    methods, names = frame.groupby("method", sort=False), [str(name) for name in frame]
    same = {str(name) for name, count in frame.nunique().items() if count == 1}
    same_within = {str(name) for name, count in methods.nunique().max().items() if count == 1}
    fields = [name for name in names if name not in ("method", "seed") and name not in same]
    varying = [name for name in fields if name not in same_within]
    titles = list(dict.fromkeys(spec.entry.title for spec in specs))
    rows: dict[tuple[str, ...], set[str]] = {}
    for spec, values in zip(specs, frame[varying].itertuples(index=False), strict=True):
        rows.setdefault((label(sweep, spec), *values), set()).add(spec.entry.title)
    return {
        "common": [(name, frame[name].iloc[0]) for name in names if name in same],
        "by_method": {
            "methods": titles,
            "rows": [(name, list(methods[name].first())) for name in fields if name in same_within],
        },
        "varying": varying,
        "schemes": [
            (name, ", ".join(title for title in titles if title in used), values)
            for (name, *values), used in rows.items()
        ],
    }


def _fields(spec: RunSpec) -> dict[str, Any]:
    return {**spec.flat(), **({"init": spec.network.init.key[:8]} if spec.network.init else {})}


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)

"""The configuration of a sweep's runs: common and varying fields."""

from collections.abc import Iterable, Sequence
from typing import Any

from eman.sweeps.plan import Sweep
from eman.trainers.methods.registry import method_named
from eman.trainers.spec.run import RunSpec


def label(sweep: Sweep, spec: RunSpec) -> str:
    """Return a run's title without its method and seed."""
    return sweep.titles[spec.key].partition(" · ")[2].replace(f" · seed {spec.seed}", "")


def _fields(spec: RunSpec) -> dict[str, Any]:
    return {**spec.flat(), **({"init": spec.network.init.key[:8]} if spec.network.init else {})}


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _names(specs: Iterable[RunSpec]) -> list[str]:
    return list(dict.fromkeys(name for spec in specs for name in _fields(spec)))


def _same(specs: Sequence[RunSpec], name: str) -> bool:
    return len({_shown(_fields(spec).get(name)) for spec in specs}) == 1


def common(sweep: Sweep) -> list[tuple[str, str]]:
    """Return the fields with the same value in all runs."""
    specs = list(sweep.trainings.values())
    return [(name, _shown(_fields(specs[0]).get(name))) for name in _names(specs) if _same(specs, name)]


def _methods(sweep: Sweep) -> dict[str, list[RunSpec]]:
    runs: dict[str, list[RunSpec]] = {}
    for spec in sweep.trainings.values():
        runs.setdefault(spec.method.name, []).append(spec)
    return runs


def varying(sweep: Sweep) -> list[str]:
    """Return the fields, except the seed, that vary among runs of one method."""
    methods = _methods(sweep).values()
    names = _names(sweep.trainings.values())
    return [name for name in names if name != "seed" and not all(_same(specs, name) for specs in methods)]


def by_method(sweep: Sweep, varying: Sequence[str]) -> dict[str, Any]:
    """Return the fields that vary between methods but not within them."""
    methods, every = _methods(sweep), list(sweep.trainings.values())
    names = [n for n in _names(every) if n not in ("method", "seed", *varying) and not _same(every, n)]
    rows = [(name, [_shown(_fields(specs[0]).get(name)) for specs in methods.values()]) for name in names]
    return {"methods": [method_named(method).title for method in methods], "rows": rows}


def schemes(sweep: Sweep, varying: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Return label, methods and values of the runs, by the varying fields."""
    rows: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for spec in sweep.trainings.values():
        values = tuple(_shown(_fields(spec).get(name)) for name in varying)
        rows.setdefault((label(sweep, spec), values), {})[spec.entry.title] = None
    order = [method_named(method).title for method in _methods(sweep)]
    return [
        (label, ", ".join(sorted(methods, key=order.index)), list(values)) for (label, values), methods in rows.items()
    ]

"""``eman report``: a sweep as one page that stands by itself, for whoever was not there."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eman.evaluation.results import figures, tables
from eman.evaluation.results.figures import Line
from eman.evaluation.results.tables import Results, Table, Value
from eman.platform.errors import UserError
from eman.platform.output import output_file
from eman.platform.store.store import Record, Store
from eman.sweeps.plan import Sweep
from eman.sweeps.request import SweepRequest, command
from eman.sweeps.tables import figure3
from eman.sweeps.view.live import duration
from eman.sweeps.view.status import planned_sweep
from eman.trainers.methods.registry import method_named, scheme_of
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.run import RunSpec

#: What is drawn of each method along training: how it learns, and whether it collapses.
_CURVES = ("train/loss", "knn/top1", "train/feature_std")

#: Tags of a run that say where its numbers come from.
_PROVENANCE = {
    "eman.git": "Source, git",
    "eman.python": "Python",
    "eman.version.torch": "torch",
    "eman.version.torchvision": "torchvision",
    "eman.version.ray": "Ray",
    "eman.version.mlflow": "MLflow",
    "eman.data_hash": "Hash of the images",
    "eman.label_set_hash": "Hash of the label set",
    "eman.host": "Host",
    "eman.workers": "Workers of a run",
}


def write(record: Record, store: Store, out: Path) -> None:
    """Writes the page.

    Args:
        record: The sweep's run.
        store: Where it is.
        out: The file.

    Raises:
        UserError: Another version of this project planned the sweep.
    """
    text = page(record, store)
    out.parent.mkdir(parents=True, exist_ok=True)
    with output_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(record: Record, store: Store) -> str:
    """The page of a sweep's run; see :func:`write`."""
    sweep, results = planned_sweep(record), Results.read(store)
    runs = [results.trainings[key] for key in sweep.trainings if key in results.trainings]
    evaluations = [results.evaluations[key] for key in sweep.evaluations if key in results.evaluations]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    varying = _varying(sweep)
    return environment.get_template("report.html").render(
        title=sweep.name,
        profile=sweep.profile.name,
        key=record.key,
        status="interrupted" if record.status == "missing" else record.status,
        facts=_facts(sweep, record, runs, evaluations),
        tables=[_table(table, tables.values(table, results)) for table in sweep.tables],
        pictures=_pictures(sweep, store),
        common=_common(sweep),
        by_method=_by_method(sweep, varying),
        varying=varying,
        schemes=_schemes(sweep, varying),
        provenance=_provenance(sweep, record, runs),
        failures=[(r.name, r.reason, r.failures) for r in [*runs, *evaluations] if r.status == "failed"],
        commands=_commands(record, runs),
        runs=_runs(sweep, results),
        written=_moment(time.time()),
    )


def _facts(
    sweep: Sweep, record: Record, runs: Sequence[Record], evaluations: Sequence[Record]
) -> list[tuple[str, str]]:
    """The sweep in numbers."""

    def of(records: Sequence[Record], count: int) -> str:
        done = sum(r.status == "done" for r in records)
        return f"{done:,}" if done == count else f"{done:,} of {count:,}"

    trained = sum(r.metrics.get("train/seconds", 0.0) for r in runs)
    wall = record.metrics.get("sweep/seconds")
    seeds = sorted({spec.seed for spec in sweep.trainings.values()})
    return [
        ("trainings", of(runs, len(sweep.trainings))),
        ("evaluations", of(evaluations, len(sweep.evaluations))),
        (f"{'seeds' if len(seeds) > 1 else 'seed'} ({', '.join(map(str, seeds))})", str(len(seeds))),
        ("in training loops", duration(trained) if trained else "–"),
        ("last launch", duration(wall) if wall else "–"),
    ]


def _table(table: Table, found: Sequence[Value]) -> dict[str, Any]:
    """A table's cells, each with what stands beside it; the best of each column is marked."""
    by_place = {(value.cell.row, value.cell.column): value for value in found}
    best = {
        column: max((v.value for v in found if v.cell.column == column and v.value is not None), default=None)
        for column in table.columns
    }

    def cell(row: str, column: str) -> dict[str, Any]:
        value = by_place.get((row, column))
        if value is None or not value.cell.wanted:
            return {"ours": "–", "spread": "", "state": "", "paper": value.cell.paper if value else "–", "best": False}
        ours, spread = "", ""
        if value.value is not None:
            ours = f"{value.value:.1f}"
            spread = "" if value.spread is None else f"±{value.spread:.1f}"
        state = "" if value.status == "done" else value.status
        top = best[column]
        marked = value.value is not None and top is not None and f"{top:.1f}" == ours
        return {"ours": ours, "spread": spread, "state": state, "paper": value.cell.paper, "best": marked}

    return {
        "name": f"Table {table.number}" if table.number else table.title,
        "title": table.title if table.number else "",
        "side": table.side,
        "beside": table.beside,
        "columns": table.columns,
        "rows": [(row, [cell(row, column) for column in table.columns]) for row in table.rows],
        "said": tables.said(table, found),
        "notes": table.notes,
        "failed": [f"{value.cell.row}, {value.cell.column}: {value.reason}" for value in found if value.reason],
    }


def _pictures(sweep: Sweep, store: Store) -> list[tuple[str, str, str]]:
    """Title, caption and SVG of each figure of which something has been logged."""
    seeds = "" if len(sweep.scope.seeds) == 1 else " Means over seeds."
    wanted = []
    if any(table.number == 1 for table in sweep.tables):
        said = "Accuracy on held-out images along training: of the classifier in FixMatch, of kNN elsewhere."
        wanted.append(("Figure 3", said + seeds, figure3.lines(sweep.scope)))
    said = (
        "Training loss, kNN accuracy on held-out images, and how far the features of a batch are spread: near 0, all "
        "images look the same to the network."
    )
    wanted.append(("Training curves", said + seeds, _curves(sweep)))
    drawn = []
    for number, (title, caption, lines) in enumerate(wanted):
        try:
            drawn.append((title, caption, figures.inline_svg(lines, store, f"figure{number}")))
        except UserError:  # nothing has been logged yet
            continue
    return drawn


def _curves(sweep: Sweep) -> tuple[Line, ...]:
    """One line for the seeds of each scheme, in one panel a method and metric."""
    seeds = defaultdict[tuple[str, str], list[RunSpec]](list)
    for spec in sweep.trainings.values():
        seeds[spec.method, _label(sweep, spec)].append(spec)
    eman = SCHEMES["eman"].title
    return tuple(
        Line(method_named(method).title, label, metric, tuple(runs), scheme_of(runs[0]).title == eman)
        for (method, label), runs in seeds.items()
        for metric in _CURVES
    )


def _label(sweep: Sweep, spec: RunSpec) -> str:
    """A run's title without its method and seed."""
    return sweep.titles[spec.key].partition(" · ")[2].replace(f" · seed {spec.seed}", "")


# Configuration --------------------------------------------------------------------------------------------------------


def _fields(spec: RunSpec) -> dict[str, Any]:
    return {**spec.fields(), **({"init": spec.init.key[:8]} if spec.init else {})}


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


def _common(sweep: Sweep) -> list[tuple[str, str]]:
    """Fields in which all runs agree."""
    specs = list(sweep.trainings.values())
    return [(name, _shown(_fields(specs[0]).get(name))) for name in _names(specs) if _same(specs, name)]


def _methods(sweep: Sweep) -> dict[str, list[RunSpec]]:
    found: dict[str, list[RunSpec]] = {}
    for spec in sweep.trainings.values():
        found.setdefault(spec.method, []).append(spec)
    return found


def _varying(sweep: Sweep) -> list[str]:
    """Fields, but for the seed, in which runs of one method differ."""
    methods = _methods(sweep).values()
    names = _names(sweep.trainings.values())
    return [name for name in names if name != "seed" and not all(_same(specs, name) for specs in methods)]


def _by_method(sweep: Sweep, varying: Sequence[str]) -> dict[str, Any]:
    """Fields in which methods differ, and the runs of each agree."""
    methods, every = _methods(sweep), list(sweep.trainings.values())
    names = [n for n in _names(every) if n not in ("method", "seed", *varying) and not _same(every, n)]
    rows = [(name, [_shown(_fields(specs[0]).get(name)) for specs in methods.values()]) for name in names]
    return {"methods": [method_named(method).title for method in methods], "rows": rows}


def _schemes(sweep: Sweep, varying: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Runs by those fields: what they are called, in which methods, and the values."""
    found: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for spec in sweep.trainings.values():
        values = tuple(_shown(_fields(spec).get(name)) for name in varying)
        found.setdefault((_label(sweep, spec), values), {})[method_named(spec.method).title] = None
    order = [method_named(method).title for method in _methods(sweep)]
    return [
        (label, ", ".join(sorted(methods, key=order.index)), list(values)) for (label, values), methods in found.items()
    ]


# Provenance -----------------------------------------------------------------------------------------------------------


def _provenance(sweep: Sweep, record: Record, runs: Sequence[Record]) -> list[tuple[str, str]]:
    found = [("Sweep", record.key), ("Data set", ", ".join(sorted({s.dataset for s in sweep.trainings.values()})))]
    for tag, name in _PROVENANCE.items():
        counts = Counter(run.tags[tag] for run in runs if run.tags.get(tag))
        several = len(counts) > 1
        values = [f"{value} ({count} runs)" if several else value for value, count in counts.most_common(6)]
        if len(counts) > len(values):
            values.append(f"and {len(counts) - len(values)} more")
        if values:
            found.append((name, ", ".join(values)))
    if runs:
        found.append(("First run began", _moment(min(run.start for run in runs))))
    ended = [run.end for run in [*runs, record] if run.end]
    if ended:
        found.append(("Last run ended", _moment(max(ended))))
    return found


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _commands(record: Record, runs: Sequence[Record]) -> dict[str, Any]:
    """How to make the same sweep, and what stands in the way of the same last digit."""
    revisions = {run.tags.get("eman.git", "unknown") for run in runs} or {record.tags.get("eman.git", "unknown")}
    [revision] = revisions if len(revisions) == 1 else [""]
    clean = bool(revision) and revision != "unknown" and "+" not in revision
    return {
        "revision": revision if clean else "",
        "unclean": ", ".join(sorted(revisions)) if not clean else "",
        "sweep": command(_request(record)),
        "report": f"eman report {record.key[:8]} --out report.html",
    }


def _request(record: Record) -> SweepRequest:
    return SweepRequest.from_json(record.tags["eman.request"])


def _runs(sweep: Sweep, results: Results) -> list[dict[str, str]]:
    rows = []
    for key, spec in sweep.trainings.items():
        record = results.trainings.get(key)
        metrics: Mapping[str, float] = record.metrics if record else {}
        wanted = next((item for item in sweep.wanted if item.run.key == key), None)
        value = results.one(wanted)[0] if wanted else None
        seconds, speed = metrics.get("train/seconds"), metrics.get("train/images_per_second")
        rows.append(
            {
                "title": sweep.titles[key],
                "key": key[:8],
                "status": results.state(spec)[0],
                "metric": wanted.metric if wanted and value is not None else "",
                "value": "" if value is None else f"{value:.1f}",
                "knn": f"{metrics['test/knn_top1']:.1f}" if "test/knn_top1" in metrics else "",
                "seconds": "" if seconds is None else duration(seconds),
                "speed": "" if speed is None else f"{speed:,.0f}",
            }
        )
    return rows

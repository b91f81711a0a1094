"""`eman report`: a sweep as one self-contained page."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eman.evaluation.results import figures
from eman.evaluation.results.cells import Table
from eman.evaluation.results.figures import Line
from eman.evaluation.results.remarks import comparisons
from eman.evaluation.results.values import Results, Value, values_of
from eman.platform.errors import UserError
from eman.platform.output import output_file
from eman.platform.store.records import Record
from eman.platform.store.store import Store
from eman.sweeps.plan import Sweep
from eman.sweeps.tables import figure3
from eman.sweeps.view import configuration
from eman.sweeps.view.provenance import commands, moment, provenance
from eman.sweeps.view.status import planned_sweep
from eman.sweeps.view.text import duration
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.labels import scheme_label
from eman.trainers.spec.run import RunSpec

#: Metrics of each method's training curves.
_CURVES = ("train/loss", "knn/top1", "train/feature_std")


def write(record: Record, store: Store, out: Path) -> None:
    """Write a sweep's page.

    Args:
        record: The sweep's run.
        store: Its store.
        out: The file.

    Raises:
        UserError: Another version of this project planned the sweep.
    """
    text = page(record, store)
    out.parent.mkdir(parents=True, exist_ok=True)
    with output_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(record: Record, store: Store) -> str:
    """Return the page of a sweep's run; see :func:`write`."""
    sweep = planned_sweep(record)
    results = Results.read(store, sweep.tables)
    runs = [results.trainings[key] for key in sweep.trainings if key in results.trainings]
    evaluations = [results.evaluations[key] for key in sweep.evaluations if key in results.evaluations]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    varying = configuration.varying(sweep)
    return environment.get_template("report.html").render(
        title=sweep.name,
        profile=sweep.profile.name,
        key=record.key,
        status="interrupted" if record.status == "missing" else record.status,
        facts=_facts(sweep, record, runs, evaluations),
        tables=[_table(table, values_of(table, results)) for table in sweep.tables],
        pictures=_pictures(sweep, store),
        common=configuration.common(sweep),
        by_method=configuration.by_method(sweep, varying),
        varying=varying,
        schemes=configuration.schemes(sweep, varying),
        provenance=provenance(sweep, record, runs),
        failures=[(r.name, r.reason, r.failures) for r in [*runs, *evaluations] if r.status == "failed"],
        commands=commands(record, runs),
        runs=_runs(sweep, results),
        written=moment(time.time()),
    )


def _facts(
    sweep: Sweep, record: Record, runs: Sequence[Record], evaluations: Sequence[Record]
) -> list[tuple[str, str]]:
    """Return a sweep's key figures."""

    def completed(records: Sequence[Record], count: int) -> str:
        done = sum(r.status == "done" for r in records)
        return f"{done:,}" if done == count else f"{done:,} of {count:,}"

    trained = sum(r.metrics.get("train/seconds", 0.0) for r in runs)
    wall = record.metrics.get("sweep/seconds")
    seeds = sorted({spec.seed for spec in sweep.trainings.values()})
    return [
        ("trainings", completed(runs, len(sweep.trainings))),
        ("evaluations", completed(evaluations, len(sweep.evaluations))),
        (f"{'seeds' if len(seeds) > 1 else 'seed'} ({', '.join(map(str, seeds))})", str(len(seeds))),
        ("in training loops", duration(trained) if trained else "–"),
        ("last launch", duration(wall) if wall else "–"),
    ]


def _table(table: Table, values: Sequence[Value]) -> dict[str, Any]:
    """Return a table's cells with their references. With several seeds, the best of each column is marked."""
    by_position = {(value.cell.row, value.cell.column): value for value in values}
    comparable = max((value.n for value in values), default=0) > 1  # one seed cannot show differences
    best = {
        column: max((v.value for v in values if v.cell.column == column and v.value is not None), default=None)
        for column in table.columns
    }

    def cell(row: str, column: str) -> dict[str, Any]:
        value = by_position.get((row, column))
        if value is None or not value.cell.wanted:
            return {"ours": "–", "spread": "", "state": "", "paper": value.cell.paper if value else "–", "best": False}
        ours, spread = "", ""
        if value.value is not None:
            ours = f"{value.value:.1f}"
            spread = "" if value.spread is None else f"±{value.spread:.1f}"
        state = "" if value.status == "done" else value.status
        top = best[column]
        marked = comparable and value.value is not None and top is not None and f"{top:.1f}" == ours
        return {"ours": ours, "spread": spread, "state": state, "paper": value.cell.paper, "best": marked}

    return {
        "name": f"Table {table.number}" if table.number else table.title,
        "title": table.title if table.number else "",
        "side": table.side,
        "beside": table.beside,
        "columns": table.columns,
        "rows": [(row, [cell(row, column) for column in table.columns]) for row in table.rows],
        "remarks": comparisons(table, values),
        "notes": table.notes,
        "failed": [f"{value.cell.row}, {value.cell.column}: {value.reason}" for value in values if value.reason],
    }


def _pictures(sweep: Sweep, store: Store) -> list[tuple[str, str, str]]:
    """Return title, caption and SVG of each figure that has any data."""
    seeds = "" if len(sweep.scope.seeds) == 1 else " Means over seeds."
    wanted = []
    if any(table.number == 1 for table in sweep.tables):
        caption = "Accuracy on held-out images during training: the classifier's in FixMatch, kNN otherwise."
        wanted.append(("Figure 3", caption + seeds, figure3.lines(sweep.scope)))
    caption = (
        "Training loss, kNN accuracy on held-out images, and standard deviation of a batch's features, which "
        "approaches 0 when they collapse."
    )
    wanted.append(("Training curves", caption + seeds, _curves(sweep)))
    drawn = []
    for number, (title, caption, lines) in enumerate(wanted):
        try:
            drawn.append((title, caption, figures.inline_svg(lines, store, f"figure{number}")))
        except UserError:  # nothing has been logged yet
            continue
    return drawn


def _curves(sweep: Sweep) -> tuple[Line, ...]:
    """Return one line per scheme, over its seeds, in one panel per method and metric."""
    seeds = defaultdict[tuple[str, str], list[RunSpec]](list)
    for spec in sweep.trainings.values():
        seeds[spec.method.name, configuration.label(sweep, spec)].append(spec)
    eman = SCHEMES["eman"].title
    return tuple(
        Line(method_named(method).title, label, metric, tuple(runs), scheme_label(runs[0]) == eman)
        for (method, label), runs in seeds.items()
        for metric in _CURVES
    )


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

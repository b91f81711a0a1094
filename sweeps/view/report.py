"""`eman report`: a sweep as one self-contained page."""

import base64
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eman.evaluation.results import figures, verdicts
from eman.evaluation.results.cells import Table
from eman.evaluation.results.claims import Verdict
from eman.evaluation.results.figures import Line
from eman.evaluation.results.remarks import comparisons, failures
from eman.evaluation.results.values import Results, Value, values_of
from eman.platform.errors import UserError
from eman.platform.output import output_file
from eman.platform.store.records import Record
from eman.platform.store.store import Store
from eman.sweeps.claims.verdicts import verdicts_of
from eman.sweeps.plan import Sweep
from eman.sweeps.price import Rates, rates
from eman.sweeps.search.outcome import outcomes
from eman.sweeps.search.picture import draw as draw_search
from eman.sweeps.tables import figure3
from eman.sweeps.view.configuration import configuration, label
from eman.sweeps.view.provenance import commands, moment, provenance
from eman.sweeps.view.status import planned_sweep
from eman.sweeps.view.text import duration
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.labels import scheme_colour, scheme_label
from eman.trainers.spec.run import RunSpec

#: Metrics of each method's training curves.
_CURVES = ("train/loss", "knn/top1", "train/feature_std")


def write(record: Record, store: Store, out: Path, watts: float | None = None, price: float | None = None) -> None:
    """Write the page of a sweep's run.

    Args:
        record: The sweep's run.
        store: Where it is.
        out: File to write.
        watts: Power of one GPU or process; ``None`` for the measured, see :func:`~eman.sweeps.price.rates`.
        price: Money for an hour of one GPU or process, if known.

    Raises:
        UserError: Another version of this project planned the sweep, or it has no runs.
    """
    sweep = planned_sweep(record)
    if not sweep.trainings:
        raise UserError(f"sweep {record.key[:8]} ({record.name}) has no runs yet; launch it again.")
    results = Results.read(store, sweep.tables)
    runs, evaluations = list(results.trainings.values()), list(results.evaluations.values())
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = _shown
    page = environment.get_template("report.html").stream(
        title=sweep.name,
        profile=sweep.profile.name,
        key=record.key,
        status="interrupted" if record.status == "missing" else record.status,
        facts=_facts(sweep, record, runs, evaluations, rates(runs, watts, price)),
        tables=[_table(table, values_of(table, results)) for table in sweep.tables],
        claims=_claims(verdicts_of(sweep, results, store)),
        pictures=_pictures(sweep, store),
        search=_search(sweep, results),
        **configuration(sweep),
        provenance=provenance(sweep, record, runs),
        failures=[(r.name, r.reason, r.failures) for r in [*runs, *evaluations] if r.status == "failed"],
        commands=commands(sweep, record, runs),
        runs=_runs(sweep, results),
        written=moment(time.time()),
    )
    with output_file(out) as temporary:
        page.dump(str(temporary), encoding="utf-8")


def _facts(
    sweep: Sweep, record: Record, runs: Sequence[Record], evaluations: Sequence[Record], hourly: Rates
) -> list[tuple[str, str]]:
    def completed(records: Sequence[Record], count: int) -> str:
        done = sum(r.status == "done" for r in records)
        return f"{done:,}" if done == count else f"{done:,} of {count:,}"

    seconds = [(r.metrics.get("train/seconds", 0.0), _workers(r)) for r in runs]
    trained = sum(of_run for of_run, _ in seconds)
    hours = sum(of_run * workers for of_run, workers in seconds) / 3600
    wall = record.metrics.get("sweep/seconds")
    seeds = sorted({spec.seed for spec in sweep.trainings.values()})
    costs = [(f"for training, at {hourly.watts:,.0f} W ({hourly.source})", f"{hourly.energy(hours):,.3g} kWh")]
    if hourly.price is not None:
        costs.append((f"for training, at {hourly.price:g} an hour", f"{hourly.price * hours:,.2f}"))
    return [
        ("trainings", completed(runs, len(sweep.trainings))),
        ("evaluations", completed(evaluations, len(sweep.evaluations))),
        (f"{'seeds' if len(seeds) > 1 else 'seed'} ({', '.join(map(str, seeds))})", str(len(seeds))),
        ("in training loops", duration(trained) if trained else "–"),
        ("last launch", duration(wall) if wall else "–"),
        *costs,
    ]


def _workers(run: Record) -> int:
    """Return a run's workers; the most that a range such as ``(1, 2)`` allows."""
    return max(map(int, re.findall(r"\d+", run.tags.get("eman.workers", ""))), default=1)


def _table(table: Table, values: Sequence[Value]) -> dict[str, Any]:
    """Return a table's cells with their references. With several seeds, the best of each column is marked."""
    cells = {(value.cell.row, value.cell.column): value for value in values}
    several = max((value.n for value in values), default=0) > 1  # one seed cannot show differences
    best = {v.cell.column: 0.0 for v in values}
    for value in values:
        best[value.cell.column] = max(best[value.cell.column], value.value or 0.0)
    return {
        "name": table.label,
        "title": "" if table.label == table.title else table.title,
        "table": table,
        "rows": [(table.printed(row), [cells.get((row, column)) for column in table.columns]) for row in table.rows],
        "best": [f"{best[column]:.1f}" if several else "" for column in table.columns],
        "remarks": comparisons(table, values),
        "failed": failures(table, values),
    }


def _claims(found: Sequence[Verdict]) -> dict[str, Any] | None:
    """Return the verdicts as a table, and the notes below it; ``None`` without any."""
    if not found:
        return None
    rows = [(v.claim.source, verdicts.row(v), v.outcome.name.lower()) for v in found]
    return {"headings": verdicts.HEADINGS, "rows": rows, "notes": verdicts.notes(found)}


def _pictures(sweep: Sweep, store: Store) -> list[tuple[str, str, str]]:
    """Return title, caption and SVG of each figure that has any data."""
    seeds = "" if len(sweep.scope.seeds) == 1 else " Means and standard deviations over seeds."
    wanted = []
    if any(table.name == "table1" for table in sweep.tables):
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


def _search(sweep: Sweep, results: Results) -> tuple[list[str], str] | None:
    """Return a search's outcome as lines, and its picture as the base64 text of a PNG; ``None`` without a search."""
    if not sweep.request.searches:
        return None
    found = outcomes(sweep, results)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "search.png"
        picture = base64.b64encode(file.read_bytes()).decode() if draw_search(found, file) else ""
    return [line for outcome in found for line in outcome.lines()], picture


def _curves(sweep: Sweep) -> tuple[Line, ...]:
    """Return one line per scheme, over its seeds, in one panel per method and metric."""
    seeds = defaultdict[tuple[str, str], list[RunSpec]](list)
    for spec in sweep.trainings.values():
        seeds[spec.method.name, label(sweep, spec)].append(spec)
    eman = SCHEMES["eman"].title
    return tuple(
        Line(
            method_named(method).title,
            name,
            metric,
            tuple(runs),
            scheme_colour(runs[0]),
            highlighted=scheme_label(runs[0]) == eman,
        )
        for (method, name), runs in seeds.items()
        for metric in _CURVES
    )


def _runs(sweep: Sweep, results: Results) -> list[dict[str, Any]]:
    wanted = {item.run.key: item for item in reversed(sweep.wanted)}
    rows = []
    for key, spec in sweep.trainings.items():
        record = results.trainings.get(key)
        value = results.one(wanted[key])[0] if key in wanted else None
        rows.append(
            {
                "title": sweep.titles[key],
                "key": key[:8],
                "status": results.state(spec)[0],
                "metric": wanted[key].metric if value is not None else "",
                "value": value,
                "metrics": defaultdict[str, float | None](lambda: None, record.metrics if record else {}),
            }
        )
    return rows


def _shown(value: float | None, form: str) -> str:
    """Return a number in this format, or as a duration; empty for ``None``."""
    if value is None:
        return ""
    return duration(value) if form == "duration" else format(value, form)

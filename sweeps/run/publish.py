"""Publish a launch in the store: tables, claims and Figure 3 on the sweep's run, results on the trainings' runs."""

import contextlib
import json
import tempfile
import time
from collections.abc import Sequence, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eman.evaluation.results import verdicts as printed
from eman.evaluation.results.figures import draw
from eman.evaluation.results.long import frame
from eman.evaluation.results.render import markdown, render
from eman.evaluation.results.values import Results, values_of
from eman.platform import modules
from eman.platform.errors import UserError
from eman.platform.store.records import SWEEP
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.sweeps.claims.verdicts import verdicts_of
from eman.sweeps.plan import Sweep
from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.request import SweepRequest, command
from eman.sweeps.run.options import Options, Report
from eman.sweeps.search.outcome import outcomes
from eman.sweeps.search.picture import draw as draw_search
from eman.sweeps.tables import figure3
from eman.sweeps.tables.registry import TABLES
from eman.sweeps.view import links
from eman.sweeps.view.report import write as write_report

if TYPE_CHECKING:
    import pandas as pd


def begin_sweep(sweep: Sweep, store: Store, launched: float, options: Options) -> RunLog:
    """Create or resume the sweep's run in the store."""
    return store.begin(
        SWEEP,
        sweep.key,
        f"{sweep.name} · {sweep.profile.name}",
        params={"command": command(sweep.request), **_params(sweep.request)},
        tags={
            **options.tags,
            "profile": sweep.profile.name,
            "mlflow.note.content": f"{options.note}\n\n{command(sweep.request)}".strip(),
            **({"eman.note": options.note} if options.note else {}),
            "eman.request": sweep.request.model_dump_json(),
            "eman.launched": f"{launched:.3f}",
            **modules.tags(_modules(sweep)),
        },
    )


def _modules(sweep: Sweep) -> set[str]:
    """Return the modules that registered what a sweep consists of."""
    used = {entry.module for run in sweep.trainings.values() for entry in run.used}
    return used | {TABLES.origin(table.name) for table in sweep.tables} | {PROFILES.origin(sweep.profile.name)}


def _params(request: SweepRequest) -> dict[str, str]:
    """Return the fields that a request sets, as parameters of its run."""
    values = {name: value for name, value in request.model_dump(mode="json").items() if value not in ([], {}, "", None)}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def publish_results(sweep: Sweep, store: Store, evaluated: Set[str]) -> None:
    """Write the tables' results from these evaluations to the trainings' runs."""
    results = Results.read(store, sweep.tables)
    for wanted in dict.fromkeys(sweep.wanted):
        if evaluated.isdisjoint(spec.key for spec in wanted.evaluations):
            continue
        if any((s.network, s.selection, s.dataset) != ("student", "last", None) for s in wanted.evaluations):
            continue  # their metrics have the same names, so they stay on the evaluations' runs
        value, status, _ = results.one(wanted)
        if status != "done" or value is None:
            continue
        chosen = results.chosen(wanted)
        grid = wanted.evaluations[0].entry.grid
        # The learning rate selected on held-out images, for example linear/10pct_lr.
        tags = {wanted.select_by.replace("held_out_top1", grid): chosen.params[grid]} if grid and chosen else {}
        log = RunLog(store, results.trainings[wanted.run.key].run_id, wanted.run.optim.epochs)
        log.write({wanted.metric: value}, wanted.run.optim.epochs, tags=tags)


def _publish_report(sweep: Sweep, store: Store, parent: RunLog) -> None:
    record = store.by_key(SWEEP, [sweep.key])[sweep.key]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(record, store, page)
        store.with_retries(partial(store.client.log_artifact, parent.run_id, str(page)))


def publish_sweep(sweep: Sweep, store: Store, parent: RunLog, report: Report) -> None:
    """Write tables, figures and the report to the sweep's run and finish it."""
    results = Results.read(store, sweep.tables)
    states = [(sweep.titles[key], *results.state(spec)) for key, spec in sweep.trainings.items()]
    states += [(record.name, record.status, record.reason) for record in results.evaluations.values()]
    report.failed += [f"{name}: {reason}" for name, status, reason in states if status == "failed"]
    values = [(table, values_of(table, results)) for table in sweep.tables]
    texts = [markdown(table, cells) for table, cells in values]
    artifacts = {f"{table.name}.md": text for table, text in zip(sweep.tables, texts, strict=True)}
    artifacts["tables.csv"] = render(values, "csv")
    # Written whole: `log_table` would append to the table of an earlier, interrupted launch.
    artifacts["tables.json"] = frame(values, printed=True).to_json(orient="split", index=False)
    if verdicts := verdicts_of(sweep, results, store):
        texts.append(printed.notes(verdicts)[0] + " All are in `claims.md`, under Artifacts.")
        artifacts["claims.md"] = printed.markdown(verdicts)
        artifacts["claims.csv"] = printed.render(verdicts, "csv")
    for name, text in artifacts.items():
        store.with_retries(partial(store.client.log_text, parent.run_id, text, name))
    _publish_search(sweep, results, store, parent, report)
    if any(table.name == "table1" for table in sweep.tables):
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UserError):  # nothing to draw yet
            picture = Path(folder) / "figure3.png"
            draw(figure3.lines(sweep.scope), store, picture, figure3.caption(sweep.scope))
            store.with_retries(partial(store.client.log_artifact, parent.run_id, str(picture)))
    if not report.interrupted:
        _publish_report(sweep, store, parent)
    metrics = {
        "sweep/seconds": report.seconds,
        "sweep/trained": report.trained,
        "sweep/failed": len(report.failed),
        "sweep/efficiency": report.efficiency,
    }
    logged = json.dumps([{"path": "tables.json", "type": "table"}])
    tags = {"mlflow.loggedArtifacts": logged, **links.description_tags(sweep, store, texts)}
    parent.write(metrics, tags=tags, status="KILLED" if report.interrupted else "FINISHED")


def _publish_search(sweep: Sweep, results: Results, store: Store, parent: RunLog, report: Report) -> None:
    """Write Ray's tables of this launch's trainings, and a search's outcome and picture."""

    def log(file: Path, folder: str | None = None) -> None:
        store.with_retries(partial(store.client.log_artifact, parent.run_id, str(file), folder))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if report.trials:
            file = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.parquet"
            trial_frame(report.trials).to_parquet(file, index=False)
            log(file, "trials")
        if sweep.request.searches:
            found = outcomes(sweep, results)
            text = "\n".join(line for outcome in found for line in outcome.lines())
            store.with_retries(partial(store.client.log_text, parent.run_id, text, "search.txt"))
            if draw_search(found, folder / "search.png"):
                log(folder / "search.png")


def trial_frame(tables: Sequence["pd.DataFrame"]) -> "pd.DataFrame":
    """Return Ray's tables of trials as one that Parquet can hold: a column of mixed values becomes text."""
    import pandas as pd

    whole = pd.concat(tables, ignore_index=True)
    for name in whole.columns:
        if whole[name].dtype == object and whole[name].dropna().map(type).nunique() > 1:
            whole[name] = whole[name].map(lambda value: None if value is None else str(value))
    return whole

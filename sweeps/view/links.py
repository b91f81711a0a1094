"""Addresses of MLflow's pages for a sweep, and the description of its run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

from eman.platform.store.records import SWEEP, TRAINING, Record
from eman.platform.store.store import Store
from eman.sweeps.plan import Sweep
from eman.sweeps.request import command

#: Tag of a sweep's run with the keys of its trainings, some of which may be children of another sweep.
MEMBERS = "eman.trainings"

#: MLflow truncates longer tags.
_MAX_TAG = 8000

#: Prefixes of the metrics by which comparisons sort runs, in order of preference.
_HEADLINES = ("linear/", "finetune/", "test/top1", "test/knn_top1")

#: Longest link in descriptions, in characters; links with many run ids are longer.
_MAX_LINK = 1500


def _page(experiment: str, run: str = "") -> str:
    return f"/#/experiments/{experiment}/runs{f'/{run}' if run else ''}?workflowType=machine_learning"


def comparisons(experiment: str, sweep: Record, trainings: Mapping[str, Record]) -> dict[str, str]:
    """Return, by method, the paths of charts that compare a sweep's schemes, best run first; `trainings` are by key."""
    keys = sweep.tags.get(MEMBERS, "").split(",")
    children = [record for record in trainings.values() if record.tags.get("mlflow.parentRunId") == sweep.run_id]
    members = [trainings[key] for key in keys if key in trainings] or children
    pages = {}
    for method in dict.fromkeys(record.tags["method"] for record in members):
        chosen = [record for record in members if record.tags["method"] == method]
        if all(record in children for record in chosen):
            condition = f"tags.mlflow.parentRunId = '{sweep.run_id}' AND tags.method = '{method}'"
        else:
            condition = f"attributes.run_id IN ({','.join(repr(record.run_id) for record in chosen)})"
        # Unless sorted by date, the UI lists runs individually instead of under their parent.
        order = f"metrics.`{_headline(chosen)}`"
        pages[method] = (
            f"{_page(experiment)}&compareRunsMode=CHART&searchFilter={quote(condition, safe='(),.')}"
            f"&orderByKey={quote(order, safe='.')}&orderByAsc=false"
        )
    return pages


def _headline(records: Sequence[Record]) -> str:
    names = sorted({name for record in records for name in record.metrics})
    results = [name for name in names if name.endswith("top1") and not name.endswith("held_out_top1")]
    return next((name for start in _HEADLINES for name in results if name.startswith(start)), "train/loss")


def description_tags(sweep: Sweep, store: Store, tables: Sequence[str]) -> dict[str, str]:
    """Return the tags from which the UI and :func:`comparisons` show a finished sweep.

    Its description in Markdown has its tables, comparisons of its schemes, and the command that repeats it. Tables that
    do not fit into a tag are only artifacts.
    """
    members = ",".join(sweep.trainings)
    own = {MEMBERS: members} if len(members) <= _MAX_TAG else {}
    record = store.by_key(SWEEP, [sweep.key])[sweep.key]
    trainings = store.by_key(TRAINING, sweep.trainings)
    pages = comparisons(store.experiment_id, replace(record, tags={**record.tags, **own}), trainings)
    links = ", ".join(f"[{name}](.{page})" for name, page in pages.items() if len(page) < _MAX_LINK)
    above = f"Schemes compared: {links}. Figures and tables are under Artifacts.\n\n"
    below = (
        f"\n\nMade by git revision `{record.tags.get('eman.git', 'unknown')}`. This command repeats or continues it:"
        f"\n\n    {command(sweep.request)}\n"
    )
    above = f"{note}\n\n{above}" if (note := record.tags.get("eman.note")) else above
    text = ""
    for table in tables:
        if len(above) + len(text) + len(table) + len(below) > _MAX_TAG - 100:
            text += "\n\n(the other tables are under Artifacts)"
            break
        text += f"\n\n{table}"
    return own | {"mlflow.note.content": above + text.strip() + below}


def link_lines(store: Store, server: str) -> list[str]:
    """Return lines with the UI's addresses for the newest sweep and for all runs, the most useful first."""
    experiment, lines = store.experiment_id, []
    for newest in store.records(SWEEP, limit=1):
        children = {record.key: record for record in store.records(TRAINING, parent=newest.run_id)}
        members = [key for key in newest.tags.get(MEMBERS, "").split(",") if key and key not in children]
        for method, page in comparisons(experiment, newest, children | store.by_key(TRAINING, members)).items():
            lines.append(f"{newest.name}, schemes of {method}: {server}{page}")
        lines.append(f"{newest.name}, tables: {server}{_page(experiment, newest.run_id)}")
    # An empty filter clears the one that the browser remembers.
    order = "searchFilter=&orderByKey=attributes.start_time&orderByAsc=false"
    return [*lines, f"all runs: {server}{_page(experiment)}&{order}"]

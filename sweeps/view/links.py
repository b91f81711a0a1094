"""Addresses of MLflow's pages for a sweep, and the description of its run."""

from collections.abc import Sequence
from dataclasses import replace

from eman.platform.store.records import SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.sweeps.plan import Sweep
from eman.sweeps.request import command
from eman.sweeps.view.comparison import MEMBERS, comparisons, page_path, save_view

#: MLflow truncates longer tags.
_MAX_TAG = 8000

#: Longest link in descriptions, in characters; links with many run ids are longer.
_MAX_LINK = 1500


def description_tags(sweep: Sweep, store: Store, tables: Sequence[str]) -> dict[str, str]:
    """Return the tags from which the UI and the pages of comparisons show a finished sweep.

    Its description in Markdown has its tables, comparisons of its schemes, and the command that repeats it. Tables that
    do not fit into a tag are only artifacts.
    """
    members = ",".join(sweep.trainings)
    own = {MEMBERS: members} if len(members) <= _MAX_TAG else {}
    record = store.by_key(SWEEP, [sweep.key])[sweep.key]
    trainings = store.by_key(TRAINING, sweep.trainings)
    pages = comparisons(store.experiment_id, replace(record, tags={**record.tags, **own}), trainings)
    links = ", ".join(f"[{name}](.{page.link})" for name, page in pages.items() if len(page.link) < _MAX_LINK)
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
        for method, comparison in comparisons(experiment, newest, children | store.by_key(TRAINING, members)).items():
            lines.append(f"{newest.name}, schemes of {method}: {server}{save_view(comparison, store)}")
        lines.append(f"{newest.name}, tables: {server}{page_path(experiment, newest.run_id)}")
    # An empty filter clears the one that the browser remembers.
    order = "searchFilter=&orderByKey=attributes.start_time&orderByAsc=false"
    return [*lines, f"all runs: {server}{page_path(experiment)}&{order}"]

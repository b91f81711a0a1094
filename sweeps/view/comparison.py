"""MLflow's page that compares a sweep's schemes: which runs, in which order, grouped how, with which charts first."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from eman.platform.store.records import Record
from eman.platform.store.store import Store

#: Tag of a sweep's run with the keys of its trainings, some of which may be children of another sweep.
MEMBERS = "eman.trainings"

#: Prefixes of the metrics by which comparisons sort runs, in order of preference.
_HEADLINES = ("linear/", "finetune/", "test/top1", "test/knn_top1")

#: Curves to show first, if they were logged.
_CURVES = ("accuracy/top1", "knn/top1", "train/loss", "train/feature_std", "train/pseudo_label_accuracy")

#: Tag of the experiment from which MLflow's UI loads a shared view, followed by the view's key.
_VIEW_TAG = "mlflow.sharedViewState."

#: MLflow refuses longer tags of an experiment.
_MAX_VIEW = 5000


@dataclass(frozen=True)
class Comparison:
    """The comparison of a method's runs.

    Attributes:
        experiment: MLflow's id of the experiment.
        method: The method's title.
        condition: MLflow's search for the runs.
        order: What to sort them by, the best first.
        charts: Metrics of the charts to show first: the result as bars, then curves.
        groups: Kind (``tag`` or ``param``) and name of what distinguishes runs apart from their seed; empty with one
            seed.
    """

    experiment: str
    method: str
    condition: str
    order: str
    charts: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]

    @property
    def link(self) -> str:
        """The page's path, without charts and groups, which only a saved view can have."""
        condition, order = quote(self.condition, safe="(),."), quote(self.order, safe=".")
        return (
            f"{page_path(self.experiment)}&compareRunsMode=CHART&searchFilter={condition}&orderByKey={order}"
            f"&orderByAsc=false"
        )

    def view(self) -> dict[str, Any]:
        """Return the page as the UI saves a view that is shared."""
        section = "schemes"
        groups = [{"mode": mode, "groupByData": name} for mode, name in self.groups]
        return {
            "searchFilter": self.condition,
            "orderByKey": self.order,
            "orderByAsc": False,
            "runsHiddenMode": "SHOW_ALL",  # by default, only ten runs have charts
            "groupBy": {"aggregateFunction": "average", "groupByKeys": groups} if groups else None,
            "compareRunSections": [_part(uuid=section, name=f"{self.method}: schemes compared", display=True)],
            "compareRunCharts": [
                _part(
                    uuid=metric,
                    type="LINE" if number else "BAR",
                    runsCountToCompare=100,
                    metricSectionId=section,
                    metricKey=metric,
                    displayName=metric,
                    **(_LINE if number else {}),
                )
                for number, metric in enumerate(self.charts)
            ],
        }


_LINE = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0, "range": {}}


def _part(**values: Any) -> dict[str, Any]:
    return {**values, "deleted": False, "isGenerated": False, "isReordered": False}


def page_path(experiment: str, run: str = "") -> str:
    """Return the path of MLflow's page of an experiment's runs, or of one run."""
    return f"/#/experiments/{experiment}/runs{f'/{run}' if run else ''}?workflowType=machine_learning"


def comparisons(experiment: str, sweep: Record, trainings: Mapping[str, Record]) -> dict[str, Comparison]:
    """Return the comparison of a sweep's schemes by method; `trainings` are by key."""
    keys = sweep.tags.get(MEMBERS, "").split(",")
    children = [record for record in trainings.values() if record.tags.get("mlflow.parentRunId") == sweep.run_id]
    members = [trainings[key] for key in keys if key in trainings] or children
    members = [record for record in members if "method" in record.tags]  # others were stopped while they began
    found = {}
    for method in dict.fromkeys(record.tags["method"] for record in members):
        chosen = [record for record in members if record.tags["method"] == method]
        if all(record in children for record in chosen):
            condition = f"tags.mlflow.parentRunId = '{sweep.run_id}' AND tags.method = '{method}'"
        else:
            condition = f"attributes.run_id IN ({','.join(repr(record.run_id) for record in chosen)})"
        logged = {name for record in chosen for name in record.metrics}
        headline = _headline(sorted(logged))
        charts = dict.fromkeys([headline, *(name for name in _CURVES if name in logged)])
        # Unless sorted by date, the UI lists runs individually instead of under their parent.
        found[method] = Comparison(
            experiment, method, condition, f"metrics.`{headline}`", tuple(charts), _groups(chosen)
        )
    return found


def save_view(comparison: Comparison, store: Store) -> str:
    """Save the comparison's view in its experiment, and return its path; without a view where it cannot be saved.

    A later view of the same method replaces it, because MLflow reads all tags of an experiment at once.
    """
    key = f"eman-{re.sub('[^a-z0-9]+', '-', comparison.method.lower())}"
    text = json.dumps(comparison.view(), separators=(",", ":"))
    if len(text) > _MAX_VIEW or store.read_only:
        return comparison.link
    from mlflow.exceptions import MlflowException

    try:
        store.client.set_experiment_tag(comparison.experiment, f"{_VIEW_TAG}{key}", text)
    except MlflowException as error:  # a server may let some users only read
        if error.error_code != "PERMISSION_DENIED":
            raise
        return comparison.link
    return f"{page_path(comparison.experiment)}&compareRunsMode=CHART&viewStateShareKey={key}"


def _headline(names: Sequence[str]) -> str:
    results = [name for name in names if name.endswith("top1") and not name.endswith("held_out_top1")]
    return next((name for start in _HEADLINES for name in results if name.startswith(start)), "train/loss")


def _groups(records: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    """Return the scheme, and the parameters in which runs of the same scheme and seed differ, if there are seeds."""
    if len({record.tags.get("seed") for record in records}) < 2:
        return ()
    names = {name for record in records for name in record.params}
    values: dict[tuple[str | None, ...], set[str | None]] = {}
    for record in records:
        for name in names:
            place = (name, record.tags.get("scheme"), record.tags.get("seed"))
            values.setdefault(place, set()).add(record.params.get(name))
    varying = sorted({str(name) for (name, *_), found in values.items() if len(found) > 1})
    return (("tag", "scheme"), *(("param", name) for name in varying))

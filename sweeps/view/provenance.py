"""Provenance of a sweep's results, and the commands that reproduce them."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from eman.platform.store.records import Record
from eman.sweeps.plan import Sweep
from eman.sweeps.request import SweepRequest, command

#: Provenance tags of a run, with their display names.
_PROVENANCE = {
    "eman.git": "Source, git",
    "eman.python": "Python",
    "eman.version.torch": "torch",
    "eman.version.torchvision": "torchvision",
    "eman.version.ray": "Ray",
    "eman.version.mlflow": "MLflow",
    "eman.data_hash": "Hash of the images",
    "eman.label_set_hash": "Hash of the label set",
    "eman.workers": "Workers of a run",
}


def provenance(sweep: Sweep, record: Record, runs: Sequence[Record]) -> list[tuple[str, str]]:
    """Return the provenance of the results: versions, hashes, dates."""
    rows = [("Sweep", record.key), ("Data set", ", ".join(sorted({s.data.dataset for s in sweep.trainings.values()})))]
    for tag, name in _PROVENANCE.items():
        counts = Counter(run.tags[tag] for run in runs if run.tags.get(tag))
        several = len(counts) > 1
        values = [f"{value} ({count} runs)" if several else value for value, count in counts.most_common(6)]
        if len(counts) > len(values):
            values.append(f"and {len(counts) - len(values)} more")
        if values:
            rows.append((name, ", ".join(values)))
    if runs:
        rows.append(("First run began", moment(min(run.start for run in runs))))
    ended = [run.end for run in [*runs, record] if run.end]
    if ended:
        rows.append(("Last run ended", moment(max(ended))))
    return rows


def moment(seconds: float) -> str:
    """Return a date and time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def commands(record: Record, runs: Sequence[Record]) -> dict[str, Any]:
    """Return the commands that repeat the sweep, and the revisions if there is no single clean one."""
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

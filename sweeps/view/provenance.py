"""Provenance of a sweep's results, and the commands that reproduce them."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from eman.platform.modules import TAG
from eman.platform.store.records import Record
from eman.sweeps.plan import Sweep
from eman.sweeps.request import command

#: Provenance tags of a run, with their display names.
_PROVENANCE = {
    "eman.git": "Source, git",
    "eman.python": "Python",
    "eman.version.torch": "torch",
    "eman.version.torchvision": "torchvision",
    "eman.version.timm": "timm",
    "eman.version.ray": "Ray",
    "eman.version.mlflow": "MLflow",
    "eman.data_hash": "Hash of the images",
    "eman.label_set_hash": "Hash of the label set",
    "eman.workers": "Workers of a run",
}

#: Values of a tag to list; further ones are counted.
_MOST = 6


def provenance(sweep: Sweep, record: Record, runs: Sequence[Record]) -> list[tuple[str, str]]:
    """Return the provenance of the results: versions, hashes, dates."""
    rows = [("Sweep", record.key), ("Data set", ", ".join(sorted({s.data.dataset for s in sweep.trainings.values()})))]
    loaded = {tag for run in runs for tag in run.tags if tag.startswith(TAG)}
    shown = _PROVENANCE | {tag: f"Module {tag.removeprefix(TAG)}" for tag in sorted(loaded)}
    for tag, name in shown.items():
        counts = Counter(run.tags[tag] for run in runs if run.tags.get(tag))
        values = [f"{value} ({count} runs)" for value, count in counts.most_common(_MOST)]
        values += [f"and {len(counts) - _MOST} more"] if len(counts) > _MOST else []
        if counts:
            rows.append((name, ", ".join(values) if len(counts) > 1 else next(iter(counts))))
    if runs:
        rows.append(("First run began", moment(min(run.start for run in runs))))
    ended = [run.end for run in [*runs, record] if run.end]
    return [*rows, ("Last run ended", moment(max(ended)))] if ended else rows


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def commands(sweep: Sweep, record: Record, runs: Sequence[Record]) -> dict[str, Any]:
    """Return the commands that repeat the sweep, and the revisions if there is no single clean one."""
    revisions = sorted({run.tags.get("eman.git", "unknown") for run in runs or [record]})
    clean = len(revisions) == 1 and revisions[0] != "unknown" and "+" not in revisions[0]
    return {
        "revision": revisions[0] if clean else "",
        "unclean": "" if clean else ", ".join(revisions),
        "sweep": command(sweep.request),
        "report": f"eman report {record.key[:8]} --out report.html",
    }

"""`eman status` and `eman runs`: sweeps and runs in the store; and sweeps by name."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eman.platform.errors import UserError
from eman.platform.modules import TAG, check_loaded
from eman.platform.store.client import without_password
from eman.platform.store.records import SWEEP, TRAINING, Record, number
from eman.platform.store.store import Store
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.runs import evaluations_of, find_run
from eman.sweeps.view.text import duration

#: Number of the newest sweeps to search by name.
_NEWEST = 200


def store_status(store: Store, newest: int) -> dict[str, Any]:
    """Return the newest sweeps and trainings, and the number of these trainings by profile, method and state.

    ``newest`` is the limit of both; 0 means all.
    """
    sweeps, trainings = store.records(SWEEP, limit=newest), store.records(TRAINING, limit=newest)
    counts = Counter((r.tags.get("profile", ""), r.tags.get("method", ""), r.status) for r in trainings)
    return {
        "store": without_password(store.uri),
        "newest": newest if len(trainings) == newest else 0,
        "sweeps": [
            {"key": r.key, "name": r.name, "status": r.status, "seconds": r.metrics.get("sweep/seconds")}
            for r in sweeps
        ],
        "counts": [
            {"profile": profile, "method": method, "status": status, "count": count}
            for (profile, method, status), count in sorted(counts.items())
        ],
        "runs": [
            {"key": r.key, "status": r.status, "name": r.name, "profile": r.tags.get("profile", ""), "reason": r.reason}
            for r in sorted(trainings, key=lambda r: (r.tags.get("profile", ""), r.name))
        ],
    }


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """Return sweeps and counts of `store_status` as lines."""
    lines = [f"store {status['store']}"]
    for sweep in status["sweeps"]:
        state = "interrupted" if sweep["status"] == "missing" else sweep["status"]
        took = f", {duration(sweep['seconds'])}" if sweep["seconds"] else ""
        lines.append(f"sweep {sweep['key'][:8]}  {sweep['name']}: {state}{took}")
    lines += ["{profile}  {method:<11}{status:<8}{count:>4}".format(**count) for count in status["counts"]]
    if not status["counts"]:
        return [*lines, "no runs yet; `eman sweep table1 table8 --profile quick` makes some"]
    return [*lines, *_more_lines(status)]


def _more_lines(status: Mapping[str, Any]) -> list[str]:
    """Return a line if the store may have more trainings than are shown."""
    if not status["newest"]:
        return []
    return [f"these are the newest {status['newest']} trainings; --newest N shows more, --newest 0 all"]


def run_lines(status: Mapping[str, Any]) -> list[str]:
    """Return the trainings of `store_status` as lines."""
    runs = status["runs"]
    width = max((len(run["name"]) for run in runs), default=0)
    lines = [
        f"{run['key']}  {run['status']:8}  {run['name']:{width}}  {run['profile']}"
        + (f"  ({run['reason']})" if run["reason"] else "")
        for run in runs
    ]
    return [*lines, *_more_lines(status)]


def describe_run(prefix: str, store: Store) -> dict[str, Any]:
    """Return a training and its evaluations as plain values."""
    record = find_run(prefix, store)
    folder = replace(store.workspace.run_folder(record.key), patience=0.0)
    return {
        "key": record.key,
        "name": record.name,
        "status": record.status,
        "reason": record.reason,
        "profile": record.tags.get("profile", ""),
        "folder": str(folder) if folder.exists() else "",
        "modules": {n.removeprefix(TAG): value for n, value in record.tags.items() if n.startswith(TAG)},
        "fields": dict(record.params),
        "metrics": dict(record.metrics),
        "evaluations": [
            {"key": r.key, "name": r.name, "status": r.status, "metrics": dict(r.metrics)}
            for r in evaluations_of(record, store)
        ],
    }


def description_lines(run: Mapping[str, Any]) -> list[str]:
    """Return the content of `describe_run` as lines."""
    reason = f" ({run['reason']})" if run["reason"] else ""
    lines = [f"{run['key']}  {run['name']}: {run['status']}{reason}"]
    lines += [f"{name:8} {run[name]}" for name in ("profile", "folder") if run[name]]
    for title in ("modules", "fields", "metrics"):
        width = max((len(name) for name in run[title]), default=0)
        values = {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in sorted(run[title].items())}
        lines += [title, *(f"  {name:{width}}  {value}" for name, value in values.items())] if values else []
    lines += ["evaluations"] if run["evaluations"] else []
    for evaluation in run["evaluations"]:
        lines.append(f"  {evaluation['key']}  {evaluation['name']}: {evaluation['status']}")
        lines += [f"    {name} {value:.2f}" for name, value in sorted(evaluation["metrics"].items())]
    return lines


def launched(record: Record) -> float:
    """Return when a sweep was launched, in seconds since the epoch."""
    return number(record.tags.get("eman.launched")) or record.start


def find_sweep(start: str | None, store: Store) -> Record:
    """Return the newest sweep with this name or key prefix; for ``None``, the newest of all.

    Raises:
        UserError: No sweep matches.
    """
    found = store.records(SWEEP, limit=_NEWEST) + (list(store.by_prefix(SWEEP, start).values()) if start else [])
    records = sorted(found, key=launched, reverse=True)
    for record in records:
        if start is None or start in (record.name, record.name.partition(" · ")[0]) or record.key.startswith(start):
            return record
    if not records:
        raise UserError("the store holds no sweep yet; `eman sweep table1 --profile quick` makes one.")
    known = ", ".join(f"{record.key[:8]} ({record.name})" for record in records[:5])
    raise UserError(f"there is no sweep {start!r}; give a name, or the beginning of a key. The newest: {known}.")


def planned_sweep(record: Record) -> Sweep:
    """Return the plan of a sweep's run in the store.

    Raises:
        UserError: Another version of this project planned it, with other runs; or it needs a module.
    """
    check_loaded(record.tags, f"sweep {record.key[:8]} ({record.name})")
    request = record.tags.get("eman.request")
    sweep = plan(SweepRequest.from_json(request)) if request else None
    if sweep is None or sweep.key != record.key:
        raise UserError(
            f"sweep {record.key[:8]} ({record.name}) was made by another version of eman (git "
            f"{record.tags.get('eman.git', 'unknown')}), whose runs differ; use that version, or launch the "
            f"sweep again with this one."
        )
    return sweep

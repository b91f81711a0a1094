"""`eman status`: sweeps and runs in the store; and sweeps by name."""

from collections import Counter
from typing import Any

from eman.platform.errors import UserError
from eman.platform.store.records import SWEEP, TRAINING, Record, number
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.view.text import duration


def status_lines(workspace: Workspace) -> list[str]:
    """Return the sweeps, newest first, and the number of trainings by profile, method and state."""
    store = Store(workspace)
    store.settle_lost()
    lines = [f"store {store.uri}"]
    sweeps = store.records(SWEEP)
    for record in sweeps:
        seconds = record.metrics.get("sweep/seconds")
        took = f", {duration(seconds)}" if seconds else ""
        shown = "interrupted" if record.status == "missing" else record.status
        lines.append(f"sweep {record.key[:8]}  {record.name}: {shown}{took}")
    counts = Counter(
        (r.tags.get("profile", ""), r.tags.get("method", ""), r.status) for r in store.by_key(TRAINING).values()
    )
    for (profile, method, state), count in sorted(counts.items()):
        lines.append(f"{profile}  {method:<11}{state:<8}{count:>4}")
    if not counts:
        lines.append("no runs yet; `eman sweep table1 table8 --profile quick` makes some")
    return lines


def status_summary(workspace: Workspace, *, runs: bool = False) -> dict[str, Any]:
    """Return the content of `status_lines` as plain values, with the trainings if `runs`."""
    store = Store(workspace)
    trainings = store.records(TRAINING)
    counts = Counter((r.tags.get("profile", ""), r.tags.get("method", ""), r.status) for r in trainings)
    summary: dict[str, Any] = {
        "store": store.uri,
        "sweeps": [
            {"key": r.key, "name": r.name, "status": r.status, "seconds": r.metrics.get("sweep/seconds")}
            for r in store.records(SWEEP)
        ],
        "counts": [
            {"profile": profile, "method": method, "status": status, "count": count}
            for (profile, method, status), count in sorted(counts.items())
        ],
    }
    if runs:
        summary["runs"] = [
            {
                "key": r.key,
                "status": r.status,
                "name": r.name,
                "profile": r.tags.get("profile", ""),
                "reason": r.reason,
            }
            for r in trainings
        ]
    return summary


def run_lines(workspace: Workspace) -> list[str]:
    """Return one line per training in the store: key, state, name, profile."""
    records = sorted(
        Store(workspace).records(TRAINING), key=lambda record: (record.tags.get("profile", ""), record.name)
    )
    width = max((len(record.name) for record in records), default=0)
    return [
        f"{record.key}  {record.status:8}  {record.name:{width}}  {record.tags.get('profile', '')}"
        + (f"  ({record.reason})" if record.reason else "")
        for record in records
    ]


def find_sweep(start: str | None, store: Store) -> Record:
    """Return the newest sweep with this name or key prefix; for ``None``, the newest of all.

    Raises:
        UserError: No sweep matches.
    """
    store.settle_lost()
    records = sorted(store.records(SWEEP), key=_launched, reverse=True)
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
        UserError: Another version of this project planned it, with other runs.
    """
    request = record.tags.get("eman.request")
    sweep = plan(SweepRequest.from_json(request)) if request else None
    if sweep is None or sweep.key != record.key:
        raise UserError(
            f"sweep {record.key[:8]} ({record.name}) was made by another version of eman (git "
            f"{record.tags.get('eman.git', 'unknown')}), whose runs differ; use that version, or launch the "
            f"sweep again with this one."
        )
    return sweep


def _launched(record: Record) -> float:
    return number(record.tags.get("eman.launched")) or record.start

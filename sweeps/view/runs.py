"""The description of a run that `eman runs show` prints."""

from typing import Any

from eman.platform.store.records import EVALUATION
from eman.platform.store.store import Store
from eman.sweeps.find import find_run


def describe_run(prefix: str, store: Store) -> dict[str, Any]:
    """Return a training and its evaluations as plain values."""
    record = find_run(prefix, store)
    folder = store.workspace.run_folder(record.key)
    evaluations = [other for other in store.records(EVALUATION) if other.tags.get("eman.run") == record.key]
    return {
        "key": record.key,
        "name": record.name,
        "status": record.status,
        "reason": record.reason,
        "profile": record.tags.get("profile", ""),
        "folder": str(folder) if folder.is_dir() else "",
        "fields": dict(record.params),
        "metrics": dict(record.metrics),
        "evaluations": [
            {"key": other.key, "name": other.name, "status": other.status, "metrics": dict(other.metrics)}
            for other in evaluations
        ],
    }


def description_lines(description: dict[str, Any]) -> list[str]:
    """Return a description as lines."""
    reason = f" ({description['reason']})" if description["reason"] else ""
    lines = [f"{description['key']}  {description['name']}: {description['status']}{reason}"]
    lines += [f"{name:8} {description[name]}" for name in ("profile", "folder") if description[name]]
    for title in ("fields", "metrics"):
        lines += [title] if description[title] else []
        width = max((len(name) for name in description[title]), default=0)
        for name, value in sorted(description[title].items()):
            lines.append(f"  {name:{width}}  {value:.6g}" if isinstance(value, float) else f"  {name:{width}}  {value}")
    lines += ["evaluations"] if description["evaluations"] else []
    for evaluation in description["evaluations"]:
        lines.append(f"  {evaluation['key']}  {evaluation['name']}: {evaluation['status']}")
        lines += [f"    {name} {value:.2f}" for name, value in sorted(evaluation["metrics"].items())]
    return lines

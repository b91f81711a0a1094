"""How the store describes a training: parameters and tags."""

from typing import Any

from eman.trainers.spec.labels import scheme_label
from eman.trainers.spec.run import RunSpec


def record_params(spec: RunSpec) -> dict[str, Any]:
    """Return a run's parameters; ``init`` is the key of the run that it starts from."""
    start = spec.network.init
    return {**spec.flat(), **({"init": start.key} if start else {}), "scheme": scheme_label(spec)}


def record_tags(spec: RunSpec, profile: str) -> dict[str, str]:
    """Return the tags that identify a run to people."""
    return {
        "method": spec.entry.title,
        "scheme": scheme_label(spec),
        "profile": profile,
        "seed": str(spec.seed),
        "eman.network": "student",
        "eman.selection": "last",
    }

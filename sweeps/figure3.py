"""Figure 3: training curves of the schemes, per method."""

from collections.abc import Mapping, Sequence
from typing import Any

from eman.evaluation.figures import Line
from eman.sweeps import table1
from eman.sweeps.profiles import Profile
from eman.sweeps.schemes import METHODS
from eman.trainers.methods import method_named
from eman.trainers.norm import SCHEMES


def lines(profile: Profile, seeds: Sequence[int], overrides: Mapping[str, Any] | None = None) -> tuple[Line, ...]:
    """One line for each cell of Table 1. A scheme that is the method's default under another name is drawn once."""
    made: dict[tuple[str, str], Line] = {}
    for method in METHODS:
        entry = method_named(method)
        metric = "accuracy/top1" if entry.classifier else "knn/top1"
        for scheme in table1.ROWS:
            runs = tuple(profile.run(method, scheme, seed, overrides) for seed in seeds)
            made.setdefault(
                (method, runs[0].key),
                Line(
                    entry.title,
                    "default" if scheme == "default" else SCHEMES[scheme].title,
                    metric,
                    runs,
                    scheme == "eman",
                ),
            )
    return tuple(made.values())

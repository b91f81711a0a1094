"""Figure 3: training curves of the schemes, per method."""

from eman.evaluation.headline import headline
from eman.evaluation.results.figures import Line
from eman.sweeps.tables import table1
from eman.sweeps.tables.schemes import METHODS
from eman.sweeps.tables.scope import Scope
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import SCHEMES


def lines(scope: Scope) -> tuple[Line, ...]:
    """Return a line for each cell of Table 1. The method's default scheme is drawn once if it has two names."""
    curves: dict[tuple[str, str], Line] = {}
    for method in METHODS:
        entry = method_named(method)
        for scheme in table1.ROWS:
            runs = tuple(scope.run(method, scheme, seed) for seed in scope.seeds)
            curves.setdefault(
                (method, runs[0].key),
                Line(
                    entry.title,
                    "default" if scheme == "default" else SCHEMES[scheme].title,
                    headline(entry),
                    runs,
                    scheme == "eman",
                ),
            )
    return tuple(curves.values())


def caption(scope: Scope) -> str:
    """Return profile, seeds and images of the curves."""
    first, last = scope.seeds[0], scope.seeds[-1]
    seeds = f"seed {first}" if first == last else f"mean of seeds {first} to {last}"
    return f"profile {scope.profile.name}, {seeds}, held-out images"

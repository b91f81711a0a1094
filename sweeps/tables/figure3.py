"""Figure 3: training curves of the schemes, per method."""

from eman.evaluation.headline import headline
from eman.evaluation.results.figures import Line
from eman.sweeps.tables import table1
from eman.sweeps.tables.schemes import METHODS
from eman.sweeps.tables.scope import Scope
from eman.trainers.methods.registry import method_named
from eman.trainers.spec.labels import scheme_colour, scheme_label


def lines(scope: Scope) -> tuple[Line, ...]:
    """Return a line for each run of Table 1, under its scheme's name; a panel's title names the method's default."""
    curves: dict[tuple[str, str], Line] = {}
    for method in METHODS:
        entry = method_named(method)
        panel = f"{entry.title}\ndefault: {scheme_label(scope.run(method, 'default', scope.seeds[0]))}"
        for scheme in table1.ROWS:
            runs = tuple(scope.run(method, scheme, seed) for seed in scope.seeds)
            line = Line(
                panel,
                scheme_label(runs[0]),
                headline(entry),
                runs,
                scheme_colour(runs[0]),
                highlighted=scheme == "eman",
            )
            curves.setdefault((method, runs[0].key), line)
    return tuple(curves.values())


def caption(scope: Scope) -> str:
    """Return profile, seeds and images of the curves."""
    first, last = scope.seeds[0], scope.seeds[-1]
    seeds = f"seed {first}" if first == last else f"mean and standard deviation over seeds {first} to {last}"
    return f"profile {scope.profile.name}, {seeds}, held-out images; each method has its own scale"

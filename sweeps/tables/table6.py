"""Table 6: FixMatch from scratch, from MoCo and from MoCo-EMAN, also trained three times as long."""

from collections.abc import Callable
from typing import NamedTuple

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Table, Wanted
from eman.sweeps.tables import pretrained, table2
from eman.sweeps.tables.pretrained import Network
from eman.sweeps.tables.scope import Scope
from eman.trainers.spec.run import RunSpec

#: The paper's names of the schemes and of the initial backbones.
SCHEMES = {"baseline": "default", "EMAN": "eman"}
STARTS: dict[str, Network | None] = {"None": None, "MoCo": pretrained.MOCO, "MoCo-EMAN": pretrained.MOCO_EMAN}


class Row(NamedTuple):
    """A row: scheme, initial backbone, and length in units of the profile's."""

    scheme: str
    start: str
    times: int

    @property
    def title(self) -> str:
        return f"{self.scheme} from {self.start}, {self.times}×"


ROWS = (
    Row("baseline", "None", 1),
    Row("EMAN", "None", 1),
    Row("baseline", "MoCo", 1),
    Row("EMAN", "MoCo", 1),
    Row("EMAN", "MoCo-EMAN", 1),
    Row("baseline", "None", 3),
    Row("EMAN", "None", 3),
    Row("EMAN", "MoCo", 3),
    Row("EMAN", "MoCo-EMAN", 3),
)

FRACTIONS = (0.01, 0.1)


def run(scope: Scope, seed: int, row: Row, fraction: float) -> RunSpec:
    """Return a cell's training. Longer ones use a cosine schedule (Section 5.3)."""
    profile, network = scope.profile, STARTS[row.start]
    fields = dict(profile.semi_supervised.get(fraction, {}))
    if row.times > 1:
        fields |= {"schedule": "cosine"}
    if network is not None:
        fields |= profile.from_pretrained
    spec = scope.run("fixmatch", SCHEMES[row.scheme], seed, **fields)
    init = network.run(scope, seed) if network is not None else None
    return spec.replace(label_fraction=fraction, label_count=None, epochs=row.times * spec.optim.epochs, init=init)


def result(scope: Scope, row: Row, fraction: float, top: int) -> Callable[[int], Wanted]:
    """Return a function that gives a seed's result."""
    return lambda seed: scope.classified(run(scope, seed, row, fraction), top)


def table(scope: Scope) -> Table:
    """Return the table at a scale. Cells that are empty in the paper are not trained."""
    cells = []
    for row in ROWS:
        for fraction in FRACTIONS:
            for top in table2.TOPS:
                column = table2.labels(fraction, top)
                trained = paper.value("table6", row.title, column) != "-"
                cells.append(
                    scope.cell("table6", row.title, column, result(scope, row, fraction, top) if trained else None)
                )
    return scope.table("table6", "FixMatch", cells, about(scope), side="FixMatch", contrasts=contrasts())


def contrasts() -> tuple[tuple[str, str], ...]:
    """Return the pairs of rows that differ only in EMAN, or only in starting from MoCo-EMAN instead of MoCo."""
    emans = [row for row in ROWS if row.scheme == "EMAN"]
    others = [[row._replace(scheme="baseline"), row._replace(start=row.start.removesuffix("-EMAN"))] for row in emans]
    return tuple(
        (row.title, other.title)
        for row, pair in zip(emans, others, strict=True)
        for other in pair
        if other in ROWS and other != row
    )


def about(scope: Scope) -> str:
    """Return a note on the runs' lengths."""
    short, long = (run(scope, scope.seeds[0], row, 0.1) for row in (ROWS[4], ROWS[8]))
    assert short.network.init is not None
    return (
        f"Test top-1 and top-5 of FixMatch. 1×: {short.optim.epochs} epochs at 10 % of the labels; "
        f"3×: {long.optim.epochs}, with a cosine schedule. From a pretrained network: "
        f"{short.network.init.optim.epochs} epochs of pretraining, learning rate {short.optim.lr:g}, new classifier."
    )

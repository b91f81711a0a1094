"""Table 6: FixMatch from scratch, from MoCo and from MoCo-EMAN, also trained three times as long."""

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Cell, Table, Wanted
from eman.sweeps.tables import pretrained, table2
from eman.sweeps.tables.pretrained import Network
from eman.sweeps.tables.scope import Scope
from eman.trainers.spec.run import RunSpec

#: The paper's names of the schemes and of the initial backbones.
SCHEMES = {"baseline": "default", "EMAN": "eman"}
STARTS: dict[str, Network | None] = {"None": None, "MoCo": pretrained.MOCO, "MoCo-EMAN": pretrained.MOCO_EMAN}

ROWS = (
    ("baseline", "None", 1),
    ("EMAN", "None", 1),
    ("baseline", "MoCo", 1),
    ("EMAN", "MoCo", 1),
    ("EMAN", "MoCo-EMAN", 1),
    ("baseline", "None", 3),
    ("EMAN", "None", 3),
    ("EMAN", "MoCo", 3),
    ("EMAN", "MoCo-EMAN", 3),
)

FRACTIONS = (0.01, 0.1)


def run(scope: Scope, seed: int, scheme: str, start: str, times: int, fraction: float) -> RunSpec:
    """Return a cell's training. Longer ones use a cosine schedule (Section 5.3)."""
    profile, network = scope.profile, STARTS[start]
    fields = dict(profile.semi_supervised.get(fraction, {}))
    if times > 1:
        fields |= {"schedule": "cosine"}
    if network is not None:
        fields |= profile.from_pretrained
    spec = scope.run("fixmatch", SCHEMES[scheme], seed, **fields)
    return spec.replace(
        label_fraction=fraction,
        epochs=times * spec.optim.epochs,
        init=network.run(scope, seed) if network is not None else None,
    )


def title(scheme: str, start: str, times: int) -> str:
    """Return a row's title."""
    return f"{scheme} from {start}, {times}×"


def table(scope: Scope) -> Table:
    """Return the table at a scale. Cells that are empty in the paper are not trained."""
    cells = []
    for row in ROWS:
        for fraction in FRACTIONS:
            for top in table2.TOPS:
                column = table2.labels(fraction, top)
                published = paper.value(6, title(*row), column)
                wanted: tuple[Wanted, ...] = ()
                if published != "-":
                    wanted = tuple(scope.classified(run(scope, seed, *row, fraction), top) for seed in scope.seeds)
                cells.append(Cell(6, title(*row), column, published, wanted))
    return Table(6, "FixMatch", tuple(cells), notes(scope), contrasts(), "FixMatch")


def contrasts() -> tuple[tuple[str, str], ...]:
    """Return the pairs of rows that differ only in EMAN, or only in starting from MoCo-EMAN instead of MoCo."""
    return tuple(
        (title(*first), title(*second))
        for first in ROWS
        for second in ROWS
        if first[2] == second[2]
        and (
            (first[0] == "EMAN" and second == ("baseline", *first[1:]))
            or (first[:2] == ("EMAN", "MoCo-EMAN") and second[:2] == ("EMAN", "MoCo"))
        )
    )


def notes(scope: Scope) -> tuple[str, ...]:
    """Return the notes under the table."""
    seed = scope.seeds[0]
    short, long = run(scope, seed, *ROWS[4], 0.1), run(scope, seed, *ROWS[8], 0.1)
    assert short.network.init is not None
    return (
        *scope.profile.notes(),
        f"Test top-1 and top-5 of FixMatch. 1×: {short.optim.epochs} epochs at 10 % of the labels; "
        f"3×: {long.optim.epochs}, with a cosine schedule. From a pretrained network: "
        f"{short.network.init.optim.epochs} epochs of pretraining, learning rate {short.optim.lr:g}, new classifier.",
        *scope.notes(),
    )

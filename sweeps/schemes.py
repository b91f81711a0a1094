"""What Tables 1 and 8 have in common: schemes down the side, methods across."""

from collections.abc import Mapping, Sequence
from typing import Any

from eman.evaluation import paper
from eman.evaluation.tables import Cell, Table, Wanted
from eman.sweeps.profiles import Profile
from eman.trainers.methods import method_named
from eman.trainers.norm import SCHEMES

#: Methods of the columns.
METHODS = ("fixmatch", "moco", "byol")


def wanted(
    profile: Profile,
    method: str,
    scheme: str,
    seed: int,
    overrides: Mapping[str, Any] | None = None,
    linear_lr: tuple[float, ...] | None = None,
) -> Wanted:
    """The result that stands for a method under a scheme: FixMatch's test accuracy, or the linear evaluation's."""
    run = profile.run(method, scheme, seed, overrides)
    evaluations = profile.evaluations(run, linear_lr)
    if evaluations:
        return Wanted(run, evaluations, "linear/top1", "linear/held_out_top1")
    return Wanted(run, (), "test/top1")


def scheme_table(
    number: int,
    title: str,
    schemes: Sequence[str],
    profile: Profile,
    seeds: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
) -> Table:
    """A table of schemes by methods. Cells that the paper leaves empty are not trained."""
    cells = []
    for scheme in schemes:
        row = SCHEMES[scheme].title
        for method in METHODS:
            column = method_named(method).title
            published = paper.value(number, row, column)
            if published != "-":
                cells.append(
                    Cell(
                        number,
                        row,
                        column,
                        published,
                        tuple(wanted(profile, method, scheme, seed, overrides) for seed in seeds),
                    )
                )
    seeds_note = (
        f"Seed {seeds[0]}."
        if len(seeds) == 1
        else f"Mean and sample standard deviation over seeds {', '.join(map(str, seeds))}."
    )
    eman = SCHEMES["eman"].title
    contrasts = tuple((eman, SCHEMES[other].title) for other in ("bn", "default"))
    return Table(number, title, tuple(cells), (*profile.notes(), seeds_note), contrasts)

"""Table 2: linear evaluation and finetuning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from eman.evaluation.results.cells import Table, Wanted
from eman.sweeps.tables import pretrained
from eman.sweeps.tables.pretrained import Network, Row
from eman.sweeps.tables.scope import Scope

NETWORKS = (
    pretrained.MOCO,
    pretrained.MOCO_EMAN,
    pretrained.MOCO_2X,
    pretrained.MOCO_EMAN_2X,
    pretrained.MOCO_800,
    pretrained.MOCO_EMAN_800,
    pretrained.BYOL,
    pretrained.BYOL_EMAN,
)

FRACTIONS = (0.01, 0.1, 1.0)
TOPS = (1, 5)

ROWS = (
    Row("Supervised [supervised]", pretrained.SUPERVISED),
    *(Row(f"{network.title} [{kind}]", network) for kind in ("linear", "finetune") for network in NETWORKS),
)


def labels(fraction: float, top: int) -> str:
    """Return the column's title: share of labels, and top-1 or top-5 accuracy."""
    return f"{100 * fraction:g}% labels top-{top}"


def result(scope: Scope, network: Network, kind: str, fraction: float, top: int) -> Callable[[int], Wanted]:
    """Return a function that gives a seed's result: of a kind of evaluation on a share of the labels, or of a network
    trained from scratch on them.
    """
    if kind in ("linear", "finetune"):
        return lambda seed: scope.labelled(network.run(scope, seed), kind, fraction, top)
    return lambda seed: scope.classified(replace(network, labelled=fraction).run(scope, seed), top)


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    cells = [
        scope.cell("table2", row.title, labels(fraction, top), result(scope, row.network, row.kind, fraction, top))
        for row in ROWS
        if row.network is not None
        for fraction in FRACTIONS
        for top in TOPS
    ]
    return scope.table(
        "table2",
        "Linear evaluation and finetuning",
        cells,
        *about(scope),
        "The paper's supervised rows at 1 % and 10 % are quoted from other papers; ours are trained here.",
        pretrained.lengths(scope, ROWS),
        contrasts=pretrained.contrasts(ROWS),
    )


def about(scope: Scope) -> tuple[str, ...]:
    """Return notes on the two protocols."""
    profile, run = scope.profile, pretrained.MOCO.run(scope, scope.seeds[0])
    linear, finetune = (scope.labelled(run, kind, 0.1).evaluations[0].flat() for kind in ("linear", "finetune"))
    grids = "; ".join(f"{method} {{{_listed(rates)}}}" for method, rates in profile.linear_lr.items())
    views = "cached features" if linear["views"] == "cached" else "randomly cropped images"
    chosen = "held-out images" if profile.common.get("held_out") else "the test images, as in the paper"
    return (
        f"Linear: on {views}, {linear['epochs']} epochs, batch {linear['batch']}, rate from {grids}.",
        f"Finetuning: {_by_fraction(profile.finetune_epochs)} epochs, batch {finetune['batch']}, batch norm over "
        f"{finetune['batch'] // finetune['devices']} images, encoder's rate from {{{_listed(profile.finetune_lr)}}}, "
        f"the classifier's {_by_fraction(profile.head_lr)}.",
        f"Label sets averaged: {_by_fraction(profile.label_sets)}. Rates chosen on {chosen}.",
    )


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _by_fraction(values: Mapping[float, float]) -> str:
    return ", ".join(f"{values[fraction]:g} at {100 * fraction:g} %" for fraction in FRACTIONS)

"""Table 2: linear evaluation and finetuning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from eman.evaluation.results import paper
from eman.evaluation.results.cells import Cell, Table, Wanted
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

#: A kind of row: returns the result of a network at a share of the labels.
Kind = Callable[[Scope, Network, int, float, int], Wanted]


def supervised(scope: Scope, network: Network, seed: int, fraction: float, top: int) -> Wanted:
    """Return the result of a network trained from scratch on the labels."""
    return scope.classified(replace(network, labelled=fraction).run(scope, seed), top)


def linear(scope: Scope, network: Network, seed: int, fraction: float, top: int) -> Wanted:
    """Return the result of a linear classifier on the frozen network."""
    return scope.labelled(network.run(scope, seed), "linear", fraction, top)


def finetune(scope: Scope, network: Network, seed: int, fraction: float, top: int) -> Wanted:
    """Return the result of finetuning the network and a classifier."""
    return scope.labelled(network.run(scope, seed), "finetune", fraction, top)


KINDS: dict[str, Kind] = {"supervised": supervised, "linear": linear, "finetune": finetune}

ROWS = (
    Row("Supervised [supervised]", pretrained.SUPERVISED),
    *(Row(f"{network.title} [{kind}]", network) for kind in ("linear", "finetune") for network in NETWORKS),
)


def labels(fraction: float, top: int) -> str:
    """Return a column's title."""
    return f"{100 * fraction:g}% labels top-{top}"


def table(scope: Scope) -> Table:
    """Return the table at a scale."""
    cells = []
    for row in ROWS:
        kind = KINDS[row.title.partition("[")[2].rstrip("]")]
        assert row.network is not None
        for fraction in FRACTIONS:
            for top in TOPS:
                title = labels(fraction, top)
                wanted = tuple(kind(scope, row.network, seed, fraction, top) for seed in scope.seeds)
                cells.append(Cell(2, row.title, title, paper.value(2, row.title, title), wanted))
    notes = (
        *scope.profile.notes(),
        *about(scope),
        "The paper's supervised rows at 1 % and 10 % are quoted from other papers; ours are trained here.",
        pretrained.lengths(scope, ROWS),
        *scope.notes(),
    )
    title = "Linear evaluation and finetuning"
    return Table(2, title, tuple(cells), notes, pretrained.contrasts(ROWS), "network")


def about(scope: Scope) -> tuple[str, ...]:
    """Return notes on the two protocols."""
    profile = scope.profile
    sets = _by_fraction(profile.label_sets)
    run = pretrained.MOCO.run(scope, scope.seeds[0])
    linear, finetune = (scope.labelled(run, kind, 0.1).evaluations[0].flat() for kind in ("linear", "finetune"))
    grids = "; ".join(f"{method} {{{_listed(rates)}}}" for method, rates in profile.linear_lr.items())
    views = "cached features" if linear["views"] == "cached" else "randomly cropped images"
    chosen = "held-out images" if profile.common.get("held_out") else "the test images, as in the paper"
    return (
        f"Linear: on {views}, {linear['epochs']} epochs, batch {linear['batch']}, rate from {grids}.",
        f"Finetuning: {_by_fraction(profile.finetune_epochs)} epochs, batch {finetune['batch']}, encoder's rate from "
        f"{{{_listed(profile.finetune_lr)}}}, the classifier's {_by_fraction(profile.head_lr)}.",
        f"Label sets averaged: {sets}. Rates chosen on {chosen}.",
    )


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _by_fraction(values: Mapping[float, float]) -> str:
    return ", ".join(f"{values[fraction]:g} at {100 * fraction:g} %" for fraction in FRACTIONS)

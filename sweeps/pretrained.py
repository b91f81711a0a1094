"""What Tables 4 and 5 have in common: pretrained networks down the side, by the paper's names for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eman.evaluation import paper
from eman.evaluation.protocols import make_eval
from eman.evaluation.tables import Cell, Table, Wanted
from eman.platform.spec import RunSpec
from eman.sweeps.profiles import Profile


@dataclass(frozen=True)
class Network:
    """A row: a pretraining of ours, or (``method`` is ``None``) one that the paper quotes from others."""

    row: str
    method: str | None = None
    scheme: str = "default"
    times: int = 1  # length in units of the profile's
    fully_supervised: bool = False

    def run(self, profile: Profile, seed: int, overrides: Mapping[str, Any] | None) -> RunSpec | None:
        """Its training at a profile."""
        if self.method is None:
            return None
        fields = {"label_fraction": 1.0, **profile.fully_supervised} if self.fully_supervised else {}
        spec = profile.run(self.method, self.scheme, seed, {**fields, **(overrides or {})})
        return spec.replace(epochs=self.times * spec.epochs)


#: The rows that both tables have. 800 epochs are four times 200.
OURS = (
    Network("Supervised (90 epochs)", "supervised", fully_supervised=True),
    Network("MoCo (200 epochs)", "moco"),
    Network("MoCo-EMAN (200 epochs)", "moco", "eman"),
    Network("MoCo (800 epochs)", "moco", times=4),
    Network("MoCo-EMAN (800 epochs)", "moco", "eman", times=4),
    Network("BYOL (200 epochs)", "byol"),
    Network("BYOL-EMAN (200 epochs)", "byol", "eman"),
)

#: Each EMAN row against its baseline.
CONTRASTS = tuple(
    (eman.row, base.row)
    for base in OURS
    for eman in OURS
    if (eman.method, eman.times, eman.scheme, base.scheme) == (base.method, base.times, "eman", "default")
)


@dataclass(frozen=True)
class Column:
    """A column: a metric of one evaluation."""

    title: str
    protocol: str
    fields: Mapping[str, Any]
    metric: str


def pretrained_table(
    number: int,
    title: str,
    networks: Sequence[Network],
    columns: Sequence[Column],
    about: str,
    profile: Profile,
    seeds: Sequence[int],
    overrides: Mapping[str, Any] | None,
    prefix: str = "",
) -> Table:
    """A table of networks by evaluations. ``prefix`` stands before the row titles in the paper's own table."""
    cells, epochs = [], {}
    for network in networks:
        runs = [run for seed in seeds if (run := network.run(profile, seed, overrides)) is not None]
        if runs:
            epochs[network.row] = runs[0].epochs
        for column in columns:
            wanted = tuple(
                Wanted(run, (make_eval(column.protocol, run.key, **column.fields),), column.metric) for run in runs
            )
            published = paper.value(number, prefix + network.row, column.title)
            cells.append(Cell(number, network.row, column.title, published, wanted))
    lengths = ", ".join(f"{row} {count}" for row, count in epochs.items())
    notes = (
        *profile.about_notes(),
        about,
        f"Epochs here: {lengths}.",
        f"Network: the student after the last epoch. Seeds: {', '.join(map(str, seeds))}.",
        "Rows with - are others' work, as the paper quotes it.",
    )
    contrasts = tuple(pair for pair in CONTRASTS if all(row in epochs for row in pair))
    return Table(number, title, tuple(cells), notes, contrasts, "network")

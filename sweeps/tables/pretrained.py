"""Pretrained networks and rows that Tables 2 to 7 share."""

from collections.abc import Sequence
from dataclasses import dataclass

from eman.sweeps.tables.scope import Scope
from eman.trainers.backbones.registry import WIDE
from eman.trainers.spec.run import RunSpec


@dataclass(frozen=True, kw_only=True)
class Network:
    """A pretrained network with the paper's title; see the profile for its fields.

    Attributes:
        times: Length in units of the profile's pretraining; the paper's 800 epochs are four times 200.
        wide: Whether every layer has twice the channels.
        labelled: Share of labels of a supervised training.
    """

    title: str
    method: str
    scheme: str = "default"
    times: int = 1
    wide: bool = False
    labelled: float | None = None

    def run(self, scope: Scope, seed: int) -> RunSpec:
        """Return the network's training at a scale."""
        profile = scope.profile
        fields = dict(profile.fully_supervised if self.labelled == 1 else profile.pretraining.get(self.method, {}))
        spec = scope.run(self.method, self.scheme, seed, **fields)
        spec = spec.replace(epochs=self.times * spec.optim.epochs)
        if self.wide:
            spec = spec.replace(backbone=spec.network.backbone + WIDE)
        return spec if self.labelled is None else spec.replace(label_fraction=self.labelled, label_count=None)

    def baseline(self, others: Sequence["Network"]) -> "Network | None":
        """Return the same pretraining without EMAN, or ``None`` if this one has no EMAN."""
        for other in others:
            alike = (other.method, other.times, other.wide) == (self.method, self.times, self.wide)
            if alike and (self.scheme, other.scheme) == ("eman", "default"):
                return other
        return None


SUPERVISED = Network(title="Supervised", method="supervised", labelled=1.0)
MOCO = Network(title="MoCo", method="moco")
MOCO_EMAN = Network(title="MoCo-EMAN", method="moco", scheme="eman")
MOCO_2X = Network(title="MoCo (2×)", method="moco", wide=True)
MOCO_EMAN_2X = Network(title="MoCo-EMAN (2×)", method="moco", scheme="eman", wide=True)
MOCO_800 = Network(title="MoCo (800)", method="moco", times=4)
MOCO_EMAN_800 = Network(title="MoCo-EMAN (800)", method="moco", scheme="eman", times=4)
BYOL = Network(title="BYOL", method="byol")
BYOL_EMAN = Network(title="BYOL-EMAN", method="byol", scheme="eman")


@dataclass(frozen=True)
class Row:
    """A row: the paper's title, and its network; ``None`` for results that are only quoted."""

    title: str
    network: Network | None = None

    @property
    def kind(self) -> str:
        """Kind of its evaluation, which the title has in brackets; empty if it has none."""
        return self.title.partition("[")[2].rstrip("]")


#: The rows that Tables 4 and 5 share.
OURS = (
    Row("Supervised (90 epochs)", SUPERVISED),
    Row("MoCo (200 epochs)", MOCO),
    Row("MoCo-EMAN (200 epochs)", MOCO_EMAN),
    Row("MoCo (800 epochs)", MOCO_800),
    Row("MoCo-EMAN (800 epochs)", MOCO_EMAN_800),
    Row("BYOL (200 epochs)", BYOL),
    Row("BYOL-EMAN (200 epochs)", BYOL_EMAN),
)

QUOTED = "Rows with - are others' work, as the paper quotes it."


def lengths(scope: Scope, rows: Sequence[Row]) -> str:
    """Return a note on the length of the pretrainings."""
    epochs = {row.network.title: row.network.run(scope, scope.seeds[0]).optim.epochs for row in rows if row.network}
    return f"Epochs here: {', '.join(f'{title} {count}' for title, count in epochs.items())}."


def contrasts(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """Return each EMAN row with its baseline, within one kind of evaluation (the title's brackets)."""
    pairs = []
    for row in rows:
        peers = {other.network: other.title for other in rows if other.network and other.kind == row.kind}
        base = row.network.baseline(list(peers)) if row.network else None
        if base is not None:
            pairs.append((row.title, peers[base]))
    return tuple(pairs)

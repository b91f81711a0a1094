"""Estimate the cost of a sweep: trainings, evaluations, epochs, images, storage, hours."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eman.evaluation.protocols.groups import together
from eman.platform.errors import UserError
from eman.platform.store.records import TRAINING, Record
from eman.platform.store.store import Store
from eman.sweeps.plan import Sweep
from eman.sweeps.work import epoch_images, evaluation_images, training_images
from eman.trainers.data.known import KNOWN
from eman.trainers.methods.registry import METHODS, method_named
from eman.trainers.spec.run import RunSpec

#: Number of the newest finished runs whose speed is measured.
_RECENT = 200

#: Copies of the weights that a run keeps: student and teacher, after the last and after the best epoch.
NETWORKS_KEPT = 4


@dataclass(frozen=True)
class Part:
    """One kind of run in a sweep.

    Attributes:
        name: Method, backbone; for evaluations also the protocol.
        runs: Number of runs.
        epochs, images: Totals over the runs. An image counts once per step, regardless of its number of views.
        storage: Bytes of networks and features.
        speed: Images per second in one process; ``None`` if unknown.
    """

    name: str
    runs: int
    epochs: int
    images: int
    storage: int
    speed: float | None

    @property
    def hours(self) -> float | None:
        """Hours on one GPU, or in one process; ``None`` if unknown."""
        return None if self.speed is None else self.images / self.speed / 3600

    def line(self, width: int) -> str:
        """Return a line of text, the name padded to ``width``."""
        head = f"  {self.name:{width}}  {self.runs:>4} x  "
        if not self.images:
            return f"{head}on cached features"
        epochs = f"{self.epochs:,} epochs, " if self.epochs else ""
        hours = "hours unknown" if self.hours is None else f"{_short(self.hours)} h at {self.speed:,.0f} images/s"
        return f"{head}{epochs}{_short(self.images / 1e6)} M images, {hours}"


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a sweep."""

    sweep: Sweep
    trainings: tuple[Part, ...]
    evaluations: tuple[Part, ...]

    @property
    def hours(self) -> float | None:
        """Hours on one GPU, or in one process; ``None`` if those of a part are unknown."""
        hours = [part.hours for part in (*self.trainings, *self.evaluations)]
        return None if None in hours else sum(hour for hour in hours if hour is not None)

    def summary(self) -> dict[str, Any]:
        parts = (*self.trainings, *self.evaluations)
        return {
            "profile": self.sweep.profile.name,
            "cells": self.sweep.cells,
            "runs": len(self.sweep.trainings),
            "evaluations": len(self.sweep.evaluations),
            "epochs": sum(part.epochs for part in self.trainings),
            "images": sum(part.images for part in parts),
            "storage_bytes": sum(part.storage for part in parts),
            "hours": self.hours,
        }

    def lines(self) -> list[str]:
        totals = self.summary()
        width = max(len(part.name) for part in (*self.trainings, *self.evaluations))
        lines = [
            f"{self.sweep.name} at profile {totals['profile']}: {totals['cells']} cells, {totals['runs']} trainings, "
            f"{totals['evaluations']} evaluations"
        ]
        for title, parts in (("trainings", self.trainings), ("evaluations", self.evaluations)):
            lines += [title, *(part.line(width) for part in parts)] if parts else []
        total = "unknown" if totals["hours"] is None else f"{_short(totals['hours'])} on one GPU (or in one process)"
        storage = f"{_short(totals['storage_bytes'] / 2**30)} GiB of networks and features"
        lines.append(f"in all {_short(totals['images'] / 1e6)} M images, {storage}, hours: {total}")
        if totals["hours"] is None:
            lines.append("For hours, give --images-per-second METHOD=N,..., or train such a run first.")
        if any(part.images for part in self.evaluations):
            lines.append("Evaluations that run a network are estimated at the speed of its training.")
        return lines


def _short(value: float) -> str:
    """Return a number with three significant digits and no exponent."""
    places = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{places}f}"


def parse_throughput(text: str) -> dict[str, float]:
    """Return speeds by method from ``1340`` (all methods) or ``moco=1340,byol=900``.

    Raises:
        UserError: The text has neither form.
    """
    pairs = text.split(",") if "=" in text else [f"{method}={text}" for method in METHODS]
    try:
        speeds = {method_named(name.strip()).name: float(speed) for name, speed in (part.split("=") for part in pairs)}
        if all(speed > 0 for speed in speeds.values()):
            return speeds
    except ValueError:
        pass
    raise UserError(f"--images-per-second {text}: give a number, or METHOD=NUMBER with commas between.")


def recent(store: Store) -> list[Record]:
    """Return the newest finished trainings."""
    return store.records(TRAINING, status="FINISHED", limit=_RECENT)


def measured(records: Iterable[Record], sweep: Sweep) -> dict[str, float]:
    """Return the median images per second of runs, by method and backbone, for :func:`cost_of`."""
    alike = {
        _kind(spec): {name: str(spec.flat()[name]) for name in ("method", "backbone", "dataset", "precision")}
        for spec in sweep.trainings.values()
    }
    speeds = defaultdict(list)
    for record in records:
        for kind, fields in alike.items():
            if fields.items() <= record.params.items():
                speeds[kind].append(record.metrics.get("train/images_per_second", 0.0))
    return {kind: speed for kind, values in speeds.items() if (speed := statistics.median(values))}


def training_hours(spec: RunSpec, speeds: Mapping[str, float]) -> float | None:
    """Return the hours of a training in one process; ``None`` if its speed is unknown. See :func:`cost_of`."""
    speed = _speed(spec, speeds)
    return None if speed is None else spec.optim.epochs * epoch_images(spec) / speed / 3600


def _speed(spec: RunSpec, speeds: Mapping[str, float]) -> float | None:
    return speeds.get(_kind(spec), speeds.get(spec.method.name))


def _kind(spec: RunSpec) -> str:
    return f"{spec.entry.title}, {spec.network.backbone}"


def cost_of(sweep: Sweep, speeds: Mapping[str, float]) -> Cost:
    """Return a sweep's cost; ``speeds`` are images per second by method's name, or by "method's title, backbone"."""
    trained: dict[str, list[RunSpec]] = defaultdict(list)
    for spec in sweep.trainings.values():
        trained[_kind(spec)].append(spec)
    trainings = [
        Part(
            name,
            len(specs),
            sum(spec.optim.epochs for spec in specs),
            sum(spec.optim.epochs * epoch_images(spec) for spec in specs),
            sum(_storage(spec) for spec in specs),
            _speed(specs[0], speeds),
        )
        for name, specs in sorted(trained.items())
    ]
    evaluated: dict[str, Part] = {}
    for group in together(list(sweep.evaluations.values())):
        run = sweep.trainings[group[0].run]
        name = f"{group[0].entry.title} of {_kind(run)}"
        known = evaluated.get(name, Part(name, 0, 0, 0, 0, math.inf))
        images = known.images + evaluation_images(group, run)
        evaluated[name] = Part(name, known.runs + len(group), 0, images, 0, _speed(run, speeds) if images else math.inf)
    return Cost(sweep, tuple(trainings), tuple(evaluated[name] for name in sorted(evaluated)))


def _storage(spec: RunSpec) -> int:
    network, sizes = spec.backbone_measures, KNOWN.get(spec.data.dataset)
    images = training_images(spec) + spec.data.held_out + (sizes.test if sizes else 0)
    return int(4 * (NETWORKS_KEPT * network.values + 2 * images * network.features))

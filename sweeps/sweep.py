"""Planning: from tables, or from a grid of one's own, to the distinct trainings and evaluations behind them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from eman.evaluation.tables import Cell, Results, Table, Wanted
from eman.platform.errors import UserError, unknown
from eman.platform.spec import EvalSpec, RunSpec
from eman.platform.tracking import Record
from eman.sweeps import table1, table4, table5, table8
from eman.sweeps.profiles import Profile, check_rates
from eman.sweeps.schemes import wanted
from eman.trainers import data
from eman.trainers.methods import method_named, resolve_scheme, scheme_of
from eman.trainers.norm import TEACHER_NORMS


class TableMaker(Protocol):
    """What a table's file offers."""

    def __call__(self, profile: Profile, seeds: Sequence[int], overrides: Mapping[str, Any] | None = None) -> Table:
        """The table at a profile."""


TABLES: dict[str, TableMaker] = {
    "table1": table1.table,
    "table4": table4.table,
    "table5": table5.table,
    "table8": table8.table,
}


@dataclass(frozen=True)
class Sweep:
    """Tables and what stands behind their cells.

    Attributes:
        name: What it was asked for, for people.
        profile: Its profile.
        tables: Its tables.
    """

    name: str
    profile: Profile
    tables: tuple[Table, ...]

    @cached_property
    def wanted(self) -> tuple[Wanted, ...]:
        """All results, cell by cell, with repetitions."""
        return tuple(item for table in self.tables for cell in table.cells for item in cell.wanted)

    @cached_property
    def cells(self) -> int:
        """Number of cells."""
        return sum(len(table.cells) for table in self.tables)

    @cached_property
    def trainings(self) -> dict[str, RunSpec]:
        """The distinct trainings by key."""
        return {item.run.key: item.run for item in self.wanted}

    @cached_property
    def evaluations(self) -> dict[str, EvalSpec]:
        """The distinct evaluations by key."""
        return {spec.key: spec for item in self.wanted for spec in item.evaluations}

    @property
    def key(self) -> str:
        """The same for the same set of runs, so that a sweep given again is found again."""
        return hashlib.sha256("".join(sorted([*self.trainings, *self.evaluations])).encode()).hexdigest()[:16]

    def missing(self, results: Results, retries: int = 0) -> tuple[list[RunSpec], list[EvalSpec]]:
        """Trainings and evaluations that are neither done, nor running, nor failed more than ``retries`` times."""
        return (
            [spec for key, spec in self.trainings.items() if _open(results.trainings.get(key), retries)],
            [spec for key, spec in self.evaluations.items() if _open(results.evaluations.get(key), retries)],
        )

    def running(self, results: Results) -> list[str]:
        """Keys of runs that some process is at."""
        records = {**results.trainings, **results.evaluations}
        keys = [*self.trainings, *self.evaluations]
        return [key for key in keys if key in records and records[key].status == "running"]


def _open(record: Record | None, retries: int) -> bool:
    if record is None or record.status == "missing":
        return True
    return record.status == "failed" and record.failures <= retries


def plan(names: Sequence[str], profile: Profile, seeds: int = 1, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """The sweep behind some tables.

    Args:
        names: Names in :data:`TABLES`.
        profile: The scale.
        seeds: Seeds 0 to ``seeds - 1``.
        overrides: RunSpec fields for every run.

    Raises:
        UserError: A name is unknown, or a run cannot be specified.
    """
    for name in names:
        if name not in TABLES:
            raise unknown("table", name, [*TABLES, "grid"])
    _check_seeds(seeds)
    return Sweep(
        " + ".join(names),
        profile,
        tuple(TABLES[name](profile, range(seeds), overrides) for name in dict.fromkeys(names)),
    )


def plan_grid(
    profile: Profile,
    methods: Sequence[str],
    schemes: Sequence[str],
    *,
    eman_momenta: Sequence[float] = (),
    linear_lr: Sequence[float] = (),
    seeds: int = 1,
    overrides: Mapping[str, Any] | None = None,
) -> Sweep:
    """A grid of one's own: methods x schemes x EMAN momenta (for the schemes that have one) x seeds.

    Raises:
        UserError: A name is unknown, a value out of range, or a run cannot be specified.
    """
    _check_seeds(seeds)
    check_rates(tuple(linear_lr))
    cells: dict[tuple[str, str], Cell] = {}
    for method in methods:
        for scheme in schemes:
            averaged = TEACHER_NORMS[resolve_scheme(method, scheme).teacher].statistics == "average"
            momenta: Sequence[float | None] = eman_momenta if averaged and eman_momenta else [None]
            for momentum in momenta:
                changes = dict(overrides or {}) | ({} if momentum is None else {"eman_momentum": momentum})
                items = tuple(
                    wanted(profile, method, scheme, seed, changes, tuple(linear_lr) or None) for seed in range(seeds)
                )
                row = scheme_of(items[0].run).title
                cells[row, method] = Cell(0, row, method_named(method).title, "-", items)
    rows = dict.fromkeys(row for row, _ in cells)
    ordered = tuple(cells[row, method] for row in rows for method in dict.fromkeys(methods) if (row, method) in cells)
    return Sweep("grid", profile, (Table(0, "Grid", ordered, profile.notes()),))


def work(spec: RunSpec) -> float:
    """Relative cost of a run: images through the student count three (forward, backward), through the teacher one."""
    method = method_named(spec.method)
    sizes = {"unlabelled": spec.batch, "labelled": spec.labelled_batch or 0}

    def images(passes: tuple[tuple[str, ...], ...]) -> int:
        return sum(sizes[method.views[name][0]] for names in passes for name in names)

    samples = spec.images or data.TRAINING_IMAGES.get(spec.dataset, 100_000) - spec.held_out
    stream = "unlabelled" if "unlabelled" in method.streams else "labelled"
    if stream == "labelled":
        samples = round(samples * (spec.label_fraction or 1))
    steps = spec.epochs * max(1, samples // sizes[stream])
    return steps * (3.0 * images(method.student) + images(method.teacher))


def _check_seeds(seeds: int) -> None:
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: give 1 or more.")


def check_data(profile: Profile) -> None:
    """Raises :class:`UserError` unless the profile's data set can be read here, whole."""
    name = profile.common["dataset"]
    if name not in data.DATASETS:
        raise UserError(
            f"profile {profile.name} needs the data set {name!r}, which this version cannot read; it reads: "
            f"{', '.join(data.DATASETS)}."
        )
    data.load(name)

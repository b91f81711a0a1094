"""Planning: from tables, or from a grid of one's own, to the distinct trainings and evaluations behind them."""

import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from eman.evaluation.protocols.registry import protocol_named
from eman.evaluation.results.tables import Cell, Results, Table, Wanted
from eman.platform.errors import UserError, unknown
from eman.platform.store.store import Record
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.profile import Profile, check_rates
from eman.sweeps.profiles.registry import profile_named
from eman.sweeps.tables import table1, table2, table3, table4, table5, table6, table7, table8
from eman.sweeps.tables.scope import Scope
from eman.trainers.data import catalog as data
from eman.trainers.methods.registry import method_named, resolve_scheme, run_title, scheme_of
from eman.trainers.norm.schemes import TEACHER_NORMS
from eman.trainers.spec.run import EvalSpec, RunSpec

#: The paper's tables by name: each file turns a scope into cells.
TABLES: dict[str, Callable[[Scope], Table]] = {
    "table1": table1.table,
    "table2": table2.table,
    "table3": table3.table,
    "table4": table4.table,
    "table5": table5.table,
    "table6": table6.table,
    "table7": table7.table,
    "table8": table8.table,
}


#: Fields that tell a person why two runs with one title differ; others follow from these.
_TELLING = ("backbone", "epochs", "label_fraction", "lr")


@dataclass(frozen=True)
class Sweep:
    """Tables and what stands behind their cells.

    Attributes:
        name: What it was asked for, for people.
        scope: At which scale.
        tables: Its tables.
        asked: What made them: names of tables, or the values of a grid.
    """

    name: str
    scope: Scope
    tables: tuple[Table, ...]
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def profile(self) -> Profile:
        """Its profile."""
        return self.scope.profile

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
        """The distinct trainings by key, each after the one that it starts from."""
        return {run.key: run for item in self.wanted for run in item.run.lineage}

    @cached_property
    def titles(self) -> dict[str, str]:
        """A readable name for each training, by key; where two would share one, what tells them apart is added."""
        titles = {key: run_title(spec) for key, spec in self.trainings.items()}
        counts = Counter(titles.values())
        alike = {title: [k for k, t in titles.items() if t == title] for title, count in counts.items() if count > 1}
        for keys in alike.values():
            fields = [{**self.trainings[key].fields(), "init": ""} for key in keys]
            names = [name for name in fields[0] if len({str(found.get(name)) for found in fields}) > 1]
            names = [name for name in names if name in _TELLING] or names[:1]
            for key, found in zip(keys, fields, strict=True):
                titles[key] += "".join(f" · {name} {found.get(name)}" for name in names)
        return titles

    @cached_property
    def evaluations(self) -> dict[str, EvalSpec]:
        """The distinct evaluations by key."""
        return {spec.key: spec for item in self.wanted for spec in item.evaluations}

    @property
    def key(self) -> str:
        """The same for the same set of runs, so that a sweep given again is found again."""
        return hashlib.sha256("".join(sorted([*self.trainings, *self.evaluations])).encode()).hexdigest()[:16]

    @property
    def request(self) -> dict[str, Any]:
        """What it was asked for, in plain values; :func:`plan_again` makes the same sweep of it."""
        # A profile's precision is that of the machine, and a run's is that of the machine that asked for it.
        precisions = {spec.precision for spec in self.trainings.values()}
        return {
            **self.asked,
            "profile": self.profile.name,
            "seeds": len(self.scope.seeds),
            "network": self.scope.network,
            "selection": self.scope.selection,
            "overrides": dict(self.scope.overrides),
            **({"precision": precisions.pop()} if len(precisions) == 1 else {}),
        }

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


def plan(
    names: Sequence[str],
    profile: Profile,
    seeds: int = 1,
    overrides: Mapping[str, Any] | None = None,
    *,
    network: str = "student",
    selection: str = "last",
) -> Sweep:
    """The sweep behind some tables.

    Args:
        names: Names in :data:`TABLES`.
        profile: The scale.
        seeds: Seeds 0 to ``seeds - 1``.
        overrides: RunSpec fields for every run.
        network: Which network is evaluated.
        selection: Which epoch's.

    Raises:
        UserError: A name is unknown, or a run cannot be specified.
    """
    for name in names:
        if name not in TABLES:
            raise unknown("table", name, [*TABLES, "grid"])
    scope = _scope(profile, seeds, overrides, network, selection)
    tables = tuple(TABLES[name](scope) for name in dict.fromkeys(names))
    return Sweep(" + ".join(names), scope, tables, {"tables": list(names)})


def _scope(profile: Profile, seeds: int, overrides: Mapping[str, Any] | None, network: str, selection: str) -> Scope:
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: give 1 or more.")
    overrides = overrides or {}
    if "seed" in overrides and seeds > 1:
        raise UserError(
            f"--seeds {seeds} and --set seed={overrides['seed']}: one seed was asked for, and {seeds}; give one of the "
            f"two."
        )
    chosen = (overrides["seed"],) if "seed" in overrides else range(seeds)
    return Scope(profile=profile, seeds=chosen, overrides=overrides, network=network, selection=selection)


def plan_grid(
    profile: Profile,
    methods: Sequence[str],
    schemes: Sequence[str],
    *,
    eman_momenta: Sequence[float] = (),
    linear_lr: Sequence[float] = (),
    seeds: int = 1,
    overrides: Mapping[str, Any] | None = None,
    network: str = "student",
    selection: str = "last",
) -> Sweep:
    """A grid of one's own: methods x schemes x EMAN momenta (for the schemes that have one) x seeds. Over several seeds
    its rows are compared with the first.

    Raises:
        UserError: A name is unknown, a value out of range, or a run cannot be specified.
    """
    scope = _scope(profile, seeds, overrides, network, selection)
    check_rates("--linear-lr", tuple(linear_lr))
    cells: dict[tuple[str, str], Cell] = {}
    for method in methods:
        for scheme in schemes:
            averaged = TEACHER_NORMS[resolve_scheme(method, scheme).teacher].averages_statistics
            momenta: Sequence[float | None] = eman_momenta if averaged and eman_momenta else [None]
            for momentum in momenta:
                fields = {} if momentum is None else {"eman_momentum": momentum}
                runs = [scope.run(method, scheme, seed, **fields) for seed in scope.seeds]
                items = tuple(scope.standard(run, tuple(linear_lr) or None) for run in runs)
                row = scheme_of(items[0].run).title
                cells[row, method] = Cell(0, row, method_named(method).title, "-", items)
    rows = list(dict.fromkeys(row for row, _ in cells))
    contrasts = tuple((row, rows[0]) for row in rows[1:])
    ordered = tuple(cells[row, method] for row in rows for method in dict.fromkeys(methods) if (row, method) in cells)
    asked = {
        "methods": list(methods),
        "schemes": list(schemes),
        "eman_momenta": list(eman_momenta),
        "linear_lr": list(linear_lr),
    }
    return Sweep("grid", scope, (Table(0, "Grid", ordered, scope.results_notes(methods, linear_lr), contrasts),), asked)


def plan_again(request: Mapping[str, Any]) -> Sweep:
    """The sweep that was asked for: the inverse of :attr:`Sweep.request`.

    Raises:
        UserError: A name in it is unknown to this version.
    """
    scope = {name: request[name] for name in ("seeds", "network", "selection")}
    scope["overrides"] = dict(request["overrides"])
    profile = profile_named(request["profile"])
    if "precision" in request and profile.common.get("precision") == "auto":
        profile = replace(profile, common={**profile.common, "precision": request["precision"]})
    if "tables" in request:
        return plan(request["tables"], profile, **scope)
    grid = {name: request[name] for name in ("methods", "schemes", "eman_momenta", "linear_lr")}
    return plan_grid(profile, **grid, **scope)


def command(request: Mapping[str, Any]) -> str:
    """The command that asks for a sweep, from its :attr:`Sweep.request`."""
    words = ["eman", "sweep", *request.get("tables", ["grid"])]
    flags = {
        "methods": "--method",
        "schemes": "--scheme",
        "eman_momenta": "--eman-momentum",
        "linear_lr": "--linear-lr",
    }
    for name, flag in flags.items():
        if request.get(name):
            words += [flag, ",".join(map(str, request[name]))]
    words += ["--profile", request["profile"]]
    for name, usual in (("seeds", 1), ("network", "student"), ("selection", "last")):
        if request[name] != usual:
            words += [f"--{name}", str(request[name])]
    for name, value in request["overrides"].items():
        shown = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words += ["--set", f"{name}={shown}"]
    return shlex.join(words)


def training_images(spec: RunSpec) -> int:
    """Images that a run is trained on, with or without labels."""
    return spec.images or data.TRAINING_IMAGES.get(spec.dataset, 100_000) - spec.held_out


def _sizes(spec: RunSpec) -> dict[str, int]:
    """Images of a step by stream."""
    return {"unlabelled": spec.batch, "labelled": spec.labelled_batch or 0}


def steps(spec: RunSpec) -> int:
    """Steps of a run, about."""
    method = method_named(spec.method)
    samples = training_images(spec)
    stream = "unlabelled" if "unlabelled" in method.streams else "labelled"
    if stream == "labelled":
        samples = round(samples * (spec.label_fraction or 1))
    return spec.epochs * max(1, samples // _sizes(spec)[stream])


def work(spec: RunSpec) -> float:
    """Relative cost of a run: images through the student count three (forward, backward), through the teacher one."""
    method, sizes = method_named(spec.method), _sizes(spec)

    def images(passes: tuple[tuple[str, ...], ...]) -> int:
        return sum(sizes[method.views[name][0]] for names in passes for name in names)

    return steps(spec) * (3.0 * images(method.student) + images(method.teacher))


def evaluation_work(group: Sequence[EvalSpec], run: RunSpec) -> float:
    """Relative cost of evaluations that are carried out together, in the same measure, about: images through the
    network, and the price of a thousand for what comes after.
    """
    return 1000.0 + protocol_named(group[0].protocol).images(group, training_images(run))


def check_data(
    runs: Iterable[RunSpec], workspace: Workspace, evaluations: Iterable[tuple[EvalSpec, RunSpec]] = ()
) -> None:
    """Raises :class:`UserError` unless the data sets of these runs, and of evaluations of runs, can be read here."""
    needed = {(run.dataset, run.image_size) for run in runs}
    for spec, run in evaluations:
        name = spec.dataset or run.dataset
        needed.add((name, data.size_of(name, run.image_size)))
    for name, size in sorted(needed, key=str):
        data.load(name, workspace, size)

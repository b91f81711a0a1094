"""Plan the distinct trainings and evaluations behind a request."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.results.cells import Table, Wanted, wanted_by
from eman.platform.errors import UserError, unknown
from eman.platform.store.records import SWEEP
from eman.platform.store.store import Store
from eman.sweeps.checks import check_sizes
from eman.sweeps.claims.registry import claims_named, tables_of
from eman.sweeps.grid import NORM_FIELDS, Point, corner_runs, grid_points_of, grid_table
from eman.sweeps.profiles.profile import AUTO, Profile
from eman.sweeps.profiles.registry import profile_named
from eman.sweeps.request import SweepRequest
from eman.sweeps.search.objective import objective_of
from eman.sweeps.tables.registry import TABLES
from eman.sweeps.tables.scope import Scope
from eman.trainers.spec.kinds import Value
from eman.trainers.spec.labels import run_titles
from eman.trainers.spec.run import RunSpec


@dataclass(frozen=True)
class Sweep:
    """Tables, and the runs that fill them. The request has a profile's automatic precision resolved."""

    request: SweepRequest
    scope: Scope
    tables: tuple[Table, ...]

    @property
    def name(self) -> str:
        return self.request.title

    @property
    def profile(self) -> Profile:
        return self.scope.profile

    @cached_property
    def wanted(self) -> tuple[Wanted, ...]:
        """All results by cell, with repetitions."""
        return wanted_by(self.tables)

    @cached_property
    def cells(self) -> int:
        return sum(len(table.cells) for table in self.tables)

    @cached_property
    def trainings(self) -> dict[str, RunSpec]:
        """The distinct trainings by key, each after the one it is initialized from."""
        return {run.key: run for item in self.wanted for run in item.run.lineage}

    @cached_property
    def checked(self) -> tuple[RunSpec, ...]:
        """The trainings whose data and workers are checked before a launch; for Optuna's points, the corner runs."""
        corners = corner_runs(self.request, self.scope) if self.request.search == "optuna" else ()
        return (*self.trainings.values(), *corners)

    @cached_property
    def titles(self) -> dict[str, str]:
        """A distinct, readable name for each training, by key."""
        return run_titles(self.trainings.values())

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """Fields, besides method and seed, that are searched, or in which the trainings differ."""
        flat = [run.flat() for run in self.trainings.values()]
        names = dict.fromkeys(name for fields in flat for name in fields if name not in ("method", "seed"))
        searched = [name.rpartition(".")[2] for name in self.request.axes]
        differing = [name for name in names if len({str(fields.get(name)) for fields in flat}) > 1]
        return tuple(dict.fromkeys([*searched, *differing]))

    @cached_property
    def evaluations(self) -> dict[str, EvalSpec]:
        """The distinct evaluations by key."""
        return {spec.key: spec for item in self.wanted for spec in item.evaluations}

    @cached_property
    def pairs(self) -> tuple[tuple[EvalSpec, RunSpec], ...]:
        """The evaluations with their trainings."""
        return tuple((spec, self.trainings[spec.run]) for spec in self.evaluations.values())

    @cached_property
    def key(self) -> str:
        """Hash of the set of runs, which identifies a repeated sweep.

        For a search by Optuna, whose runs are not known in advance, it is the hash of the request and of the corners of
        the searched space.
        """
        parts = sorted([*self.trainings, *self.evaluations])
        if self.request.search == "optuna":
            runs = [run.key for run in corner_runs(self.request, self.scope)]
            parts = [*runs, self.request.model_dump_json(exclude={"points", "name", "precision"})]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def plan(request: SweepRequest) -> Sweep:
    """Return the sweep behind a request, with all checks that do not need the data.

    Raises:
        UserError: A name is unknown, a value is not allowed or has no effect, or values contradict each other.
    """
    for name in request.tables:
        if name not in TABLES:
            raise unknown("table", name, [*TABLES, "grid"])
    profile = replace(profile_named(request.profile), ema_scaling=request.ema_scaling)
    if request.precision is not None:
        profile = profile.with_precision(request.precision)
    _check_overrides(request)
    sweep = _planned(request, profile)
    _check_effect(request, sweep)
    check_sizes(sweep.pairs)
    if request.searches:
        _check_search(sweep)
    return sweep


def continued(sweep: Sweep, store: Store) -> Sweep:
    """Return a search with the points that Optuna has chosen for it in earlier launches."""
    record = store.by_key(SWEEP, [sweep.key]).get(sweep.key) if sweep.request.search == "optuna" else None
    if record is None or "eman.request" not in record.tags:
        return sweep
    points = SweepRequest.from_json(record.tags["eman.request"]).points
    return plan(sweep.request.model_copy(update={"points": points}))


def with_point(sweep: Sweep, method: str, scheme: str, fields: Mapping[str, Value]) -> tuple[Sweep, Point]:
    """Return a search with one more point, and the point.

    Raises:
        UserError: The point makes no run.
    """
    pair = f"{method}/{scheme}"
    points = {**sweep.request.points, pair: (*sweep.request.points.get(pair, ()), dict(fields))}
    planned = plan(sweep.request.model_copy(update={"points": points}))
    return planned, next(p for p in reversed(grid_points_of(planned.request, planned.scope)) if p.pair == pair)


def _check_search(sweep: Sweep) -> None:
    """Raise `UserError` if the ends of a range make no run, or the search has no objective to compare runs by."""
    request = sweep.request
    early = request.scheduler != "none" or request.search == "optuna"
    for run in corner_runs(request, sweep.scope):
        objective_of(request.objective, run, while_training=early)
        if request.scheduler != "none" and request.grace >= run.optim.epochs:
            raise UserError(
                f"--grace {request.grace} leaves nothing to stop in runs of {run.optim.epochs} epochs of "
                f"{run.method.name}; give less, or --scheduler none."
            )


def _planned(request: SweepRequest, profile: Profile) -> Sweep:
    shared = {name: getattr(request, name) for name in ("seeds", "overrides", "network", "selection")}
    scope = Scope(profile=profile, **shared)
    tables = [TABLES[name](scope) for name in dict.fromkeys(request.tables)]
    if request.claims:
        tables = tables_of(claims_named(request.claims), scope)
    tables = tables or [grid_table(request, scope)]
    sweep = Sweep(request, scope, tuple(tables))
    precisions = {run.network.precision for run in sweep.trainings.values()}
    if request.precision is None and profile.common.get("precision") == AUTO and len(precisions) == 1:
        return replace(sweep, request=request.model_copy(update={"precision": precisions.pop()}))
    return sweep


def _check_overrides(request: SweepRequest) -> None:
    """Raise `UserError` for overrides that contradict a table's schemes."""
    for name in request.overrides:
        field = name.rpartition(".")[2]
        if (request.tables or request.claims) and field in NORM_FIELDS:
            raise UserError(
                f"{name} cannot be overridden in {' and '.join(request.tables) or 'claims'}, whose rows are "
                f"normalization schemes; make a grid, for example `eman sweep grid --method moco --scheme bn --set "
                f"{field}=...`."
            )


def _check_effect(request: SweepRequest, sweep: Sweep) -> None:
    """Raise `UserError` for an override without effect, because the tables set that field."""
    # Those that Optuna will choose are not known yet.
    runs = [*sweep.trainings.values(), *(corner_runs(request, sweep.scope) if request.search == "optuna" else ())]
    for name, value in request.overrides.items():
        field = name.rpartition(".")[2]
        flat = None if value is False else value  # flat values that are none or false are absent
        if any(run.flat().get(field) == flat for run in runs):
            continue
        others = {other: kept for other, kept in request.overrides.items() if other != name}
        without = _planned(request.model_copy(update={"overrides": others}), sweep.profile)
        if without.trainings.keys() == sweep.trainings.keys():
            raise UserError(f"{name} has no effect in {sweep.name}, which sets this field; leave it out.")

"""The request behind a sweep: tables or a grid, a profile, seeds. It is stored with the sweep, which it can repeat."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from eman.platform import modules
from eman.platform.errors import UserError
from eman.sweeps.profiles.scaling import EmaScaling
from eman.sweeps.search.space import Range
from eman.sweeps.tables.registry import is_table, table_name
from eman.trainers.spec.kinds import Value
from eman.trainers.spec.section import Section

#: Bounds that keep a typing error from planning millions of runs.
MAX_SEEDS = 100
MAX_GRID = 10_000
MAX_NAME = 100

#: Values that Optuna may choose in a sweep. They are kept in the tag that holds the request, and MLflow truncates tags.
MAX_OPTUNA_VALUES = 250


def _seeds(value: object) -> object:
    """Turn a number of seeds `n` into the seeds 0 to `n - 1`."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise UserError(f"seeds is {value}; give a number of seeds from 1 to {MAX_SEEDS}, or a list such as 0,1,5.")
        return tuple(range(value))
    return value


def _table_name(name: object) -> object:
    return table_name(name) if isinstance(name, str) else name


TableName = Annotated[str, BeforeValidator(_table_name)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


#: Values of `search` and `scheduler` that have no effect, which tables allow too.
_UNSET = ("grid", "none")

Search = Literal["grid", "random", "optuna"]
Scheduler = Literal["none", "asha", "median"]


class SweepRequest(Section):
    """A sweep: `tables`, the cells of `claims`, or a grid of `methods`, `schemes` and the axes of `grid` and `ranges`.

    Attributes:
        tables: Tables by name or number.
        claims: Claims by name, whose cells are run.
        max_seeds: Largest number of seeds that `eman decide` runs; 0 for other commands.
        family: All claims that `eman decide` tests together, of which `claims` may be a part.
        methods, schemes: Methods and schemes of a grid.
        grid: Further axes of a grid: values by field of a run.
        ranges: Further axes of a grid: ranges of numbers by field of a run.
        search: How points are chosen, for each method and scheme: `grid` takes every combination, with `samples` evenly
            spaced values of a range; `random` draws `samples` points; `optuna` asks Optuna for `samples` points, one
            after the other, each from the results of those before.
        samples: See `search`; 0 if nothing is sampled.
        search_seed: Seed of the points.
        scheduler: Rule of Ray Tune that stops trainings with poor results early: `none`, `asha` or `median`.
        grace: Epochs that every training runs before the scheduler may stop it.
        reduction: With `asha`: one in this many trainings continues at each rung.
        objective: Metric by which points are chosen and compared; empty for the method's accuracy on held-out images.
        points: Points that Optuna has chosen, by method and scheme (``METHOD/SCHEME``).
        linear_lr: Learning rates of linear evaluation in a grid; empty for the profile's.
        profile: Name of the scale.
        seeds: Seeds of every cell. A number `n` means 0 to `n - 1`.
        network, selection: The network and the epoch to evaluate.
        overrides: Fields for every run. `METHOD.FIELD` applies to the runs of one method.
        name: Name of the sweep; empty to name it after its tables.
        ema_scaling: Momenta by the EMA scaling rule, instead of the profile's own.
        precision: A profile's automatic precision, as resolved on the machine that planned the sweep. `None` to resolve
            it on this machine.

    Raises:
        UserError: A field is unknown or its value is not allowed. `plan` checks the names.
    """

    model_config = ConfigDict(strict=False, allow_inf_nan=True)

    tables: tuple[TableName, ...] = ()
    claims: tuple[str, ...] = ()
    max_seeds: Annotated[int, Field(ge=0, le=MAX_SEEDS)] = 0
    family: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    grid: Mapping[str, tuple[Value, ...]] = {}
    ranges: Mapping[str, Range] = {}
    linear_lr: tuple[Rate, ...] = ()
    search: Search = "grid"
    samples: Annotated[int, Field(ge=0, le=MAX_GRID)] = 0
    search_seed: Annotated[int, Field(ge=0)] = 0
    scheduler: Scheduler = "none"
    grace: Annotated[int, Field(ge=1)] = 1
    reduction: Annotated[float, Field(gt=1)] = 3.0
    objective: str = ""
    points: Mapping[str, tuple[Mapping[str, Value], ...]] = {}
    profile: str = "quick"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_seeds)] = (0,)
    network: Literal["student", "teacher"] = "student"
    selection: Literal["last", "best"] = "last"
    overrides: Mapping[str, Value] = {}
    name: str = ""
    ema_scaling: EmaScaling = "none"
    precision: str | None = None

    def __init__(self, **values: Any) -> None:  # accepts what validation converts, such as lists
        super().__init__(**values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the request that `model_dump_json` wrote."""
        return cls(**json.loads(text))

    @property
    def axes(self) -> dict[str, tuple[Value, ...] | Range]:
        """The axes of a grid besides methods and schemes: lists and ranges by field."""
        return {**self.grid, **self.ranges}

    @property
    def searches(self) -> bool:
        """Whether the request compares points by an objective."""
        return bool(self.ranges or self.search != "grid" or self.scheduler != "none" or self.objective)

    @property
    def title(self) -> str:
        """The sweep's name, or that of its tables or claims."""
        claims = "claims" if len(self.claims) > 3 else " + ".join(self.claims)
        return self.name or " + ".join(self.tables) or claims or "grid"

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        names = ("methods", "schemes", "grid", "ranges", "linear_lr", "samples", "objective")
        grid = [name for name in names if getattr(self, name)]
        grid += [
            name for name, default in (("search", "grid"), ("scheduler", "none")) if getattr(self, name) != default
        ]
        if self.tables and self.claims:
            raise UserError("tables and claims both define runs; give one.")
        if bool(self.max_seeds) != bool(self.family) or not set(self.claims) <= set(self.family or self.claims):
            raise UserError("max_seeds and family belong together, and claims are a part of family.")
        if (self.tables or self.claims) and grid:
            raise UserError(f"{', '.join(grid)} belong to a grid, and tables define their runs; give one.")
        if not (self.tables or self.claims) and not (self.methods and self.schemes):
            raise UserError("a grid needs methods and schemes, for example --method moco --scheme bn,eman.")
        axes = math.prod(len(axis) for axis in self.grid.values()) * max(self.samples, 1) ** len(self.ranges)
        axes = axes if self.search == "grid" else self.samples
        runs = len(self.methods) * len(self.schemes) * axes * len(self.seeds)
        if runs > MAX_GRID:
            raise UserError(f"the grid has {runs:,} trainings; give at most {MAX_GRID:,}, in several sweeps.")
        return self

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if not 1 <= len(self.seeds) <= MAX_SEEDS:
            raise UserError(f"{len(self.seeds)} seeds; give 1 to {MAX_SEEDS}.")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are {','.join(map(str, self.seeds))}; give each seed once.")
        if "seed" in self.overrides or "seed" in self.axes:
            raise UserError("seed is not a field of a sweep's runs; give --seeds, for example --seeds 0,1,5.")
        return self

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        values = [*self.overrides.items(), *((name, value) for name, axis in self.grid.items() for value in axis)]
        for name, value in values:
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise UserError(f"{name} is {number}; give a finite number.")
        for name, axis in self.grid.items():
            if not axis:
                raise UserError(f"--grid {name}: give at least one value, for example --grid {name}=VALUE,VALUE.")
        for name in self.axes:
            if name in self.overrides:
                raise UserError(f"{name} is an axis of the grid and an override; give one of the two.")
            if name in self.grid and name in self.ranges:
                raise UserError(f"{name} has a list and a range; give one of the two.")
        return self

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        """Refuse options of a search that contradict each other or have no effect."""
        if self.search != "grid" and not self.axes:
            raise UserError(f"--search {self.search} needs a field to search; give --range or --grid.")
        if (self.search != "grid" or self.ranges) and not self.samples:
            raise UserError("--samples is missing; give the number of points, or of values of each range in a grid.")
        if self.samples and not (self.search != "grid" or self.ranges):
            raise UserError("--samples has no effect without --range or --search random; leave it out.")
        if (
            self.search == "optuna"
            and self.samples * len(self.axes) * len(self.methods) * len(self.schemes) > MAX_OPTUNA_VALUES
        ):
            raise UserError(
                f"--search optuna chooses at most {MAX_OPTUNA_VALUES} values in one sweep; give fewer --samples."
            )
        if self.scheduler == "none" and self.grace != 1:
            raise UserError("--grace has no effect without --scheduler; leave it out.")
        if self.scheduler != "asha" and self.reduction != type(self).model_fields["reduction"].default:
            raise UserError("--reduction has no effect without --scheduler asha; leave it out.")
        return self

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        """Refuse a name that could be a table, `grid` or `claims`, or that does not fit on a line."""
        name = self.name
        taken = name in ("grid", "claims") or is_table(name)
        if taken or len(name) > MAX_NAME or name != name.strip() or not name.isprintable():
            raise UserError(
                f"--name {name!r}: give up to {MAX_NAME} printable characters, and neither a table's name nor 'grid' "
                f"nor 'claims'."
            )
        return self


def command(request: SweepRequest) -> str:
    """Return the command line that repeats a request."""
    if request.max_seeds:
        whole = request.model_copy(update={"seeds": (0,), "claims": request.family})
        words = [word for word in arguments(whole) if word != "claims"]
        return shlex.join(["eman", *modules.arguments(), "decide", *words, "--max-seeds", str(request.max_seeds)])
    return shlex.join(["eman", *modules.arguments(), "sweep", *arguments(request)])


def arguments(request: SweepRequest) -> list[str]:
    """Return the arguments of `eman sweep` that repeat a request."""
    words = [*request.tables] or (["claims", *request.claims] if request.claims else ["grid"])
    axes = (("--method", request.methods), ("--scheme", request.schemes), ("--linear-lr", request.linear_lr))
    for flag, names in axes:
        words += [flag, _joined(names)] if names else []
    for name, axis in request.grid.items():
        words += ["--grid", f"{name}={_joined(axis)}"]
    for name, numbers in request.ranges.items():
        words += ["--range", f"{name}={numbers.text}"]
    for flag in ("search", "samples", "search_seed", "scheduler", "grace", "reduction", "objective"):
        if getattr(request, flag) != SweepRequest.model_fields[flag].default:
            words += [f"--{flag.replace('_', '-')}", shown(getattr(request, flag))]
    words += ["--profile", request.profile]
    if request.seeds != (0,):
        counted = request.seeds == tuple(range(len(request.seeds)))
        words += ["--seeds", str(len(request.seeds)) if counted else _joined(request.seeds, least=2)]
    for flag, value, default in (
        ("--network", request.network, "student"),
        ("--selection", request.selection, "last"),
        ("--ema-scaling", request.ema_scaling, "none"),
        ("--name", request.name, ""),
    ):
        words += [flag, value] if value != default else []
    for name, override in request.overrides.items():
        words += ["--set", f"{name}={shown(override)}"]
    return words


def shown(value: Value) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, tuple):
        return _joined(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _joined(values: Iterable[Value], least: int = 1) -> str:
    """Join values by commas; fewer than `least` end in a comma, which marks a list."""
    words = [shown(value) for value in values]
    return ",".join(words) + ("," if len(words) < least else "")

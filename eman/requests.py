"""Make a sweep's request from the arguments of a command."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from eman.context import open_store
from eman.options import Evaluated, Grid, Scale
from eman.parsing import parse_grid, parse_list, parse_ranges, parse_rates, parse_seeds
from eman.platform.errors import UserError, unknown
from eman.platform.modules import check_loaded

if TYPE_CHECKING:
    from eman.sweeps.request import SweepRequest

GRID = "grid"
CLAIMS = "claims"


def new_request(
    words: Sequence[str], scale: Scale, evaluated: Evaluated, grid: Grid, *, profile: str = "quick", name: str = ""
) -> "SweepRequest":
    """Return the request for tables by name or number, for `claims` and their names, or for `grid`, with these options.

    `profile` is the default.

    Raises:
        UserError: A value is not allowed, or options contradict each other.
    """
    from eman.sweeps.request import SweepRequest

    words = list(dict.fromkeys(words))
    if words[:1] == [CLAIMS]:
        from eman.sweeps.claims.registry import claims_named

        if grid.given:
            raise UserError(f"{', '.join(grid.given)} belongs to `eman sweep grid`; claims define their own runs.")
        fields = {"profile": profile} | _given(scale, evaluated) | {"name": name}
        return SweepRequest(**fields, claims=[claim.name for claim in claims_named(words[1:])])
    if GRID in words and len(words) > 1:
        raise UserError(f"grid cannot be combined with {', '.join(word for word in words if word != GRID)}.")
    if GRID not in words and grid.given:
        raise UserError(f"{', '.join(grid.given)} belongs to `eman sweep grid`; tables define their own runs.")
    drawn = (grid.search_seed or 0) if grid.search == "random" else None
    axes = {
        "methods": parse_list("--method", grid.method),
        "schemes": parse_list("--scheme", grid.scheme),
        "grid": parse_grid(grid.grid),
        "ranges": parse_ranges(grid.range_),
        "linear_lr": parse_rates("--linear-lr", grid.linear_lr, grid.samples or 0, drawn),
    }
    names = ("search", "samples", "search_seed", "scheduler", "grace", "reduction", "objective")
    axes |= {name: value for name in names if (value := getattr(grid, name)) is not None}
    if ":" in (grid.linear_lr or "") and not (axes["grid"] or axes["ranges"]):  # only the linear rates are searched
        axes = {name: value for name, value in axes.items() if name not in ("search", "samples", "search_seed")}
    common = {"profile": profile} | _given(scale, evaluated) | {"name": name}
    return SweepRequest(**common, **axes) if words == [GRID] else SweepRequest(**common, tables=words)


def known_request(
    words: Sequence[str], scale: Scale, evaluated: Evaluated, grid: Grid, *, profile: str = "quick"
) -> "SweepRequest":
    """Return the request for tables or a grid, or a stored sweep's by name or key, with options replacing its values.

    Raises:
        UserError: See `new_request`; or the store has no such sweep.
    """
    from eman.sweeps.request import SweepRequest
    from eman.sweeps.tables.registry import is_table

    is_sweep = len(words) == 1 and not is_table(words[0]) and words[0] != CLAIMS
    if not is_sweep or (words == [GRID] and grid.given):
        return new_request(words, scale, evaluated, grid, profile=profile)
    if grid.given:
        raise UserError(f"{', '.join(grid.given)} belongs to `grid`; sweep {words[0]!r} defines its own runs.")
    stored = _stored_request(words[0])
    given = _given(scale, evaluated)
    kept = {name: getattr(stored, name) for name in SweepRequest.model_fields}
    if "profile" in given:
        kept["precision"] = None
    overrides = {**stored.overrides, **given.pop("overrides", {})}
    return SweepRequest(**{**kept, **given, "overrides": overrides})


def _stored_request(name: str) -> "SweepRequest":
    from eman.sweeps.request import SweepRequest
    from eman.sweeps.tables.registry import TABLES
    from eman.sweeps.view.status import find_sweep

    try:
        record = find_sweep(name, open_store())
    except UserError as error:
        if name == GRID:
            raise UserError(f"{error} For a new grid give --method and --scheme.") from None
        near = unknown("table or sweep", name, [*TABLES, GRID])
        raise UserError(f"{near} `eman status` lists the sweeps in the store.") from None
    check_loaded(record.tags, f"sweep {record.key[:8]} ({record.name})")
    if "eman.request" not in record.tags:
        raise UserError(f"sweep {record.key[:8]} ({record.name}) has no stored request; launch it again.")
    return SweepRequest.from_json(record.tags["eman.request"])


def _given(scale: Scale, evaluated: Evaluated) -> dict[str, Any]:
    """Return the fields of a request that are set by options."""
    from eman.trainers.spec.fields import parse_fields

    overrides = parse_fields(scale.set_ or [])
    seeds = None if scale.seeds is None else parse_seeds(scale.seeds)
    if "seed" in overrides:
        if seeds is not None:
            raise UserError(
                f"--seeds {scale.seeds} and --set seed={overrides['seed']} contradict; give one of the two."
            )
        seeds = [cast("int", overrides.pop("seed"))]
    fields = {
        "profile": scale.profile,
        "seeds": seeds,
        "ema_scaling": scale.ema_scaling,
        "network": evaluated.network,
        "selection": evaluated.selection,
        "overrides": overrides or None,
    }
    return {name: value for name, value in fields.items() if value is not None}

"""Group evaluations that are computed together; titles of evaluations and groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eman.evaluation.protocols.protocol import EvalOutcome
from eman.evaluation.protocols.spec import EvalSpec
from eman.trainers.data.names import title

if TYPE_CHECKING:
    from eman.evaluation.trained import Trained


def eval_title(spec: EvalSpec) -> str:
    """Return an evaluation's title, for example ``linear · 10 % · lr 0.5``."""
    return _title(spec, spec.entry.shown)


def _title(spec: EvalSpec, shown: Sequence[str]) -> str:
    values = {name: getattr(spec.protocol, name) for name in shown}
    own = [_shown(name, value) for name, value in values.items() if value is not None]
    other = [value for value in (spec.network, spec.selection) if value not in ("student", "last")]
    on = [f"on {title(spec.dataset)}"] if spec.dataset else []
    return " · ".join([spec.entry.title, *filter(None, own), *other, *on])


def _shown(name: str, value: Any) -> str:
    if name == "label_fraction":
        return f"{100 * value:g} %"
    if isinstance(value, str):
        return "" if value == "cached" else value
    return f"{name} {value:g}"


def group_key(spec: EvalSpec) -> str:
    """Return a key shared by evaluations of a run that differ only in the grid field, which are computed together."""
    default = spec.entry.spec.model_fields[spec.entry.grid].default if spec.entry.grid else None
    return spec.key if default is None else spec.replace(**{spec.entry.grid: default}).key


def together(specs: Sequence[EvalSpec]) -> list[tuple[EvalSpec, ...]]:
    """Group evaluations by :func:`group_key`, in order of first occurrence."""
    groups: dict[str, list[EvalSpec]] = {}
    for spec in specs:
        groups.setdefault(group_key(spec), []).append(spec)
    return [tuple(group) for group in groups.values()]


def group_title(specs: Sequence[EvalSpec]) -> str:
    """Return a group's title, for example ``linear · 10 % · 3 of lr``."""
    first, grid = specs[0], specs[0].entry.grid
    if len(specs) == 1 or not grid:
        return eval_title(first)
    return f"{_title(first, [name for name in first.entry.shown if name != grid])} · {len(specs)} of {grid}"


def evaluate(specs: Sequence[EvalSpec], trained: "Trained") -> list[EvalOutcome]:
    """Compute the evaluations of one group; see :meth:`~eman.evaluation.protocols.protocol.Protocol.evaluate`."""
    first = specs[0]
    return first.entry.evaluate([spec.protocol for spec in specs], trained, first.seed)

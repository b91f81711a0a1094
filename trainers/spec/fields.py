"""List the fields of a run that ``--set`` accepts, and parse them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eman.platform.errors import UserError, unknown
from eman.trainers.methods.method import Method
from eman.trainers.methods.registry import METHODS, method_named
from eman.trainers.spec.kinds import FieldKind, Value, kind_of, parse_pairs
from eman.trainers.spec.run import SECTIONS, RunSpec, section_names
from eman.trainers.spec.section import Section

#: Fields that ``--set`` does not accept, and what to do instead.
_SET_ELSEWHERE = {
    "method": "name the method in the command",
    "init": "it is another run; give --init, or a table whose rows start from a run",
    "source": "`eman import` sets it",
}


@dataclass(frozen=True)
class Field:
    """A field of a run.

    Attributes:
        name: Its flat name.
        section: Its section: ``run``, ``data``, ``norm``, ..., or the method's name.
        kind: The values that it accepts.
        default: Its value in the given run.
        description: What it means.
    """

    name: str
    section: str
    kind: FieldKind
    default: Value
    description: str


def fields_of(spec: RunSpec) -> tuple[Field, ...]:
    """Return the fields that ``--set`` accepts, with the run's values as defaults."""
    return tuple(_settable(spec.entry, spec.flat()))


def _settable(entry: Method[Any], values: Mapping[str, Any]) -> Iterator[Field]:
    """Yield every field that ``--set`` accepts; what ``values`` lack is false or none."""
    models: dict[str, type[Section]] = {"": RunSpec, **SECTIONS, "method": entry.section}
    for name, section in section_names(entry).items():
        info = models[section].model_fields[name]
        kind = kind_of(info)
        if name not in _SET_ELSEWHERE and kind is not None:
            title = {"": "run", "method": entry.name}.get(section, section)
            default = values.get(name, False if kind.base is bool else None)
            yield Field(name, title, kind, default, " ".join((info.description or "").split()))


def parse_fields(pairs: Iterable[str]) -> dict[str, Value]:
    """Parse ``["epochs=2", "optim.lr=0.1", "moco.queue=4096"]`` into typed values by name.

    A section's prefix is dropped. A method's prefix is kept: the value applies to that method only.
    """
    return parse_pairs(pairs, find_field, "epochs=2")


def find_field(given: str) -> tuple[str, FieldKind]:
    """Return a field's name, without its section, and its kind; :class:`UserError` if ``--set`` does not accept it."""
    owner, dot, name = given.rpartition(".")
    if name in _SET_ELSEWHERE:
        raise UserError(f"{name} cannot be set by hand: {_SET_ELSEWHERE[name]}.")
    if dot and owner not in ("run", *SECTIONS, *METHODS):
        raise unknown("section or method", owner, ["run", *SECTIONS, *METHODS])
    methods = [method_named(owner)] if owner in METHODS else list(METHODS.values())
    fields = [field for entry in methods for field in _settable(entry, {})]
    kinds = {field.name: field.kind for field in fields if not dot or owner in METHODS or field.section == owner}
    if name not in kinds:
        raise unknown("field" if not dot else f"field of {owner}", name, kinds)
    return (given if owner in METHODS else name), kinds[name]

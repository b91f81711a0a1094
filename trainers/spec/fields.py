"""The fields that ``--set`` takes: their list for a method, and reading them from text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from eman.platform.errors import UserError, unknown
from eman.trainers.methods.method import Method
from eman.trainers.methods.registry import METHODS, method_named
from eman.trainers.spec.kinds import FieldKind, Value, kind_of
from eman.trainers.spec.run import SECTIONS, RunSpec, section_names
from eman.trainers.spec.section import Section

#: Fields that no person sets, and where they come from.
_SET_ELSEWHERE = {
    "method": "name the method in the command",
    "init": "it is another run; give --init, or a table whose rows start from one",
    "source": "`eman import` sets it",
}


@dataclass(frozen=True)
class Field:
    """A field of a run.

    Attributes:
        name: Its flat name.
        section: The section that it belongs to: ``data``, ``norm``, ...; the method's name for its own; ``run``.
        kind: The values that it takes.
        default: Its value in the run that was asked about.
        description: What it means.
    """

    name: str
    section: str
    kind: FieldKind
    default: Value
    description: str


def fields_of(spec: RunSpec) -> tuple[Field, ...]:
    """List the fields of a run that ``--set`` takes, with the run's own values as defaults."""
    values, section = spec.flat(), spec.entry.name
    return tuple(
        Field(name, owner if owner != "method" else section, kind, _value(values, name, kind), info.description or "")
        for name, owner, info, kind in _settable(spec.entry)
    )


def _value(values: dict[str, Any], name: str, kind: FieldKind) -> Value:
    value: Value = values.get(name, False if kind.base is bool else None)
    return value


def _settable(entry: Method[Any]) -> Iterator[tuple[str, str, FieldInfo, FieldKind]]:
    """Name, section, declaration and kind of every field that ``--set`` takes."""
    models: dict[str, type[Section]] = {"": RunSpec, **SECTIONS, "method": entry.section}
    for name, section in section_names(entry).items():
        info = models[section].model_fields[name]
        kind = kind_of(info)
        if name not in _SET_ELSEWHERE and kind is not None:
            yield name, section or "run", info, kind


def parse_fields(pairs: Iterable[str]) -> dict[str, Value]:
    """Turn ``["epochs=2", "optim.lr=0.1", "moco.queue=4096"]`` into typed values by name.

    A section before a name is dropped. A method before a name stays: the value then counts for that method only.

    Raises:
        UserError: A pair without ``=``, an unknown or repeated name, or a value of another type.
    """
    values: dict[str, Value] = {}
    for pair in pairs:
        given, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r}: give FIELD=VALUE, for example --set epochs=2.")
        name, kind = find_field(given.strip())
        if name in values:
            raise UserError(f"--set {name} is given twice; give one value.")
        values[name] = kind.parse(name, text)
    return values


def find_field(given: str) -> tuple[str, FieldKind]:
    """Return the name to store a field under, and its kind.

    Raises:
        UserError: There is no such field, or it cannot be set.
    """
    owner, dot, name = given.rpartition(".")
    if name in _SET_ELSEWHERE:
        raise UserError(f"{name} cannot be set by hand: {_SET_ELSEWHERE[name]}.")
    if dot and owner not in ("run", *SECTIONS, *METHODS):
        raise unknown("section or method", owner, ["run", *SECTIONS, *METHODS])
    methods = [method_named(owner)] if owner in METHODS else list(METHODS.values())
    found = {
        field: kind
        for entry in methods
        for field, section, _, kind in _settable(entry)
        if not dot or owner in METHODS or section == owner
    }
    if name not in found:
        raise unknown("field" if not dot else f"field of {owner}", name, found)
    return (given if owner in METHODS else name), found[name]

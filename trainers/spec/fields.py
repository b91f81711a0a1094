"""List the fields of a run that ``--set`` accepts, and parse them."""

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
    values = spec.flat()
    return tuple(
        Field(
            name,
            spec.entry.name if section == "method" else section,
            kind,
            values.get(name, False if kind.base is bool else None),
            " ".join((info.description or "").split()),
        )
        for name, section, info, kind in _settable(spec.entry)
    )


def _settable(entry: Method[Any]) -> Iterator[tuple[str, str, FieldInfo, FieldKind]]:
    """Yield name, section, declaration and kind of every field that ``--set`` accepts."""
    models: dict[str, type[Section]] = {"": RunSpec, **SECTIONS, "method": entry.section}
    for name, section in section_names(entry).items():
        info = models[section].model_fields[name]
        kind = kind_of(info)
        if name not in _SET_ELSEWHERE and kind is not None:
            yield name, section or "run", info, kind


def parse_fields(pairs: Iterable[str]) -> dict[str, Value]:
    """Parse ``["epochs=2", "optim.lr=0.1", "moco.queue=4096"]`` into typed values by name.

    A section's prefix is dropped. A method's prefix is kept: the value applies to that method only.
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
    """Return a field's name, without its section, and its kind; :class:`UserError` if ``--set`` does not accept it."""
    owner, dot, name = given.rpartition(".")
    if name in _SET_ELSEWHERE:
        raise UserError(f"{name} cannot be set by hand: {_SET_ELSEWHERE[name]}.")
    if dot and owner not in ("run", *SECTIONS, *METHODS):
        raise unknown("section or method", owner, ["run", *SECTIONS, *METHODS])
    methods = [method_named(owner)] if owner in METHODS else list(METHODS.values())
    kinds = {
        field: kind
        for entry in methods
        for field, section, _, kind in _settable(entry)
        if not dot or owner in METHODS or section == owner
    }
    if name not in kinds:
        raise unknown("field" if not dot else f"field of {owner}", name, kinds)
    return (given if owner in METHODS else name), kinds[name]

"""The fields that `eman fields` lists."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eman.evaluation.protocols.spec import settable
from eman.sweeps.profiles.registry import profile_named
from eman.sweeps.request import shown
from eman.trainers.methods.registry import METHODS, method_named
from eman.trainers.spec.fields import Field, fields_of
from eman.trainers.spec.kinds import Value, kind_of


@dataclass(frozen=True)
class ListedField:
    """A field, and its default by method."""

    field: Field
    defaults: dict[str, Value]

    @property
    def default(self) -> str:
        """The default; if methods differ, the default of each."""
        texts = {method: shown(value) for method, value in self.defaults.items()}
        if len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return ", ".join(f"{method} {text}" for method, text in texts.items())


def listed_fields(method: str | None, profile: str) -> list[ListedField]:
    """Return the fields of one or all methods, with the defaults of a profile.

    Raises:
        UserError: A name is unknown.
    """
    scale = profile_named(profile)
    listed: dict[tuple[str, str], ListedField] = {}
    for name in METHODS if method is None else [method_named(method).name]:
        for field in fields_of(scale.run(name, "default")):
            identity = field.name, field.section if field.section not in METHODS else "method"
            known = listed.get(identity, ListedField(field, {}))
            listed[identity] = ListedField(known.field, {**known.defaults, name: field.default})
    return sorted(listed.values(), key=lambda item: _section(item) in METHODS)


def protocol_fields(protocol: str) -> list[ListedField]:
    """Return the fields of an evaluation, with the paper's values as defaults."""
    kinds = [(name, info, kind_of(info)) for name, info in settable(protocol).items()]
    return [
        ListedField(Field(name, protocol, kind, info.default, info.description or ""), {protocol: info.default})
        for name, info, kind in kinds
        if kind is not None
    ]


def _section(listed: ListedField) -> str:
    own = listed.field.section in METHODS
    return ", ".join(listed.defaults) if own else listed.field.section


def field_values(listed: ListedField) -> dict[str, Any]:
    """Return a field as plain values."""
    return {
        "name": listed.field.name,
        "section": _section(listed),
        "type": listed.field.kind.type_name,
        "range": listed.field.kind.range,
        "optional": listed.field.kind.optional,
        "defaults": listed.defaults,
        "description": listed.field.description,
    }


def field_lines(fields: Sequence[ListedField]) -> list[str]:
    """Return fields as lines by section, each with default, range and description."""
    width, lines, section = max(60, shutil.get_terminal_size().columns), list[str](), ""
    for listed in fields:
        if _section(listed) != section:
            section = _section(listed)
            lines += ["", section] if lines else [section]
        kind = listed.field.kind
        allowed = kind.range if kind.choices else f"{kind.type_name} {kind.range}".rstrip()
        lines.append(f"  {listed.field.name} = {listed.default}  ({allowed}{', or none' if kind.optional else ''})")
        lines += textwrap.wrap(listed.field.description, width, initial_indent="      ", subsequent_indent="      ")
    return lines

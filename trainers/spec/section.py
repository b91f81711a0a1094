"""The base class of a specification's sections: frozen, strict, with errors of one line; and the hash behind keys."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from eman.platform.errors import UserError, unknown
from eman.trainers.spec.kinds import kind_of


class Section(BaseModel):
    """Typed, frozen fields; a docstring below a field describes it. Unknown fields, wrong types and NaN are errors.

    Raises:
        UserError: A field's value is not allowed, or two fields contradict each other.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _user_error(error, type(self)) from None

    def refuse(self, name: str, given: str, remedy: str) -> None:
        """Raise :class:`UserError` if a field that has no effect with what is given is not at its default."""
        value = getattr(self, name)
        if value != type(self).model_fields[name].default:
            raise UserError(f"{name} is {value} and has no effect with {given}; leave it out, or give {remedy}.")

    def drop(self, *fields: str) -> None:
        """Reset fields without effect to their defaults, so that one behaviour has one key; for validators only."""
        for name in fields:
            object.__setattr__(self, name, type(self).model_fields[name].default)


def _user_error(error: ValidationError, model: type[BaseModel]) -> UserError:
    """Return the first validation error in one line: the field, what was given, what is allowed."""
    fault = error.errors(include_url=False)[0]
    name, given = str(fault["loc"][0]) if fault["loc"] else model.__name__, fault["input"]
    if fault["type"] == "extra_forbidden":
        return unknown("field", name, model.model_fields)
    if fault["type"] == "missing":
        return UserError(f"{name} is missing; give {name}=VALUE.")
    kind = kind_of(model.model_fields[name]) if name in model.model_fields else None
    if kind is None:
        return UserError(f"{name} is {given!r}: {fault['msg']}.")
    if kind.choices and isinstance(given, str):
        return unknown(name, given, kind.choices)
    shown = fault["ctx"]["item"] if "item" in fault.get("ctx", {}) else given
    return UserError(f"{name} is {shown!r}; give {kind.describe()}.")


def digest(payload: Mapping[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of ``payload``, whatever the order of its names."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""The values that a field of a specification accepts, derived from its type annotation."""

import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from eman.platform.errors import UserError, unknown

Value = bool | int | float | str | tuple[float, ...] | None

#: Limits of a number, in symbols and in words.
_SYMBOLS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class FieldKind:
    """The values that a field accepts.

    Attributes:
        base: ``bool``, ``int``, ``float``, ``str`` or ``tuple`` (of numbers).
        choices: Allowed names; empty if there is no fixed list.
        bounds: Limits of a number, or of each number of a tuple, for example ``("ge", 1)``.
        optional: Whether ``None`` is allowed.
    """

    base: type
    choices: tuple[str, ...] = ()
    bounds: tuple[tuple[str, float], ...] = ()
    optional: bool = False

    @property
    def type_name(self) -> str:
        """The type in one word."""
        names = {bool: "true/false", int: "integer", float: "number", str: "text", tuple: "numbers"}
        return "choice" if self.choices else names[self.base]

    @property
    def range(self) -> str:
        """The allowed values, for example ``> 0, <= 1`` or ``cosine, step``; empty for free text."""
        if self.choices:
            return ", ".join(self.choices)
        return ", ".join(f"{_SYMBOLS[name]} {_number(limit)}" for name, limit in self.bounds)

    def describe(self) -> str:
        """Describe the allowed values in words, for example ``a number above 0 and at most 1``."""
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        limits = " and ".join(f"{_WORDS[name]} {_number(limit)}" for name, limit in self.bounds)
        if self.choices:
            text = f"one of {', '.join(self.choices)}"
        elif self.base is tuple:
            text = f"numbers with commas between them{f', each {limits}' if limits else ''}"
        else:
            text = f"{names[self.base]} {limits}".rstrip()
        return f"{text}, or none" if self.optional else text

    def parse(self, name: str, text: str) -> Value:
        """Parse a value; :class:`UserError` if it has the wrong type. The specification checks bounds."""
        if self.optional and text.lower() == "none":
            return None
        if self.choices and text not in self.choices:
            raise unknown(name, text, self.choices)
        try:
            if self.base is bool:
                return {"true": True, "false": False}[text.lower()]
            if self.base is tuple:
                return tuple(float(part) for part in text.split(","))
            value: Value = self.base(text)
            return value
        except (ValueError, KeyError):
            raise UserError(f"{name} is {text!r}; give {self.describe()}.") from None


def parse_pairs(
    pairs: Iterable[str], find: Callable[[str], tuple[str, FieldKind | None]], example: str
) -> dict[str, Value]:
    """Parse the values of ``--set``, such as ``["epochs=2", "lr=0.1"]``, into typed values by name.

    Args:
        pairs: What was given.
        find: From the name as given to the field's name and kind; raises :class:`UserError` for unknown ones.
        example: A correct value, for the error.
    """
    values: dict[str, Value] = {}
    for pair in pairs:
        given, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r}: give FIELD=VALUE, for example --set {example}.")
        name, kind = find(given.strip())
        if name in values:
            raise UserError(f"--set {name} is given twice; give one value.")
        values[name] = text if kind is None else kind.parse(name, text)
    return values


def kind_of(field: FieldInfo) -> FieldKind | None:
    """Return the kind of a pydantic field; ``None`` if it holds a model."""
    return _kind(field.annotation, field.metadata)


def check_kinds(owner: str, model: type[BaseModel]) -> None:
    """Raise :class:`UserError` if a field of a model has a type that no command can parse."""
    for name, field in model.model_fields.items():
        if kind_of(field) is None:
            raise UserError(
                f"{owner}: field {name!r} has type {field.annotation}; give bool, int, float, str, a Literal, or a "
                f"tuple of numbers such as tuple[float, ...]."
            )


def _kind(annotation: Any, metadata: Iterable[Any]) -> FieldKind | None:
    metadata = list(metadata)
    bounds = tuple((name, getattr(item, name)) for name in _SYMBOLS for item in metadata if hasattr(item, name))
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        # A nested Field(...) holds its limits in its own metadata.
        unpacked = [m for item in more for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _kind(inner, [*unpacked, *metadata])
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not type(None)]
        kind = _kind(options[0], metadata)
        return None if kind is None else FieldKind(kind.base, kind.choices, kind.bounds, len(get_args(annotation)) > 1)
    if origin is Literal:
        return FieldKind(str, tuple(map(str, get_args(annotation))))
    if origin is tuple:
        item = _kind(get_args(annotation)[0], [])
        return FieldKind(tuple, bounds=item.bounds) if item and item.base in (int, float) else None
    return FieldKind(annotation, bounds=bounds) if annotation in (bool, int, float, str) else None


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"

"""Entries by name: the built-in ones and those of modules of one's own, added by the same calls."""

import inspect
import re
from collections.abc import Collection
from typing import TypeVar

from eman.platform.errors import UserError
from eman.platform.modules import note

T = TypeVar("T")

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"


class Registry(dict[str, T]):
    """The entries of one kind by name, in the order of their registration.

    Args:
        kind: What an entry is called in errors.
        reserved: Names that mean something else on the command line.
        dots: Whether names may have dots.
    """

    def __init__(self, kind: str, reserved: Collection[str] = (), *, dots: bool = True) -> None:
        super().__init__()
        self.kind, self.reserved, self.dots = kind, frozenset(reserved), dots
        self._origins: dict[str, str] = {}

    def add(self, name: str, entry: T) -> None:
        """Add an entry, and record the module whose code asked for it; see :meth:`check`."""
        self.check(name)
        self[name] = entry
        self._origins[name] = note(_caller())

    def check(self, name: str) -> None:
        """Raise :class:`UserError` if a name is taken, or cannot be a name."""
        allowed = isinstance(name, str) and re.fullmatch(_NAME, name) and (self.dots or "." not in name)
        if not allowed:
            dots = "dots, " if self.dots else ""
            raise UserError(
                f"{self.kind} {name!r}: give a name of up to 64 letters, digits, {dots}hyphens and underscores that "
                f"begins with a letter or digit."
            )
        if name in self.reserved:
            raise UserError(f"{self.kind} {name!r}: the name means something else in commands; give another.")
        if name in self:
            where = self.origin(name)
            owner = f"module {where}" if where else "eman"
            raise UserError(f"{self.kind} {name!r} is already registered by {owner}; give another name.")

    def origin(self, name: str) -> str:
        """Return the top-level name of the module that registered an entry; empty for a built-in one."""
        return self._origins.get(name, "")


def _caller() -> str:
    """Return the name of the first module on the stack that is not part of this package; empty for a built-in entry.

    Built-in entries are added when their module is imported, so that Python's import system stands there instead.
    """
    frame = inspect.currentframe()
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        top = name.partition(".")[0]
        if top != "eman":
            return "" if top in ("importlib", "_frozen_importlib", "runpy") else name
        frame = frame.f_back
    return ""

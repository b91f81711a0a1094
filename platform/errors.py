"""Errors a person can act on: one line that says what was given, what is allowed and what to do next."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake in what was asked for, or in the surroundings. The command line prints it and exits with code 2."""


class BusyError(Exception):
    """Another process is already running this."""


class RunFailed(Exception):
    """A training or an evaluation that cannot give a number; its message is the reason that the table's cell shows."""


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line; its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the nearest name that does.

    Args:
        kind: What the name stands for, for example ``"scheme"``.
        given: The name that was given.
        allowed: Every name that would have been right.
    """
    names = list(allowed)
    near = get_close_matches(given.lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UserError(f"unknown {kind} {given!r}{hint} Allowed: {', '.join(names)}.")


def named(kind: str, name: str, entries: Mapping[str, T]) -> T:
    """Return the entry of that name.

    Raises:
        UserError: There is none.
    """
    if name not in entries:
        raise unknown(kind, name, entries)
    return entries[name]

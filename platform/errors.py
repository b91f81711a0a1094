"""Errors a person can act on: one line that says what was given, what is allowed and what to do next."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake in the request or the environment. The command line prints it and exits with code 2."""


class BusyError(Exception):
    """Another process is already running this."""


class RunFailed(Exception):
    """A training or evaluation that has no result, and would have none if it were repeated.

    The message is the reason that its table cell shows.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """Return the error for an unknown name of a ``kind``, for example ``"scheme"``, with the nearest allowed one."""
    names = list(allowed)
    near = get_close_matches(given.lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UserError(f"unknown {kind} {given!r}{hint} Allowed: {', '.join(names)}.")


def named(kind: str, name: str, entries: Mapping[str, T]) -> T:
    """Return the entry with this name; raise :class:`UserError` if there is none."""
    if name not in entries:
        raise unknown(kind, name, entries)
    return entries[name]

"""Checkpoints: written atomically and verified when read. Of those to resume from, the newest two are kept."""

import io
import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from eman.platform.errors import UserError
from eman.platform.sealed import DamagedError, UnsealedError, open_sealed, write_sealed
from eman.platform.storage import MissingError, Place, StorageError

#: Names of the checkpoints to resume from, by step.
_NEWEST = re.compile(r"resume-(\d+)\.pt")

log = logging.getLogger("eman")


class UnusableError(UserError):
    """A checkpoint that is missing, damaged, or not this run's."""


def encode(content: dict[str, Any], key: str) -> memoryview:
    """Return a checkpoint of run ``key`` as the bytes of a file."""
    whole = io.BytesIO()  # PyTorch's own writer hides the error of a full disk
    torch.save({"key": key, "content": content}, whole)
    return whole.getbuffer()


def save(place: Place, content: dict[str, Any], key: str) -> None:
    """Write a checkpoint of run ``key`` atomically, as a PyTorch file.

    Raises:
        StorageError: Writing failed; the previous file is kept.
    """
    write_sealed(place, encode(content, key))


def load(place: Place, key: str, *, fields: Iterable[str] = ()) -> dict[str, Any]:
    """Read a checkpoint of run ``key``; raise :class:`UnusableError` if it lacks ``fields`` or cannot be used."""
    try:
        with open_sealed(place) as file:
            whole = torch.load(file, weights_only=True, map_location="cpu")
    except MissingError:
        raise UnusableError(f"there is no checkpoint {place}; train the run first.") from None
    except UnsealedError:
        raise UnusableError(
            f"{place} is damaged, or not a checkpoint of eman; choose another folder, or delete it and run again."
        ) from None
    except DamagedError:
        raise UnusableError(f"checkpoint {place} is damaged; delete it and run again.") from None
    if not isinstance(whole, dict) or whole.keys() != {"key", "content"}:
        raise UnusableError(f"{place} is not a checkpoint of eman; choose another folder, or delete it and run again.")
    if whole["key"] != key:
        raise UnusableError(f"checkpoint {place} belongs to run {whole['key']}, not to {key}; choose another folder.")
    lacking = set(fields) - whole["content"].keys()
    if lacking:
        raise UnusableError(f"checkpoint {place} lacks {', '.join(sorted(lacking))}; delete it and run again.")
    return dict(whole["content"])


def newest_name(step: int) -> str:
    """Return the file name of the checkpoint at a step, from which a run resumes."""
    return f"resume-{step:09d}.pt"


def write_newest(folder: Place, name: str, encoded: memoryview) -> None:
    """Write a checkpoint to resume from, without waiting for storage, and keep the one before it.

    Raises:
        StorageError: Writing failed; the checkpoints that were there stay.
    """
    place = replace(folder, patience=0.0, cache=None)  # the process that resumes is mostly on another machine
    write_sealed(place / name, encoded)
    for older in _newest_first(place)[2:]:
        (place / older).remove()


def load_newest(folder: Place, key: str) -> dict[str, Any] | None:
    """Return the newest checkpoint that can be read, or ``None``; rename others to ``<name>.set-aside``."""
    for name in _newest_first(folder):
        try:
            return load(folder / name, key)
        except UnusableError as error:
            log.warning("%s Set aside as %s.set-aside.", error, name)
            try:
                (folder / name).move(f"{name}.set-aside")
            except MissingError:  # another worker has renamed it
                continue
    return None


def remove_newest(folder: Place) -> None:
    """Remove what :func:`write_newest` wrote. If object storage does not answer, ``eman store gc`` does it later."""
    folder = replace(folder, patience=0.0)
    try:
        for name in _newest_first(folder):
            (folder / name).remove()
    except StorageError as error:
        log.warning("checkpoints of a finished run stay: %s", error)


def _newest_first(folder: Place) -> list[str]:
    return [name for name in reversed(folder.names()) if _NEWEST.fullmatch(name)]

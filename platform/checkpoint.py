"""Checkpoints: replaced atomically, verified on reading."""

import contextlib
import errno
import io
import logging
import os
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from eman.platform.errors import UserError
from eman.platform.output import atomic_path

#: Error numbers of a disk, a quota or a file-size limit that is exhausted.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger("eman")


class UnusableError(UserError):
    """A checkpoint that is missing, damaged, or not this run's."""


class DiskFullError(UserError, OSError):
    """The disk is too full to write a checkpoint."""


def save(path: Path, content: dict[str, Any], key: str, *, patience: float = 120.0) -> None:
    """Replace a checkpoint of run ``key`` atomically by a PyTorch file, waiting ``patience`` seconds for a full disk.

    Raises:
        OSError: Writing failed, with :class:`DiskFullError` for a full disk; the previous file is kept.
    """
    whole = io.BytesIO()  # PyTorch's own writer hides the error of a full disk
    torch.save({"key": key, "content": content}, whole)
    deadline = time.monotonic() + patience
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                file.write(whole.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            return
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            if time.monotonic() > deadline:
                raise DiskFullError(
                    f"the disk is full: {path} could not be written ({error.strerror}); make room, then repeat the "
                    f"command."
                ) from error
            log.warning("the disk is full (%s); waiting to write %s", error.strerror, path.name)
            time.sleep(1.0)


def load(path: Path, key: str, *, fields: Iterable[str] = ()) -> dict[str, Any]:
    """Read a checkpoint of run ``key``; raise :class:`UnusableError` if it lacks ``fields`` or cannot be used."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # PyTorch does not compare checksums
        whole = None if damaged else torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UnusableError(f"there is no checkpoint {path}; train the run first.") from None
    except Exception:  # torch.load raises many kinds
        damaged, whole = "file", None
    if damaged:
        raise UnusableError(f"checkpoint {path} is damaged; delete it and run again.")
    if not isinstance(whole, dict) or whole.keys() != {"key", "content"}:
        raise UnusableError(f"{path} is not a checkpoint of eman; choose another folder, or delete it and run again.")
    if whole["key"] != key:
        raise UnusableError(f"checkpoint {path} belongs to run {whole['key']}, not to {key}; choose another folder.")
    lacking = set(fields) - whole["content"].keys()
    if lacking:
        raise UnusableError(f"checkpoint {path} lacks {', '.join(sorted(lacking))}; delete it and run again.")
    return dict(whole["content"])


def save_newest(path: Path, content: dict[str, Any], key: str) -> None:
    """Save without waiting for disk space, and keep the previous checkpoint as ``<name>.before``."""
    fresh = path.with_name(f"{path.name}.new")
    save(fresh, content, key, patience=0.0)
    if path.exists():
        os.replace(path, _before(path))
    os.replace(fresh, path)


def load_newest(path: Path, key: str) -> dict[str, Any] | None:
    """Return the newest checkpoint that can be read, or ``None``; rename others to ``<name>.set-aside``."""
    for candidate in (path, _before(path)):
        if candidate.exists():
            try:
                return load(candidate, key)
            except UnusableError as error:
                aside = candidate.with_name(f"{candidate.name}.set-aside")
                log.warning("%s Set aside as %s.", error, aside.name)
                with contextlib.suppress(FileNotFoundError):  # another worker has renamed it
                    os.replace(candidate, aside)
    return None


def remove_newest(path: Path) -> None:
    """Remove what :func:`save_newest` wrote."""
    for candidate in (path, _before(path), path.with_name(f"{path.name}.new")):
        candidate.unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")

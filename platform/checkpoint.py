"""Checkpoints: written beside and renamed, verified when read, of a known format."""

import errno
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from eman.platform.errors import UserError

#: Raised by one whenever the layout of a checkpoint changes.
FORMAT = 1

#: What the system says when there is no room for a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger("eman")


class DamagedError(UserError):
    """A checkpoint that cannot be read whole."""


def save(path: Path, content: dict[str, Any], key: str, *, patience: float = 120.0) -> None:
    """Writes a checkpoint so that a reader sees the old file or the whole new one, never a part.

    It is an ordinary PyTorch file with a digest of its content in it.

    Args:
        path: Where; its folder is made if need be.
        content: Tensors and plain values.
        key: Key of the run, checked again by :func:`load`.
        patience: Seconds to wait while the disk is full.

    Raises:
        OSError: It could not be written; what was there before still is.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _write(path, content, key)
        except (OSError, RuntimeError) as error:  # PyTorch's writer raises RuntimeError over the OSError below it
            cause = _os_error(error)
            if cause is None or cause.errno not in _FULL or time.monotonic() > deadline:
                raise
            log.warning("%s; waiting to write %s", cause.strerror, path.name)
            time.sleep(1.0)


def _os_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _write(path: Path, content: dict[str, Any], key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, "key": key, "digest": digest(content), "content": content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: Path, key: str) -> dict[str, Any]:
    """Reads a checkpoint of the run ``key``.

    Raises:
        DamagedError: It is missing, truncated or altered.
        UserError: It is of a newer format, or another run's.
    """
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
        written, owner, content = found["format"], found["key"], found.get("content")
    except FileNotFoundError:
        raise DamagedError(f"there is no checkpoint {path}; train the run first.") from None
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise DamagedError(
            f"checkpoint {path} is damaged ({type(error).__name__}); delete it and run again."
        ) from error
    if written > FORMAT:
        raise UserError(
            f"checkpoint {path} has format {written}, and this version reads up to {FORMAT}; update eman, or "
            f"choose another EMAN_HOME."
        )
    if owner != key:
        raise UserError(f"checkpoint {path} belongs to run {owner}, not to {key}; choose another folder.")
    if digest(content) != found["digest"]:
        raise DamagedError(f"checkpoint {path} is damaged (its digest differs); delete it and run again.")
    return dict(content)


def save_newest(path: Path, content: dict[str, Any], key: str) -> None:
    """Like :func:`save`, keeping the one before as ``<name>.before``."""
    fresh = path.with_name(f"{path.name}.new")
    save(fresh, content, key, patience=0.0)
    if path.exists():
        os.replace(path, _before(path))
    os.replace(fresh, path)


def load_newest(path: Path, key: str) -> dict[str, Any] | None:
    """The newest whole checkpoint, or the one before it with a warning, or ``None`` where there is none.

    Raises:
        UserError: One is of a newer format, or another run's; nothing may be overwritten then.
    """
    for candidate in (path, _before(path)):
        if candidate.exists():
            try:
                return load(candidate, key)
            except DamagedError as error:
                log.warning("%s Taking the one before it, if there is one.", error)
    return None


def remove_newest(path: Path) -> None:
    """Removes what :func:`save_newest` wrote."""
    for candidate in (path, _before(path), path.with_name(f"{path.name}.new")):
        candidate.unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


def digest(content: Any) -> str:
    """SHA-256 over every value of a nested state, with its place and type."""
    total = hashlib.sha256()
    for place, value in _leaves(content, ""):
        total.update(place.encode())
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            total.update(f"{value.dtype}{tuple(value.shape)}".encode())
            total.update(flat.view(torch.uint8).numpy().tobytes())
        else:
            total.update(repr(value).encode())
    return total.hexdigest()


def _leaves(content: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _leaves(value, f"{place}/{name}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _leaves(value, f"{place}/{number}")
    else:
        yield place, content

"""Checkpoints: replaced atomically, verified on reading, with a format version."""

import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from eman.platform.errors import UserError
from eman.platform.output import atomic_path

#: Version of the layout; increment it with every change.
FORMAT = 1

#: Error numbers of a disk, a quota or a file-size limit that is exhausted.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger("eman")


class DamagedError(UserError):
    """A checkpoint that is missing, truncated or altered."""


class ForeignError(UserError):
    """A file that is not a checkpoint of this run."""


class NewerError(UserError):
    """A checkpoint written by a newer version, which is never overwritten or renamed."""


class DiskFullError(UserError, OSError):
    """The disk is too full to write a checkpoint."""


def save(path: Path, content: dict[str, Any], key: str, *, patience: float = 120.0) -> None:
    """Replace a checkpoint atomically by a PyTorch file that includes a digest of its content.

    Args:
        path: The file; its folder is created if needed.
        content: Tensors and plain values.
        key: Key of the run, which :func:`load` checks.
        patience: Seconds to wait for space on a full disk.

    Raises:
        DiskFullError: The disk stayed full; the previous file is kept.
        OSError: Writing failed otherwise; the previous file is kept.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _write(path, content, key)
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


class _ErrorRecorder:
    """A file that keeps the error of a failed write, which PyTorch hides behind its own ("unexpected pos 64")."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _write(path: Path, content: dict[str, Any], key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"format": FORMAT, "key": key, "digest": digest(content), "content": content}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        recorder: Any = _ErrorRecorder(file)
        try:
            torch.save(whole, recorder)
        except Exception as error:
            raise recorder.error or error from error
        file.flush()
        os.fsync(file.fileno())


def load(path: Path, key: str, *, fields: Iterable[str] = ()) -> dict[str, Any]:
    """Read a checkpoint of the run ``key``.

    Args:
        path: The file.
        key: Key of the run.
        fields: Names that its content must have.

    Raises:
        DamagedError: It is missing, truncated or altered.
        ForeignError: It belongs to another run, or is not a checkpoint.
        NewerError: It has a newer format.
    """
    try:
        whole = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise DamagedError(f"there is no checkpoint {path}; train the run first.") from None
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise DamagedError(
            f"checkpoint {path} is damaged ({type(error).__name__}); delete it and run again."
        ) from error
    written = whole.get("format") if isinstance(whole, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise NewerError(
            f"checkpoint {path} has format {written}, and this version reads up to {FORMAT}; update eman, or choose "
            f"another EMAN_HOME."
        )
    if not isinstance(written, int) or not {"key", "digest"} <= whole.keys():
        raise ForeignError(f"{path} is not a checkpoint of eman; choose another folder, or delete it and run again.")
    if whole["key"] != key:
        raise ForeignError(f"checkpoint {path} belongs to run {whole['key']}, not to {key}; choose another folder.")
    content = whole.get("content")
    if digest(content) != whole["digest"] or not isinstance(content, dict):
        raise DamagedError(f"checkpoint {path} is damaged (its digest differs); delete it and run again.")
    lacking = set(fields) - content.keys()
    if lacking:
        raise ForeignError(f"checkpoint {path} lacks {', '.join(sorted(lacking))}; delete it and run again.")
    return dict(content)


def save_newest(path: Path, content: dict[str, Any], key: str) -> None:
    """Save without waiting for disk space, and keep the previous checkpoint as ``<name>.before``."""
    fresh = path.with_name(f"{path.name}.new")
    save(fresh, content, key, patience=0.0)
    if path.exists():
        os.replace(path, _before(path))
    os.replace(fresh, path)


def load_newest(path: Path, key: str) -> dict[str, Any] | None:
    """Return the newest checkpoint that can be read, or ``None``.

    Damaged checkpoints, and those of other runs, are renamed to ``<name>.set-aside`` with a warning.

    Raises:
        NewerError: A checkpoint has a newer format and must not be overwritten.
    """
    for candidate in (path, _before(path)):
        if candidate.exists():
            try:
                return load(candidate, key)
            except (DamagedError, ForeignError) as error:
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


def digest(content: Any) -> str:
    """Return the SHA-256 of every value of a nested state, with its path and type."""
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

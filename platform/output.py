"""Write output files and folders atomically, reject bad paths early, and lock files."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eman.platform.errors import UserError


def check_output(path: Path, *, flag: str = "--out") -> None:
    """Raise :class:`UserError` unless a file can be written to the path that an option gave."""
    if not path.name:
        raise UserError(f"{flag} {str(path)!r} names no file; give a file's name.")
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder; give a file's name in it.")
    _check_parent(path, flag)


def _check_parent(path: Path, flag: str) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {parent}; create it first.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: {parent} is not writable; give another folder.")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and rename it to ``path`` if the block succeeds."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def output_file(path: Path, *, flag: str = "--out") -> Iterator[Path]:
    """Like :func:`atomic_path`; raise :class:`UserError` if the path is bad, or writing fails."""
    check_output(path, flag=flag)
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"{flag} {path} could not be written ({error.strerror or error}).") from error


@contextmanager
def output_folder(path: Path, *, flag: str = "--out") -> Iterator[Path]:
    """Yield a temporary path for a folder, which the block creates, and rename it to ``path`` if the block succeeds.

    Folders, unlike files, are never replaced.
    """
    if not path.name:
        raise UserError(f"{flag} {str(path)!r} names no folder; give a new folder's name.")
    if path.exists():
        raise UserError(f"{path} exists, and a folder is never replaced; remove it, or give another name.")
    _check_parent(path, flag)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a file and yield whether that succeeded. The kernel releases the lock when the process dies.

    Args:
        path: The file; created with its folder if needed.
        wait: Wait while another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give a writable --home.") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
            return
        yield True

"""File locks between processes on one machine."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from eman.platform.errors import UserError


@contextlib.contextmanager
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

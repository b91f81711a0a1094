"""A least-recently-used cache: a folder of limited size with local copies of stored files, named by digest.

Several processes may share it. A process that has a copy open can read it to the end, even if it is removed meanwhile.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eman.platform.output import atomic_path, locked

#: Temporary files older than this many seconds belong to a process that was killed.
_STALE_SECONDS = 3600.0


@dataclass(frozen=True)
class Cache:
    """A folder of copies.

    Attributes:
        folder: The folder; created at first use.
        bound: Largest total size in bytes. A larger file is copied, returned open, and removed at once.
    """

    folder: Path
    bound: int

    def find(self, digest: str) -> BinaryIO | None:
        """Return the open copy of this digest, or ``None``."""
        path = self.folder / digest
        try:
            found = path.open("rb")
        except FileNotFoundError:
            return None
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            os.utime(path)  # mark it as the most recently used
        return found

    def add(self, digest: str, size: int, write: Callable[[BinaryIO], object]) -> BinaryIO:
        """Make room for ``size`` bytes, let ``write`` fill a copy, and return it open for reading."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shrink(size)
        with atomic_path(self.folder / digest) as temporary:
            with temporary.open("wb") as file:
                write(file)
            copy = temporary.open("rb")
        self._shrink()
        return copy

    def drop(self, digest: str) -> None:
        """Remove a copy, for example a damaged one."""
        (self.folder / digest).unlink(missing_ok=True)

    def _shrink(self, room: int = 0) -> None:
        """Remove the least recently used copies until ``room`` bytes are free below the bound."""
        with locked(self.folder / ".lock", wait=True):
            copies = []
            for entry in os.scandir(self.folder):
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # a temporary file that has just become a copy
                    continue
                if not entry.name.startswith(".") or (
                    entry.name != ".lock" and stat.st_mtime < time.time() - _STALE_SECONDS
                ):
                    copies.append((stat.st_mtime_ns, entry.path, stat.st_size))
            excess = sum(size for _, _, size in copies) + room - self.bound
            for _, path, size in sorted(copies):
                if excess <= 0:
                    break
                Path(path).unlink(missing_ok=True)
                excess -= size

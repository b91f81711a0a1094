"""Files by URI: this machine's disk, S3, GCS, or anything else that fsspec opens.

S3 reads credentials and region from the usual places (environment, ``~/.aws``), and the endpoint of other servers from
``AWS_ENDPOINT_URL``. GCS uses application default credentials, or none if ``STORAGE_EMULATOR_HOST`` is set.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from eman.platform.cache import Cache
from eman.platform.errors import UserError, first_line
from eman.platform.output import atomic_path

#: Seconds during which requests to GCS are repeated.
_GCS_SECONDS = 10

#: Error numbers of a disk, a quota or a file-size limit that is exhausted.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")
log = logging.getLogger("eman")


class StorageError(UserError, OSError):
    """Storage that cannot be reached, read or written."""


class MissingError(StorageError, FileNotFoundError):
    """A file that does not exist."""


class DiskFullError(StorageError):
    """A disk that is too full to write a file."""


class Stat(NamedTuple):
    """A file below a folder: relative path, size in bytes, and time of the last change in seconds since the epoch."""

    name: str
    size: int
    changed: float


@dataclass(frozen=True)
class Place:
    """A folder or file by URI or path. ``/`` joins names to it.

    All methods raise :class:`StorageError` if the storage cannot be reached.

    Attributes:
        uri: The URI or path.
        patience: Seconds to wait for object storage that does not answer, or for space on a full disk.
        cache: Local copies of :mod:`sealed <eman.platform.sealed>` files, for a remote URI.
    """

    uri: str
    patience: float = 0.0
    cache: Cache | None = None

    def __truediv__(self, name: str) -> "Place":
        return replace(self, uri=f"{self.uri.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.uri.rstrip("/").rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """The local path; ``None`` for a remote URI."""
        return None if "://" in self.uri else Path(self.uri).expanduser()

    @property
    def _opened(self) -> tuple[Any, str]:
        """PyArrow's file system, and the path in it."""
        scheme, separator, rest = self.uri.partition("://")
        if not separator:
            return _filesystem("", ""), str(Path(self.uri).expanduser().absolute())
        return _filesystem(scheme, rest.partition("/")[0]), self.uri if scheme not in ("s3", "gs", "gcs") else rest

    # Folders ----------------------------------------------------------------------------------------------------------

    def stats(self) -> list[Stat]:
        """Return all files below this folder, sorted by relative path."""
        from pyarrow import fs

        def call() -> tuple[Any, int]:
            system, path = self._opened
            return system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True)), len(path)

        entries, base = self.with_retries(call)
        found = (Stat(e.path[base:].lstrip("/"), e.size, (e.mtime_ns or 0) / 1e9) for e in entries if e.is_file)
        return sorted(found)

    def files(self) -> list[tuple[str, int]]:
        """Return the relative paths of all files below this folder with their sizes in bytes, sorted."""
        return [(stat.name, stat.size) for stat in self.stats()]

    def folders(self) -> list[str]:
        """Return the names of the folders in this one, sorted."""
        names = {entry.base_name for entry in self._entries() if entry.type.name == "Directory"}
        if not names and self.local is None:  # some object stores list objects only
            names = {name.partition("/")[0] for name, _ in self.files() if "/" in name}
        return sorted(names)

    def names(self) -> list[str]:
        """Return the names of the files in this folder, sorted; none if it does not exist."""
        if self.local is not None:
            return sorted(path.name for path in self.local.iterdir() if path.is_file()) if self.local.is_dir() else []
        return sorted(entry.base_name for entry in self._entries() if entry.is_file)

    def _entries(self) -> Any:
        """Return PyArrow's descriptions of the files and folders in this folder; none if it does not exist."""
        from pyarrow import fs

        def call() -> Any:
            system, path = self._opened
            return system.get_file_info(fs.FileSelector(path, allow_not_found=True))

        return self.with_retries(call)

    def remove_folder(self) -> None:
        """Remove this folder with everything in it, if it exists."""
        if self.local is not None:
            shutil.rmtree(self.local, ignore_errors=True)
            return

        def call() -> None:
            system, path = self._opened
            system.delete_dir(path)

        if self.exists():
            self.with_retries(call, "removed")

    # Files ------------------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether a file or folder exists."""
        if self.local is not None:
            return self.local.exists()
        from pyarrow import fs

        def call() -> bool:
            system, path = self._opened
            return bool(system.get_file_info(path).type != fs.FileType.NotFound)

        return self.with_retries(call)

    def read(self) -> bytes:
        """Return the whole file."""

        def call() -> bytes:
            with self.open() as stream:
                return bytes(stream.read())

        return self.with_retries(call)

    def open(self) -> Any:
        """Return PyArrow's random-access file."""
        system, path = self._opened
        return system.open_input_file(path)

    def write(self, *parts: bytes | memoryview) -> None:
        """Write a file of these parts atomically.

        Raises:
            DiskFullError: The disk is full. The file that was there stays.
        """

        def call() -> None:
            if self.local is not None:
                _write_local(self.local, parts)
                return
            system, path = self._opened
            with system.open_output_stream(path) as stream:  # object stores publish a file when it is closed
                for part in parts:
                    stream.write(part)

        self.with_retries(call, "written")

    def remove(self) -> None:
        """Remove this file, if it exists."""

        def call() -> None:
            if self.local is not None:
                self.local.unlink(missing_ok=True)
                return
            system, path = self._opened
            with contextlib.suppress(FileNotFoundError):
                system.delete_file(path)

        self.with_retries(call, "removed")

    def copy(self, name: str) -> None:
        """Copy this file within its folder; on this machine's disk, make a hard link."""

        def call() -> None:
            if self.local is not None:
                with atomic_path(self.local.with_name(name)) as temporary:
                    temporary.hardlink_to(self.local)
                return
            system, path = self._opened
            system.copy_file(path, f"{path.rpartition('/')[0]}/{name}")

        self.with_retries(call, "copied")

    def move(self, name: str) -> None:
        """Rename this file within its folder."""

        def call() -> None:
            if self.local is not None:
                self.local.replace(self.local.with_name(name))
                return
            system, path = self._opened
            system.move(path, f"{path.rpartition('/')[0]}/{name}")

        self.with_retries(call, "renamed")

    def with_retries(self, call: Callable[[], T], action: str = "reached") -> T:
        """Return a call's result, retrying for up to ``patience`` seconds while storage does not answer or is full.

        ``action`` completes the error message: written, removed, copied, ...

        Raises:
            MissingError: There is no such file.
            DiskFullError: The disk is full.
            StorageError: The storage cannot be reached, or refuses.
        """
        deadline, pause = time.monotonic() + self.patience, 0.5
        while True:
            try:
                return call()
            except FileNotFoundError as error:
                raise MissingError(_explanation(self, action, error)) from error
            except (OSError, ImportError, ValueError) as error:
                full = getattr(error, "errno", None) in _DISK_FULL
                wrong = (self.local is not None and not full) or not isinstance(error, OSError)
                if wrong or time.monotonic() >= deadline:
                    kind = DiskFullError if full else StorageError
                    raise kind(_explanation(self, action, error)) from error
                log.warning("%s cannot be %s (%s); retrying", self, action, first_line(error))
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def _write_local(target: Path, parts: Iterable[bytes | memoryview]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _explanation(place: Place, action: str, error: Exception) -> str:
    if getattr(error, "errno", None) in _DISK_FULL:
        return (
            f"the disk is full: {place} could not be written ({first_line(error)}); make room, then repeat the command."
        )
    return (
        f"{place} cannot be {action} ({first_line(error)}); check that it exists, that this machine may read and write "
        f"it, the network and the credentials."
    )


@lru_cache(maxsize=16)
def _filesystem(scheme: str, bucket: str) -> Any:
    from pyarrow import fs

    if not scheme:
        return fs.LocalFileSystem()
    if scheme == "s3":
        return fs.FileSystem.from_uri(f"s3://{bucket}")[0]
    if scheme in ("gs", "gcs"):
        protocol, _, host = os.environ.get("STORAGE_EMULATOR_HOST", "").rpartition("://")
        user, emulator = ("anonymous@", f"&scheme={protocol or 'http'}&endpoint_override={host}") if host else ("", "")
        return fs.FileSystem.from_uri(f"gs://{user}{bucket}?retry_limit_seconds={_GCS_SECONDS}{emulator}")[0]
    import fsspec

    return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))

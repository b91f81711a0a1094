"""Files by URI: this machine's disk, S3, GCS, or anything else that fsspec opens.

S3 reads credentials and region from the usual places (environment, ``~/.aws``), and the endpoint of other servers from
``AWS_ENDPOINT_URL``. GCS uses application default credentials, or none if ``STORAGE_EMULATOR_HOST`` is set.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from eman.platform.errors import UserError, first_line
from eman.platform.output import atomic_path

#: Seconds during which requests to GCS are repeated.
PATIENCE = 10


@dataclass(frozen=True)
class Place:
    """A folder or file by URI or path. ``/`` joins names to it."""

    uri: str

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.uri.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.uri

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

    def files(self) -> list[tuple[str, int]]:
        """Return the relative paths of all files below this folder with their sizes in bytes, sorted.

        Like all methods, it raises :class:`UserError` if the storage cannot be reached.
        """
        from pyarrow import fs

        system, path = self._opened
        with _explained(self):
            entries = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        base = len(path.rstrip("/")) + 1
        return sorted((entry.path[base:], entry.size) for entry in entries if entry.is_file)

    def folders(self) -> list[str]:
        """Return the names of the folders in this one, sorted."""
        from pyarrow import fs

        system, path = self._opened
        with _explained(self):
            entries = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        names = {entry.base_name for entry in entries if entry.type == fs.FileType.Directory}
        if not names and self.local is None:  # some object stores list objects only
            names = {name.partition("/")[0] for name, _ in self.files() if "/" in name}
        return sorted(names)

    def exists(self) -> bool:
        """Return whether a file or folder exists."""
        from pyarrow import fs

        system, path = self._opened
        with _explained(self):
            return bool(system.get_file_info(path).type != fs.FileType.NotFound)

    def read(self) -> bytes:
        """Return the whole file."""
        with _explained(self), self.open() as stream:
            return bytes(stream.read())

    def open(self) -> Any:
        """Return PyArrow's random-access file."""
        system, path = self._opened
        return system.open_input_file(path)

    def write(self, content: bytes) -> None:
        """Write a file atomically."""
        with _explained(self, "written"):
            system, path = self._opened
            if self.local is None:  # object stores publish a file when it is closed
                with system.open_output_stream(path) as stream:
                    stream.write(content)
                return
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                temporary.write_bytes(content)


@contextmanager
def _explained(place: Place, deed: str = "reached") -> Iterator[None]:
    """Turn errors of a file system into a :class:`UserError`."""
    try:
        yield
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"{place} cannot be {deed} ({first_line(error)}); check that it exists, that this machine may read and "
            f"write it, the network and the credentials."
        ) from error


@lru_cache(maxsize=16)
def _filesystem(scheme: str, bucket: str) -> Any:
    from pyarrow import fs

    with _explained(Place(f"{scheme}://{bucket}")):
        if not scheme:
            return fs.LocalFileSystem()
        if scheme == "s3":
            return fs.FileSystem.from_uri(f"s3://{bucket}")[0]
        if scheme in ("gs", "gcs"):
            protocol, _, host = os.environ.get("STORAGE_EMULATOR_HOST", "").rpartition("://")
            user, emulator = (
                ("anonymous@", f"&scheme={protocol or 'http'}&endpoint_override={host}") if host else ("", "")
            )
            return fs.FileSystem.from_uri(f"gs://{user}{bucket}?retry_limit_seconds={PATIENCE}{emulator}")[0]
        import fsspec

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))

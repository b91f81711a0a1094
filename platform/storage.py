"""Files by URI: this machine's disk, S3, GCS, or anything else that fsspec opens.

S3 takes credentials and region from the usual places (environment, ``~/.aws``), and the server of a store that is not
Amazon's from ``AWS_ENDPOINT_URL``. GCS takes application default credentials, and none where ``STORAGE_EMULATOR_HOST``
names the server.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from eman.platform.errors import UserError, first_line
from eman.platform.output import replacing

#: Seconds to wait for a server that does not answer.
PATIENCE = 10.0


@dataclass(frozen=True)
class Place:
    """A folder or a file, by URI or path; ``/`` goes into a folder."""

    uri: str

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.uri.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.uri

    @property
    def local(self) -> Path | None:
        """The path, if it is on this machine's disk."""
        return None if "://" in self.uri else Path(self.uri).expanduser()

    @property
    def _opened(self) -> tuple[Any, str]:
        """PyArrow's file system, and the path in it."""
        scheme, found, rest = self.uri.partition("://")
        if not found:
            return _filesystem("", ""), str(Path(self.uri).expanduser().absolute())
        return _filesystem(scheme, rest.partition("/")[0]), self.uri if scheme not in ("s3", "gs", "gcs") else rest

    def files(self) -> list[tuple[str, int]]:
        """Return paths below this folder, relative to it, with sizes in bytes, sorted; none where nothing is.

        Raises:
            UserError: The store does not answer.
        """
        from pyarrow import fs

        system, path = self._opened
        with _explained(self):
            found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        base = len(path.rstrip("/")) + 1
        return sorted((f.path[base:], f.size) for f in found if f.is_file)

    def folders(self) -> list[str]:
        """Names of the folders in this one, sorted; empty where nothing is.

        Raises:
            UserError: The store does not answer.
        """
        from pyarrow import fs

        system, path = self._opened
        with _explained(self):
            entries = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(entry.base_name for entry in entries if entry.type == fs.FileType.Directory)

    def is_there(self) -> bool:
        """Whether there is a file or a folder; raises :class:`UserError` if the store does not answer."""
        from pyarrow import fs

        system, path = self._opened
        with _explained(self):
            return bool(system.get_file_info(path).type != fs.FileType.NotFound)

    def exists(self) -> bool:
        """Return whether there is a file; raise :class:`UserError` if the store does not answer."""
        system, path = self._opened
        with _explained(self):
            return bool(system.get_file_info(path).is_file)

    def read(self) -> bytes:
        """Return the whole file; raise :class:`UserError` if it cannot be read."""
        with _explained(self), self.open() as stream:
            return bytes(stream.read())

    def open(self) -> Any:
        """Return PyArrow's random-access file."""
        system, path = self._opened
        return system.open_input_file(path)

    def write(self, content: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            UserError: The store does not answer, or the disk is full.
        """
        with _explained(self):
            system, path = self._opened
            if self.local is None:  # object stores show a file when it is closed
                with system.open_output_stream(path) as stream:
                    stream.write(content)
                return
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary:
                temporary.write_bytes(content)


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """Turn what a file system raises into one line."""
    try:
        yield
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"{place} cannot be reached ({first_line(error)}); check that it exists, that this machine may read and "
            f"write it, the network and the credentials."
        ) from error


@lru_cache(maxsize=16)
def _filesystem(scheme: str, bucket: str) -> Any:
    from pyarrow import fs

    if not scheme:
        return fs.LocalFileSystem()
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region is None and endpoint is None:
            with _explained(Place(f"s3://{bucket}")):
                region = fs.resolve_s3_region(bucket)
        return fs.S3FileSystem(
            region=region or "us-east-1",
            endpoint_override=endpoint,
            connect_timeout=PATIENCE,
            request_timeout=3 * PATIENCE,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )
    if scheme in ("gs", "gcs"):
        from datetime import timedelta

        patience = timedelta(seconds=PATIENCE)
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        if emulator:
            protocol, _, host = emulator.rpartition("://")
            return fs.GcsFileSystem(
                anonymous=True, scheme=protocol or "http", endpoint_override=host, retry_time_limit=patience
            )
        return fs.GcsFileSystem(retry_time_limit=patience)
    import fsspec

    with _explained(Place(f"{scheme}://")):
        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))

"""Sealed files: they end with the digest of their content, are written atomically, and are verified when read.

Zip files, such as PyTorch's, allow trailing bytes, so other programs can read them too. Files in object storage are
read through a local cache.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from eman.platform.cache import Cache
from eman.platform.errors import UserError
from eman.platform.storage import Place

#: Mark before the hexadecimal SHA-256 digest, and the length of both in bytes.
_MARK, _BYTES = b"\neman-sha256:", 13 + 64

log = logging.getLogger("eman")


class DamagedError(UserError):
    """A file whose content is not what was written."""


class UnsealedError(UserError):
    """A file without a digest: it was cut off, or another program wrote it."""


def write_sealed(place: Place, content: bytes | memoryview) -> None:
    """Write a file atomically, with the digest of its content at its end.

    Raises:
        DiskFullError: The disk is full. The file that was there stays.
        StorageError: The storage cannot be reached.
    """
    digest = hashlib.sha256(content).hexdigest()
    parts = content, _MARK + digest.encode()
    place.write(*parts)
    if place.cache is not None:
        place.cache.add(digest, len(content) + _BYTES, lambda file: file.writelines(parts)).close()


@contextmanager
def open_sealed(place: Place) -> Iterator[BinaryIO]:
    """Yield a sealed file, verified and open at its start; of a remote one, a local copy.

    Raises:
        MissingError: There is no such file.
        DamagedError: Its content is not what was written.
        UnsealedError: It has no digest.
        StorageError: The storage cannot be reached.
    """
    local, cache = place.local, place.cache
    if local is not None:
        with place.with_retries(lambda: local.open("rb")) as file:
            _verify(file, place)
            yield file
        return
    if cache is None:
        raise ValueError(f"{place} needs a cache for local copies")
    with place.with_retries(lambda: _local_copy(place, cache)) as file:
        yield file


def _local_copy(place: Place, cache: Cache) -> BinaryIO:
    """Return the verified local copy of a remote file; make it if there is none."""
    with place.open() as stream:
        size = stream.size()
        stream.seek(max(0, size - _BYTES))
        digest = _digest_in(bytes(stream.read()))
        if digest is None:
            raise UnsealedError(f"{place} has no digest.")
        copy = cache.find(digest)
        if copy is not None:
            try:
                return _verified(copy, place, cache, digest)
            except (DamagedError, UnsealedError):
                log.warning("the local copy of %s is damaged; reading it again", place)
        stream.seek(0)
        copy = cache.add(digest, size, lambda file: _transfer(stream, file))
    return _verified(copy, place, cache, digest)


def _verified(copy: BinaryIO, place: Place, cache: Cache, digest: str) -> BinaryIO:
    try:
        _verify(copy, place)
    except UserError:
        copy.close()
        cache.drop(digest)
        raise
    return copy


def _verify(file: BinaryIO, place: Place) -> None:
    """Compare a file with the digest at its end, and return to its start."""
    left = file.seek(0, os.SEEK_END) - _BYTES
    file.seek(max(0, left))
    expected = _digest_in(file.read())
    if expected is None:
        raise UnsealedError(f"{place} has no digest.")
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    file.seek(0)
    if digest.hexdigest() != expected:
        raise DamagedError(f"{place} is damaged.")


def _digest_in(end: bytes) -> str | None:
    """Return the digest in a file's last bytes; ``None`` if it is not sealed."""
    found = re.fullmatch(re.escape(_MARK) + rb"([0-9a-f]{64})", end)
    return found[1].decode() if found else None


def _transfer(stream: Any, file: BinaryIO) -> None:
    while part := stream.read(8 << 20):
        file.write(part)

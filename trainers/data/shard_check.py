"""Describe and verify shards."""

import hashlib
from collections.abc import Iterator
from typing import Any

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.trainers.data import shards
from eman.trainers.data.decode import decode as decode_images


def info(place: Place) -> Iterator[str]:
    """Yield lines that describe a folder of shards."""
    content = shards.manifest(place)
    yield f"{place}: {content['name']}, {len(content['classes']):,} classes, hash {content['hash']}"
    for split, about in content["splits"].items():
        size = " x ".join(str(n) for n in about["size"]) + " pixels" if about["size"] else "several sizes"
        groups = sum(len(record["groups"]) for record in about["shards"])
        total = sum(record["bytes"] for record in about["shards"])
        yield (
            f"{split:<6}{about['rows']:,} images of {content['channels']} channels, {size}; {total / 2**20:,.1f} MiB "
            f"in {len(about['shards']):,} shards of {groups:,} row groups"
        )
    names = ", ".join(content["classes"][:5])
    yield f"classes {names}{', ...' if len(content['classes']) > 5 else ''}"


def verify(place: Place, *, decode: bool = False) -> Iterator[str]:
    """Compare the number of rows and the checksum of every shard with the manifest, and yield a line each.

    Args:
        place: Folder of shards.
        decode: Also decode every image.
    """
    content = shards.manifest(place)
    corrupt: list[str] = []
    for split, about in content["splits"].items():
        for record in about["shards"]:
            file, digest, rows = place / record["file"], hashlib.sha256(), 0
            for row in _rows(file):
                shards.add_to_digest(digest, row["index"], row["label"], row["image"])
                rows += 1
                if decode and decode_images([row["image"]], content["channels"])[1]:
                    corrupt.append(f"{split} image {row['index']}")
            if rows != record["rows"] or digest.hexdigest() != record["digest"]:
                raise UserError(shards.damaged(file, f"has other content than when it was written ({rows:,} rows)"))
            yield f"{record['file']}: {rows:,} images, checksum right"
    if corrupt:
        more = f" and {len(corrupt) - 20} more" if len(corrupt) > 20 else ""
        raise UserError(f"{len(corrupt)} images cannot be decoded: {', '.join(corrupt[:20])}{more}.")


def _rows(file: Place) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open() as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(shards.damaged(file, f"cannot be read ({str(error)[:120]})")) from error

"""Describe and verify shards."""

from collections.abc import Iterator

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
    """Read every shard, compare its checksums, and its number of rows with the manifest; yield a line each.

    Args:
        place: Folder of shards.
        decode: Also decode every image.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = shards.manifest(place)
    corrupt: list[str] = []
    for split, about in content["splits"].items():
        for record in about["shards"]:
            file, rows = place / record["file"], 0
            try:
                with file.open() as stream:
                    for batch in pq.ParquetFile(stream, page_checksum_verification=True).iter_batches(batch_size=256):
                        rows += batch.num_rows
                        if decode:
                            bad = decode_images(batch["image"].to_pylist(), content["channels"])[1]
                            corrupt += [f"{split} image {batch['index'][row]}" for row in bad]
            except (OSError, pa.ArrowException) as error:
                raise UserError(shards.damaged(file, f"cannot be read ({str(error)[:120]})")) from error
            if rows != record["rows"]:
                raise UserError(shards.damaged(file, f"has {rows:,} rows instead of {record['rows']:,}"))
            yield f"{record['file']}: {rows:,} images, checksums right"
    if corrupt:
        more = f" and {len(corrupt) - 20} more" if len(corrupt) > 20 else ""
        raise UserError(f"{len(corrupt)} images cannot be decoded: {', '.join(corrupt[:20])}{more}.")

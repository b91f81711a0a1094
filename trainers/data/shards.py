"""Read, describe and verify Parquet shards.

A folder holds ``train/part-00000.parquet`` and so on, ``test/...``, and ``manifest.json``, which is written last:
without it shards are incomplete. A row holds an image's ``index`` in ImageFolder's order, its ``label`` (a list if
images have several classes), its encoded bytes (``image``), their number (``size``), ``height`` and ``width``.

Rows are in random order, so any row group is a sample of all classes. An epoch's order then only needs to shuffle row
groups, and rows among a few groups (:func:`eman.trainers.data.order.grouped_order`). The images of a group are one
uncompressed page, so their positions follow from their sizes: single rows can be read like files, and neighbours
together.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.trainers.data.layout import MANIFEST

#: Version of the layout; raise it when the layout changes. Other versions are not read.
LAYOUT = 1

#: Column of the image; largest gap in bytes to read through rather than to skip.
_IMAGE, _GAP = 2, 1 << 16

Array = np.ndarray[Any, Any]


def manifest(place: Place, name: str | None = None) -> dict[str, Any]:
    """Return the manifest of a folder of shards of the data set ``name``; ``None`` skips that check.

    Raises:
        UserError: It is missing or damaged, or has another layout or name.
    """
    if not (place / MANIFEST).exists():
        if any(path.endswith(".parquet") for path, _ in place.files()):
            raise UserError(
                f"{place} is half-written: its shards have no {MANIFEST}; run the same `eman data shard` command "
                f"again, which goes on where it stopped."
            )
        raise UserError(f"{place} holds no shards (there is no {MANIFEST}); `eman data shard` writes some.")
    try:
        content: dict[str, Any] = json.loads((place / MANIFEST).read())
        layout, actual = content["layout"], content["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place / MANIFEST} is damaged; delete it and run `eman data shard` again.") from error
    if layout != LAYOUT:
        raise UserError(
            f"{place} has shards of layout {layout}, and this version reads {LAYOUT}; write them again with "
            f"`eman data shard`, or install the version that wrote them."
        )
    if name is not None and actual != name:
        raise UserError(f"{place} holds shards of {actual!r}, not of {name!r}; name that set, or another folder.")
    return content


@dataclass(frozen=True)
class Rows:
    """Images as rows of shards.

    Attributes:
        root: The folder.
        files: The shards.
        where_N3: int64, location of each image: shard, first byte, number of bytes.
        group_N: int64, row group of each image, numbered over all shards.
    """

    root: Place
    files: tuple[str, ...]
    where_N3: Array
    group_N: Array

    def label(self, place: int) -> str:
        """Return an image's name for messages."""
        shard, first, _ = (int(x) for x in self.where_N3[place])
        return f"{self.root / self.files[shard]} image at byte {first}"

    def encoded(self, places: Array) -> list[bytes]:
        """Return the encoded images at the given indices; read neighbours together."""
        where_N3 = self.where_N3[places]
        out = [b""] * len(where_N3)
        order = np.lexsort((where_N3[:, 1], where_N3[:, 0]))
        shard_N = where_N3[order, 0]
        for shard in np.unique(shard_N):
            with (self.root / self.files[shard]).open() as file:
                for block in _neighbours(order[shard_N == shard], where_N3):
                    first, last = int(where_N3[block[0], 1]), int(where_N3[block[-1], 1:].sum())
                    raw = file.read_at(last - first, first)
                    for row in block:
                        begin = int(where_N3[row, 1]) - first
                        out[row] = raw[begin : begin + int(where_N3[row, 2])]
        return out


def rows_of(content: dict[str, Any], place: Place, split: str) -> tuple[Rows, Array, list[Any]]:
    """Return the rows of a split, their indices in ImageFolder's order, ascending, and their class or classes.

    Raises:
        UserError: A shard is missing or damaged, or its length differs from the manifest's.
    """
    parts, labels, groups = [], list[Any](), 0
    records = content["splits"][split]["shards"]
    for number, record in enumerate(records):
        table, counts, first = _read_shard(place / record["file"])
        if table.num_rows != record["rows"]:
            raise UserError(damaged(place / record["file"], f"has {table.num_rows} rows instead of {record['rows']}"))
        sizes = table["size"].to_numpy().astype(np.int64)
        where = np.stack([np.full_like(sizes, number), first, sizes], 1)
        parts.append((table["index"].to_numpy(), groups + np.repeat(np.arange(len(counts)), counts), where))
        groups += len(counts)
        labels += table["label"].to_pylist()
    index_N, group_N, where_N3 = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(index_N)
    rows = Rows(place, tuple(record["file"] for record in records), where_N3[order], group_N[order])
    return rows, index_N[order], [labels[row] for row in order]


def _read_shard(place: Place) -> tuple[Any, list[int], Array]:
    """Return a shard's columns except the images, the number of rows of each group, and each image's first byte."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with place.open() as stream:
            file = pq.ParquetFile(stream)
            table, about = file.read(columns=["index", "label", "size"]), file.metadata
    except (OSError, pa.ArrowException) as error:
        raise UserError(damaged(place, f"cannot be read ({str(error)[:120]})")) from error
    sizes = table["size"].to_numpy().astype(np.int64)
    counts = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    first, row = np.empty_like(sizes), 0
    for group, count in enumerate(counts):
        rows = slice(row, row + count)
        column = about.row_group(group).column(_IMAGE)
        ends = np.cumsum(sizes[rows] + 4)  # each image follows its length, in four bytes
        start = column.data_page_offset + column.total_compressed_size - ends[-1]  # after the page's header
        first[rows] = start + ends - sizes[rows]
        row = rows.stop
    return table, counts, first


def damaged(place: Place, what: str) -> str:
    """Return the error message for a damaged shard."""
    return f"{place} {what}; delete it and its folder's {MANIFEST}, and run `eman data shard` again."


def _neighbours(rows: Array, where_N3: Array) -> list[Array]:
    """Split rows of a shard, sorted by first byte, at gaps larger than ``_GAP``."""
    first, end = where_N3[rows, 1], where_N3[rows, 1:].sum(1)
    return np.split(rows, np.flatnonzero(first[1:] > end[:-1] + _GAP) + 1)


def info(place: Place) -> Iterator[str]:
    """Yield lines that describe a folder of shards."""
    content = manifest(place)
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

    content = manifest(place)
    corrupt: list[str] = []
    for split, about in content["splits"].items():
        for record in about["shards"]:
            file, rows = place / record["file"], 0
            try:
                with file.open() as stream:
                    for batch in pq.ParquetFile(stream, page_checksum_verification=True).iter_batches(batch_size=256):
                        rows += batch.num_rows
                        if decode:
                            from eman.trainers.data.decode import decode as decode_images  # it imports torch

                            bad = decode_images(batch["image"].to_pylist(), content["channels"])[1]
                            corrupt += [f"{split} image {batch['index'][row]}" for row in bad]
            except (OSError, pa.ArrowException) as error:
                raise UserError(damaged(file, f"cannot be read ({str(error)[:120]})")) from error
            if rows != record["rows"]:
                raise UserError(damaged(file, f"has {rows:,} rows instead of {record['rows']:,}"))
            yield f"{record['file']}: {rows:,} images, checksums right"
    if corrupt:
        more = f" and {len(corrupt) - 20} more" if len(corrupt) > 20 else ""
        raise UserError(f"{len(corrupt)} images cannot be decoded: {', '.join(corrupt[:20])}{more}.")

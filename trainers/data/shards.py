"""Read images from Parquet shards.

A folder holds ``train/part-00000.parquet`` and so on, ``test/...``, and ``manifest.json``, which is written last:
shards without it are half-written. A row is an image as it was given: its place in the set (``index``, in
ImageFolder's order), its ``label`` (a list where an image shows several classes), the encoded bytes (``image``) and
their number (``size``), ``height`` and ``width``.

Rows stand in an order drawn once, so that any row group is a sample of all classes: an epoch's order then only needs to
shuffle groups, and rows among the few groups that are open together (:func:`eman.trainers.data.order.grouped_order`).
A group's images are one uncompressed page, so that the place of each follows from their sizes: a few rows cost no more
to read than a few files, and neighbours are read together.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.trainers.data.layout import MANIFEST

#: Raised when the layout changes; other versions are refused.
LAYOUT = 1

#: The image's column, and bytes between two images that are read along rather than skipped.
_IMAGE, _GAP = 2, 1 << 16

Array = np.ndarray[Any, Any]


def manifest(place: Place, name: str | None = None) -> dict[str, Any]:
    """Return the manifest of a folder of shards.

    Raises:
        UserError: There is none, or it is of another layout or another set.
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
        layout, found = content["layout"], content["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place / MANIFEST} is damaged; delete it and run `eman data shard` again.") from error
    if layout != LAYOUT:
        raise UserError(
            f"{place} has shards of layout {layout}, and this version reads {LAYOUT}; write them anew with "
            f"`eman data shard`, or install the version that wrote them."
        )
    if name is not None and found != name:
        raise UserError(f"{place} holds shards of {found!r}, not of {name!r}; name that set, or another folder.")
    return content


@dataclass(frozen=True)
class Index:
    """Of every row of a split, N in all: its place in the set, its label, its group, and where its image lies.

    Attributes:
        index_N: int64.
        labels: A number each, or a list of them.
        group_N: int64, numbered over all shards.
        where_N3: int64: shard, first byte, bytes.
    """

    index_N: Array
    labels: list[Any]
    group_N: Array
    where_N3: Array


def index_of(content: dict[str, Any], place: Place, split: str) -> Index:
    """Return where the rows of a split lie.

    Raises:
        UserError: A shard is missing or shorter than the manifest says.
    """
    parts, labels, groups = [], list[Any](), 0
    for number, record in enumerate(content["splits"][split]["shards"]):
        table, counts, first = _read_shard(place / record["file"])
        if table.num_rows != record["rows"]:
            raise UserError(damaged(place / record["file"], f"has {table.num_rows} rows instead of {record['rows']}"))
        sizes = table["size"].to_numpy().astype(np.int64)
        where = np.stack([np.full_like(sizes, number), first, sizes], 1)
        parts.append((table["index"].to_numpy(), groups + np.repeat(np.arange(len(counts)), counts), where))
        groups += len(counts)
        labels += table["label"].to_pylist()
    index_N, group_N, where_N3 = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Index(index_N, labels, group_N, where_N3)


def _read_shard(place: Place) -> tuple[Any, list[int], Array]:
    """Return a shard's columns but for the images, the rows of each group, and the first byte of each image."""
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
        ends = np.cumsum(sizes[rows] + 4)  # each image follows its length, four bytes
        start = column.data_page_offset + column.total_compressed_size - ends[-1]  # what precedes is the header
        first[rows] = start + ends - sizes[rows]
        row = rows.stop
    return table, counts, first


def damaged(place: Place, what: str) -> str:
    """Return the message for a shard that has to be written anew."""
    return f"{place} {what}; delete it and its folder's {MANIFEST}, and run `eman data shard` again."


def encoded(place: Place, files: Sequence[str], where_N3: Array) -> list[bytes]:
    """Return the encoded images that lie there; neighbours are read together."""
    out = [b""] * len(where_N3)
    order = np.lexsort((where_N3[:, 1], where_N3[:, 0]))
    shard_N = where_N3[order, 0]
    for shard in np.unique(shard_N):
        with (place / files[shard]).open() as file:
            for block in _neighbours(order[shard_N == shard], where_N3):
                first, last = int(where_N3[block[0], 1]), int(where_N3[block[-1], 1:].sum())
                raw = file.read_at(last - first, first)
                for row in block:
                    begin = int(where_N3[row, 1]) - first
                    out[row] = raw[begin : begin + int(where_N3[row, 2])]
    return out


def _neighbours(rows: Array, where_N3: Array) -> list[Array]:
    """Split rows of one shard, sorted by their first byte, where the gap between two is too wide to read along."""
    first, end = where_N3[rows, 1], where_N3[rows, 1:].sum(1)
    return np.split(rows, np.flatnonzero(first[1:] > end[:-1] + _GAP) + 1)


def add_to_digest(digest: Any, index: int, label: int | list[int], raw: bytes) -> None:
    """Add a row to a shard's digest."""
    digest.update(f"{index} {label} {len(raw)} ".encode())
    digest.update(raw)

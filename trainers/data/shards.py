"""Images in Parquet shards: written once, streamed ever after.

A folder holds ``train/part-00000.parquet`` and so on, ``test/...``, and ``manifest.json``, which is written last:
shards without it are half-written. A row is an image as it was found: its place in the set (``index``, in
ImageFolder's order), its ``label`` (a list where an image shows several classes), the encoded bytes (``image``) and
their number (``size``), ``height`` and ``width``.

Rows stand in an order drawn once, so that any row group is a sample of all classes: an epoch's order then needs to
shuffle groups, and rows among the few groups that are open together (:func:`grouped_order`). A group has about 4 MiB.
Its images are one uncompressed page, so that the place of each follows from their sizes: a few rows cost no more to
read than a few files, and neighbours are read together.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.trainers.data.layout import MANIFEST

#: Raised when the layout changes; other versions are refused.
LAYOUT = 1
GROUP_BYTES, GROUP_ROWS = 4 << 20, 1024

#: The image's column, and bytes between two images that are read along rather than skipped.
_IMAGE, _GAP = 2, 1 << 16

#: Images that may be unreadable before the work stops.
MOST_CORRUPT = 20

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Item:
    """An image to write: its place in the set, its class or classes, and a way to its bytes."""

    index: int
    label: int | list[int]
    name: str
    load: Callable[[], bytes]


@dataclass(frozen=True)
class Set:
    """A data set to write, or what its manifest says. ``size`` is that of all images, or ``None`` where they differ."""

    name: str
    classes: tuple[str, ...]
    hash: str
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    several: bool


def write(
    what: Set,
    splits: dict[str, Sequence[Item]],
    out: Place,
    say: Callable[[str], None],
    *,
    rows: int | None = None,
) -> dict[str, Any]:
    """Writes the shards of all splits that are not there yet, then the manifest.

    Args:
        what: The set.
        splits: Images of each split, in the set's order.
        out: Where to.
        say: Told about progress, a line at a time.
        rows: Images a shard; by default as many as give about 256 MiB.

    Returns:
        The manifest.

    Raises:
        UserError: Another set's shards are there, the store does not answer, or too many images cannot be read.
    """
    if (out / MANIFEST).exists():
        there = manifest(out, what.name)
        if there["hash"] == what.hash:
            say(f"{out} is complete: nothing to write")
            return there
        raise UserError(f"{out} holds shards of other images of {what.name}; give another --out, or delete it.")
    corrupt: list[str] = []
    written: dict[str, Any] = {}
    for split, items in splits.items():
        each = rows or _rows_for(items)
        order = np.random.default_rng(0).permutation(len(items))
        parts = [order[start : start + each] for start in range(0, len(items), each)]
        started, fresh, done, records = time.monotonic(), 0, 0, []
        for number, part in enumerate(parts):
            place = out / split / f"part-{number:05}.parquet"
            identity = hashlib.sha256(f"{LAYOUT} {what.hash} {split} {number} {each}".encode()).hexdigest()
            record = _finished(place, identity)
            if record is None:
                record = _write_part(place, [items[i] for i in part], what, identity, corrupt)
                fresh += len(part)
            done += len(part)
            records.append({"file": f"{split}/{place.uri.rsplit('/', 1)[1]}", **record})
            speed = fresh / max(time.monotonic() - started, 1e-9)
            left = f", {(len(items) - done) / speed:,.0f} s left" if fresh and done < len(items) else ""
            say(f"{split}: {done:,} of {len(items):,} images{left}")
        sizes = {tuple(record.pop("size") or ()) for record in records}
        size = list(sizes.pop()) if len(sizes) == 1 else []
        written[split] = {"rows": len(items), "size": size or None, "shards": records}
    content = {
        "layout": LAYOUT,
        "name": what.name,
        "hash": what.hash,
        "classes": list(what.classes),
        "channels": what.channels,
        "mean": list(what.mean),
        "std": list(what.std),
        "several": what.several,
        "splits": written,
    }
    (out / MANIFEST).write(json.dumps(content, indent=1).encode())
    return content


def _rows_for(items: Sequence[Item]) -> int:
    sample = [len(item.load()) for item in items[:: max(1, len(items) // 16)][:16]]
    return max(256, int((256 << 20) / max(1.0, sum(sample) / max(1, len(sample)))))


def _schema(several: bool) -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("index", pa.int64()),
            ("label", pa.list_(pa.int64()) if several else pa.int64()),
            pa.field("image", pa.binary(), nullable=False),
            ("size", pa.int32()),
            ("height", pa.int32()),
            ("width", pa.int32()),
        ]
    )


def _write_part(place: Place, items: list[Item], what: Set, identity: str, corrupt: list[str]) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    sink, digest = io.BytesIO(), hashlib.sha256()
    schema, groups, sizes, total = _schema(what.several), [], set(), 0
    pending: list[tuple[Any, ...]] = []

    def flush(writer: Any) -> None:
        if pending:
            columns = [list(column) for column in zip(*pending, strict=True)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(pending))
            groups.append(len(pending))
            pending.clear()

    whole = {"compression": "none", "use_dictionary": False, "data_page_size": 1 << 30}
    with pq.ParquetWriter(sink, schema, data_page_version="1.0", write_statistics=["index"], **whole) as writer:
        size_of_group = 0
        for item in items:
            raw = item.load()
            try:
                with Image.open(io.BytesIO(raw)) as image:
                    width, height = image.size
            except Exception as error:  # Pillow raises many kinds
                corrupt.append(f"{item.name} ({error})")
                if len(corrupt) > MOST_CORRUPT:
                    raise UserError(
                        f"{len(corrupt)} images cannot be read: {'; '.join(corrupt)}. Get them anew, then run the same "
                        f"command again: finished shards are kept."
                    ) from error
                width = height = 0
            _add(digest, item.index, item.label, raw)
            sizes.add((height, width))
            total += len(raw)
            size_of_group += len(raw)
            pending.append((item.index, item.label, raw, len(raw), height, width))
            if size_of_group >= GROUP_BYTES or len(pending) >= GROUP_ROWS:
                flush(writer)
                size_of_group = 0
        flush(writer)
        record = {
            "rows": len(items),
            "groups": groups,
            "bytes": total,
            "digest": digest.hexdigest(),
            "size": list(sizes.pop()) if len(sizes) == 1 else None,
        }
        writer.add_key_value_metadata({"eman": json.dumps({"identity": identity, **record})})
    place.write(sink.getvalue())
    return record


def _add(digest: Any, index: int, label: int | list[int], raw: bytes) -> None:
    digest.update(f"{index} {label} {len(raw)} ".encode())
    digest.update(raw)


def _finished(place: Place, identity: str) -> dict[str, Any] | None:
    """What a shard that is already there says of itself, if it is the one that would be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not place.exists():
        return None
    try:
        with place.open() as file:
            found = json.loads(pq.ParquetFile(file).metadata.metadata[b"eman"])
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError):
        return None
    return found if found.pop("identity") == identity else None


def manifest(place: Place, name: str | None = None) -> dict[str, Any]:
    """The manifest of a folder of shards.

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
    """The rows of a split.

    Raises:
        UserError: A shard is missing or shorter than the manifest says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts, labels, groups = [], list[Any](), 0
    for number, record in enumerate(content["splits"][split]["shards"]):
        try:
            with (place / record["file"]).open() as stream:
                file = pq.ParquetFile(stream)
                table, about = file.read(columns=["index", "label", "size"]), file.metadata
        except (OSError, pa.ArrowException) as error:
            raise UserError(_damaged(place / record["file"], f"cannot be read ({str(error)[:120]})")) from error
        if table.num_rows != record["rows"]:
            raise UserError(_damaged(place / record["file"], f"has {table.num_rows} rows instead of {record['rows']}"))
        sizes = table["size"].to_numpy().astype(np.int64)
        first, row = np.empty_like(sizes), 0
        for group in range(about.num_row_groups):
            rows = slice(row, row + about.row_group(group).num_rows)
            column = about.row_group(group).column(_IMAGE)
            ends = np.cumsum(sizes[rows] + 4)  # each image follows its length, four bytes
            start = column.data_page_offset + column.total_compressed_size - ends[-1]  # what precedes is the header
            first[rows] = start + ends - sizes[rows]
            row = rows.stop
        counts = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        where = np.stack([np.full_like(sizes, number), first, sizes], 1)
        parts.append((table["index"].to_numpy(), groups + np.repeat(np.arange(len(counts)), counts), where))
        groups += len(counts)
        labels += table["label"].to_pylist()
    index_N, group_N, where_N3 = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Index(index_N, labels, group_N, where_N3)


def _damaged(place: Place, what: str) -> str:
    return f"{place} {what}; delete it and its folder's {MANIFEST}, and run `eman data shard` again."


def encoded(place: Place, files: Sequence[str], where_N3: Array) -> list[bytes]:
    """The encoded images that lie there; neighbours are read together."""
    out: list[bytes] = [b""] * len(where_N3)
    order = np.lexsort((where_N3[:, 1], where_N3[:, 0]))
    start = 0
    while start < len(order):
        shard, first, _ = where_N3[order[start]]
        with (place / files[shard]).open() as file:
            while start < len(order) and where_N3[order[start], 0] == shard:
                stop, end = start, where_N3[order[start], 1]
                while (
                    stop < len(order) and where_N3[order[stop], 0] == shard and where_N3[order[stop], 1] <= end + _GAP
                ):
                    end = where_N3[order[stop], 1:].sum()
                    stop += 1
                first = where_N3[order[start], 1]
                block = file.read_at(int(end - first), int(first))
                for n in order[start:stop]:
                    begin = int(where_N3[n, 1] - first)
                    out[n] = block[begin : begin + int(where_N3[n, 2])]
                start = stop
    return out


def verify(place: Place, *, decode: bool = False) -> Iterator[str]:
    """Reads every row of every shard and compares counts and checksums with the manifest's.

    Args:
        place: The shards.
        decode: Decode every image, too.

    Yields:
        A line a shard.

    Raises:
        UserError: Something differs; the first such thing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = manifest(place)
    corrupt: list[str] = []
    for split, about in content["splits"].items():
        for record in about["shards"]:
            file, digest, rows = place / record["file"], hashlib.sha256(), 0
            try:
                with file.open() as stream:
                    for batch in pq.ParquetFile(stream).iter_batches(batch_size=256):
                        for row in batch.to_pylist():
                            _add(digest, row["index"], row["label"], row["image"])
                            rows += 1
                            if decode and not _decodes(row["image"]):
                                corrupt.append(f"{split} image {row['index']}")
            except (OSError, pa.ArrowException) as error:
                raise UserError(_damaged(file, f"cannot be read ({str(error)[:120]})")) from error
            if rows != record["rows"] or digest.hexdigest() != record["digest"]:
                raise UserError(_damaged(file, f"has other content than when it was written ({rows:,} rows)"))
            yield f"{record['file']}: {rows:,} images, checksum right"
    if corrupt:
        raise UserError(f"{len(corrupt)} images cannot be decoded: {', '.join(corrupt[:MOST_CORRUPT])}.")


def _decodes(raw: bytes) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
    except Exception:  # Pillow raises many kinds
        return False
    return True


def grouped_order(
    group_N: Array, generator: np.random.Generator, *, first: int, devices: int, batch: int, steps: int
) -> Array:
    """An epoch's order of rows that keeps reading local: groups in random order, rows shuffled within windows.

    A window is what the batches of some steps hold; in it each device takes rows of its own run of groups, so that a
    worker that hosts some of the devices reads only their groups. Device and window of a place follow from its global
    position, so that the order depends on nothing but the arguments.

    Args:
        group_N: Number of each row's group.
        generator: Source of randomness.
        first: Global position of the epoch's first place.
        devices: Devices in all.
        batch: Images of a global batch.
        steps: Steps of a window.

    Returns:
        A permutation of the rows, ``(N,)``.
    """
    count = len(group_N)
    ranks = generator.permutation(int(group_N.max()) + 1)
    shuffled = generator.permutation(count)
    rows = shuffled[np.argsort(ranks[group_N[shuffled]], kind="stable")]
    position = first + np.arange(count)
    window, device = position // (steps * batch), position % devices
    # Places of a window device by device; rows go to them in their order, then mix within (window, device).
    places = np.lexsort((generator.random(count), device, window))
    order = np.empty(count, np.int64)
    order[places] = rows
    return order

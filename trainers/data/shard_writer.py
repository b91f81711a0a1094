"""Write a data set as Parquet shards; a second call resumes an interrupted one."""

import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eman.platform.errors import UserError, first_line
from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.trainers.data import catalog, folders
from eman.trainers.data.layout import MANIFEST
from eman.trainers.data.shards import LAYOUT, manifest
from eman.trainers.data.splits import AnySplit, DataSet, Split

#: Bytes or rows at which a row group ends; approximate bytes of a shard.
GROUP_BYTES, GROUP_ROWS, SHARD_BYTES = 4 << 20, 1024, 256 << 20


@dataclass(frozen=True)
class Item:
    """An image to write: its index in the split, its class or classes, a name for messages, and its encoded bytes."""

    index: int
    label: int | list[int]
    name: str
    raw: bytes


def _item(split: AnySplit, place: int) -> Item:
    """Read an image; encode images in memory as PNG."""
    row = split.labels[place]
    label: int | list[int] = int(row) if row.dim() == 0 else row.nonzero()[:, 0].tolist()
    if isinstance(split, Split):
        return Item(place, label, f"image {place}", _png(split.images[place]))
    return Item(place, label, split.source.label(place), split.source.encoded(np.array([place]))[0])


def _png(image_AHW: torch.Tensor) -> bytes:
    from PIL import Image

    sink, array = io.BytesIO(), image_AHW.numpy()
    Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0)).save(sink, "PNG")
    return sink.getvalue()


def shard(
    name: str,
    workspace: Workspace,
    source: str | None,
    out: str | None,
    say: Callable[[str], None],
    *,
    rows: int | None = None,
) -> dict[str, Any]:
    """Write a data set as shards, except finished ones, and return the manifest.

    Args:
        name: Name of the data set, by which runs refer to it.
        workspace: Location of data sets.
        source: Folder of images, by path or URI, or the name of a data set in memory; ``None`` for that of ``name``.
        out: Folder to write to, by path or URI; ``None`` for the folder of that name in the data folder.
        say: Called with a line about progress.
        rows: Images per shard; ``None`` for about 256 MiB per shard.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise UserError(f"the data set's name is {name!r}; give a plain name, and the folder of images by --source.")
    if out is not None and not out.strip():
        raise UserError("--out is empty; give a folder, by path or URI, or leave it out.")
    target = Place(out) if out else Place(workspace.data) / name
    if catalog.is_in_memory(source or name):
        dataset = catalog.load(source or name, workspace)
    else:
        folder = catalog.place_of(source or name, workspace)
        if folder == target:
            raise UserError(f"the shards would be written among the images in {folder}; give another name, or --out.")
        dataset = folders.load(name, folder)
    return write(dataset, name, target, say, rows=rows, most_corrupt=workspace.settings.most_corrupt)


def write(
    dataset: DataSet,
    name: str,
    out: Place,
    say: Callable[[str], None],
    *,
    rows: int | None = None,
    most_corrupt: int = 20,
) -> dict[str, Any]:
    """Write the missing shards, then the manifest, and return it."""
    if (out / MANIFEST).exists():
        content = manifest(out, name)
        if content["hash"] == dataset.hash:
            say(f"{out} is complete: nothing to write")
            return content
        raise UserError(f"{out} holds shards of other images of {name}; give another --out, or delete it.")
    train = dataset.train
    train = dataset.train
    content = {
        "layout": LAYOUT,
        "name": name,
        "hash": dataset.hash,
        "classes": list(dataset.classes),
        "channels": train.shape[0] if isinstance(train, Split) else train.channels,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "several": train.labels.dim() == 2,
    }
    writer = _Writer(content, out, say, rows, most_corrupt)
    content["splits"] = {"train": writer.split("train", train), "test": writer.split("test", dataset.test)}
    (out / MANIFEST).write(json.dumps(content, indent=1).encode())
    return content


class _Writer:
    """Writes the missing shards of splits; counts unreadable images."""

    def __init__(
        self, content: dict[str, Any], out: Place, say: Callable[[str], None], rows: int | None, most_corrupt: int
    ) -> None:
        self.content, self.out, self.say, self.rows, self.most_corrupt = content, out, say, rows, most_corrupt
        self.corrupt: list[str] = []

    def split(self, name: str, split: AnySplit) -> dict[str, Any]:
        """Write a split; return its record in the manifest."""
        count = len(split)
        rows = self.rows or _rows_per_shard(split)
        order = np.random.default_rng(0).permutation(count)
        started, fresh, records = time.monotonic(), 0, []
        for number, first in enumerate(range(0, count, rows)):
            part = order[first : first + rows].tolist()
            file = f"{name}/part-{number:05}.parquet"
            identity = hashlib.sha256(f"{LAYOUT} {self.content['hash']} {name} {number} {rows}".encode()).hexdigest()
            record = _finished(self.out / file, identity)
            if record is None:
                raw, record = self._shard((_item(split, place) for place in part), identity)
                (self.out / file).write(raw)
                fresh += len(part)
            records.append({"file": file, **record})
            done = first + len(part)
            speed = fresh / max(time.monotonic() - started, 1e-9)
            left = f", {(count - done) / speed:,.0f} s left" if fresh and done < count else ""
            self.say(f"{name}: {done:,} of {count:,} images{left}")
        return {"rows": count, "size": _common(tuple(r.pop("size") or ()) for r in records), "shards": records}

    def _shard(self, items: Iterator[Item], identity: str) -> tuple[bytes, dict[str, Any]]:
        """Return a shard's bytes and its record in the manifest."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema, sink = _schema(self.content["several"]), io.BytesIO()
        groups, sizes, total = list[int](), set[tuple[int, int]](), 0
        whole = {"compression": "none", "use_dictionary": False, "data_page_size": 1 << 30}  # one page a group
        pages = {"data_page_version": "1.0", "write_statistics": ["index"], "write_page_checksum": True}
        with pq.ParquetWriter(sink, schema, **whole, **pages) as writer:
            for group in _groups(items):
                rows = [(item.index, item.label, item.raw, len(item.raw), *self._shape(item)) for item in group]
                columns = [list(column) for column in zip(*rows, strict=True)]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=len(group))
                groups.append(len(group))
                sizes.update(zip(*columns[4:], strict=True))
                total += sum(columns[3])
            record = {
                "rows": sum(groups),
                "groups": groups,
                "bytes": total,
                "size": _common(sizes),
            }
            writer.add_key_value_metadata({"eman": json.dumps({"identity": identity, **record})})
        return sink.getvalue(), record

    def _shape(self, item: Item) -> tuple[int, int]:
        """Return an image's height and width in pixels; (0, 0) if it is unreadable."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(item.raw)) as image:
                return image.height, image.width
        except Exception as error:  # Pillow raises many kinds
            self.corrupt.append(f"{item.name} ({first_line(error)})")
        if len(self.corrupt) > self.most_corrupt:
            raise UserError(
                f"{len(self.corrupt)} images cannot be read: {'; '.join(self.corrupt)}. Replace them, then run the "
                f"same command again: finished shards are kept."
            )
        return 0, 0


def _rows_per_shard(split: AnySplit) -> int:
    sample = [len(_item(split, place).raw) for place in range(0, len(split), max(1, len(split) // 16))]
    return max(256, int(SHARD_BYTES / max(1.0, float(np.mean(sample)))))


def _common(sizes: Iterable[tuple[int, ...]]) -> list[int] | None:
    """Return the size that all images have; ``None`` if sizes differ."""
    distinct = set(sizes)
    return list(distinct.pop()) or None if len(distinct) == 1 else None


def _finished(place: Place, identity: str) -> dict[str, Any] | None:
    """Return the record of an existing shard; ``None`` unless it is the one to write."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not place.exists():
        return None
    try:
        with place.open() as file:
            record: dict[str, Any] = json.loads(pq.ParquetFile(file).metadata.metadata[b"eman"])
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError):
        return None
    return record if record.pop("identity", None) == identity else None


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


def _groups(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Split images into row groups."""
    group: list[Item] = []
    size = 0
    for item in items:
        group.append(item)
        size += len(item.raw)
        if size >= GROUP_BYTES or len(group) >= GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group

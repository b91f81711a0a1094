"""Write a data set as Parquet shards; a second call resumes an interrupted one."""

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eman.platform.errors import UserError, first_line
from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.trainers.data import catalog, folders
from eman.trainers.data.layout import MANIFEST
from eman.trainers.data.names import is_path
from eman.trainers.data.shards import LAYOUT, add_to_digest, manifest
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


class Items:
    """A split's images as items to write."""

    def __init__(self, split: AnySplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def at(self, place: int) -> Item:
        """Read the image at index ``place``; encode images in memory as PNG."""
        split, row = self.split, self.split.labels[place]
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

    Raises:
        UserError: The source is not a data set, the target cannot be written, or too many images are unreadable.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise UserError(f"the data set's name is {name!r}; give a plain name, and the folder of images by --source.")
    if out is not None and not out.strip():
        raise UserError("--out is empty; give a folder, by path or URI, or leave it out.")
    target = Place(out) if out else Place(workspace.data) / name
    if source in catalog.IN_MEMORY or (source is None and name in catalog.IN_MEMORY):
        dataset = catalog.load(source or name, workspace)
    else:
        folder = _source_folder(source or name, workspace)
        if folder == target:
            raise UserError(f"the shards would be written among the images in {folder}; give another name, or --out.")
        dataset = folders.load(name, folder)
    _check_writable(target)
    return write(dataset, name, target, say, rows=rows, most_corrupt=workspace.settings.most_corrupt)


def _source_folder(source: str, workspace: Workspace) -> Place:
    """Return a folder, given by path or URI, or by its name in the data folder or the current folder."""
    here = Path(source)
    in_data = source in catalog.DATASETS or catalog.place_of(source, workspace).exists()
    if not is_path(source) and here.is_dir() and not in_data:
        return Place(str(here.resolve()))
    return catalog.place_of(source, workspace)


def _check_writable(target: Place) -> None:
    local = target.local
    if local is None:
        return
    try:
        local.mkdir(parents=True, exist_ok=True)
        if not os.access(local, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"{target} cannot be written ({reason}); give another folder by --out.") from error


def write(
    dataset: DataSet,
    name: str,
    out: Place,
    say: Callable[[str], None],
    *,
    rows: int | None = None,
    most_corrupt: int = 20,
) -> dict[str, Any]:
    """Write the missing shards, then the manifest, and return it.

    Raises:
        UserError: The target holds other shards or cannot be written, or too many images are unreadable.
    """
    if (out / MANIFEST).exists():
        content = manifest(out, name)
        if content["hash"] == dataset.hash:
            say(f"{out} is complete: nothing to write")
            return content
        raise UserError(f"{out} holds shards of other images of {name}; give another --out, or delete it.")
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
    corrupt = CorruptImages(most_corrupt)
    splits = {"train": Items(train), "test": Items(dataset.test)}
    content["splits"] = {
        split: _write_split(split, items, content, out, say, rows or _rows_for(items), corrupt)
        for split, items in splits.items()
    }
    (out / MANIFEST).write(json.dumps(content, indent=1).encode())
    return content


def _rows_for(items: Items) -> int:
    sample = [len(items.at(place).raw) for place in range(0, len(items), max(1, len(items) // 16))]
    return max(256, int(SHARD_BYTES / max(1.0, float(np.mean(sample)))))


def _write_split(
    split: str,
    items: Items,
    content: dict[str, Any],
    out: Place,
    say: Callable[[str], None],
    rows: int,
    corrupt: "CorruptImages",
) -> dict[str, Any]:
    order = np.random.default_rng(0).permutation(len(items))
    started, fresh, done, records = time.monotonic(), 0, 0, []
    for number, first in enumerate(range(0, len(items), rows)):
        part = order[first : first + rows]
        file = f"{split}/part-{number:05}.parquet"
        identity = hashlib.sha256(f"{LAYOUT} {content['hash']} {split} {number} {rows}".encode()).hexdigest()
        record = _finished(out / file, identity)
        if record is None:
            raw, record = _shard((items.at(place) for place in part.tolist()), content["several"], identity, corrupt)
            (out / file).write(raw)
            fresh += len(part)
        done += len(part)
        records.append({"file": file, **record})
        speed = fresh / max(time.monotonic() - started, 1e-9)
        left = f", {(len(items) - done) / speed:,.0f} s left" if fresh and done < len(items) else ""
        say(f"{split}: {done:,} of {len(items):,} images{left}")
    sizes = {tuple(record.pop("size") or ()) for record in records}
    size = list(sizes.pop()) if len(sizes) == 1 else []
    return {"rows": len(items), "size": size or None, "shards": records}


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


@dataclass
class CorruptImages:
    """Names of unreadable images, and the largest number allowed."""

    most: int
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Add an image.

        Raises:
            UserError: There are too many.
        """
        self.names.append(name)
        if len(self.names) > self.most:
            raise UserError(
                f"{len(self.names)} images cannot be read: {'; '.join(self.names)}. Replace them, then run the same "
                f"command again: finished shards are kept."
            )


def _shard(items: Iterator[Item], several: bool, identity: str, corrupt: CorruptImages) -> tuple[bytes, dict[str, Any]]:
    """Return a shard's bytes and its record in the manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, sink, digest = _schema(several), io.BytesIO(), hashlib.sha256()
    groups, sizes, total = list[int](), set[tuple[int, int]](), 0
    whole = {"compression": "none", "use_dictionary": False, "data_page_size": 1 << 30}  # one page a group
    with pq.ParquetWriter(sink, schema, data_page_version="1.0", write_statistics=["index"], **whole) as writer:
        for group in _groups(items):
            shapes = [_shape(item, corrupt) for item in group]
            for item in group:
                add_to_digest(digest, item.index, item.label, item.raw)
            rows = [
                (item.index, item.label, item.raw, len(item.raw), *shape)
                for item, shape in zip(group, shapes, strict=True)
            ]
            columns = [list(column) for column in zip(*rows, strict=True)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(group))
            groups.append(len(group))
            sizes.update(shapes)
            total += sum(len(item.raw) for item in group)
        record = {
            "rows": sum(groups),
            "groups": groups,
            "bytes": total,
            "digest": digest.hexdigest(),
            "size": list(sizes.pop()) if len(sizes) == 1 else None,
        }
        writer.add_key_value_metadata({"eman": json.dumps({"identity": identity, **record})})
    return sink.getvalue(), record


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


def _shape(item: Item, corrupt: CorruptImages) -> tuple[int, int]:
    """Return an image's height and width in pixels; (0, 0) if it is unreadable."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(item.raw)) as image:
            return image.height, image.width
    except Exception as error:  # Pillow raises many kinds
        corrupt.add(f"{item.name} ({first_line(error)})")
        return 0, 0

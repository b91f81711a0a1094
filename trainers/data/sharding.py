"""Writing a data set as Parquet shards, and saying what shards there are."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch

from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.trainers.data import catalog as data
from eman.trainers.data import folders, shards
from eman.trainers.data.splits import AnySplit, Split
from eman.trainers.data.stored import StoredSplit


class Items(Sequence[shards.Item]):
    """A split's images as the writer wants them, made one by one."""

    def __init__(self, split: AnySplit) -> None:
        self.split = split
        self.labels = split.labels if split.labels.dim() == 1 else None

    def __len__(self) -> int:
        return len(self.split)

    @overload
    def __getitem__(self, place: int) -> shards.Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[shards.Item]: ...
    def __getitem__(self, place: int | slice) -> shards.Item | list[shards.Item]:
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(len(self)))]
        split, row = self.split, self.split.labels[place]
        label: int | list[int] = int(row) if row.dim() == 0 else row.nonzero()[:, 0].tolist()
        if isinstance(split, Split):
            return shards.Item(int(place), label, f"image {place}", lambda: _png(split.images[place]))
        return shards.Item(
            int(place), label, split.source.label(place), lambda: split.source.encoded(np.array([place]))[0]
        )


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
    """Writes a set as shards; what is there already is kept, so that an interrupted call goes on.

    Args:
        name: Name of the set, by which runs ask for it.
        workspace: Where data sets lie.
        source: A folder, by path or URI, laid out as the set wants it; or the name of a set that is held in memory,
            whose images are written as PNG. ``None``: the set of that name.
        out: Folder to write to, by path or URI; by default ``$EMAN_DATA/NAME``, where runs look for it.
        say: Told about progress, a line at a time.
        rows: Images a shard; by default as many as give about 256 MiB.

    Returns:
        The manifest.

    Raises:
        UserError: The source is not laid out so, the store does not answer, or too many images cannot be read.
    """
    source = source or name
    target = Place(out) if out else Place(workspace.data) / name
    found = data.load(source, workspace) if source in data.IN_MEMORY else folders.load(name, Place(source))
    train = found.train
    several = train.labels.dim() == 2
    channels = train.channels if isinstance(train, StoredSplit) else train.shape[0]
    what = shards.Set(name, found.classes, found.hash, channels, found.mean, found.std, several)
    return shards.write(what, {"train": Items(train), "test": Items(found.test)}, target, say, rows=rows)


def place_of(where: str, workspace: Workspace) -> Place:
    """A folder by path or URI, or the folder of a set by its name."""
    return Place(where) if "/" in where or where.startswith(".") else Place(workspace.data) / where


def info(where: str, workspace: Workspace) -> Iterator[str]:
    """What shards say of themselves, in lines; raises :class:`~eman.platform.errors.UserError` if there are none."""
    place = place_of(where, workspace)
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

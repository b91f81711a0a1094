"""Images that stay where they are, as files or in shards, and come to a run batch by batch.

A batch is read, decoded and cropped by Ray tasks, on whichever node has processors, where there is a Ray session, else
by threads of this process; in either case ahead of its use, in an order that depends on (seed, epoch) alone, and with
crops that depend on (seed, epoch, sample, view). The rest of a view is made where the network is.

Shapes: N images of a split, n of a batch, P views of a batch, A channels, S by S pixels.
"""

import io
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.trainers.data import shards
from eman.trainers.views import views as augment
from eman.trainers.views.draws import Draws

#: Steps whose batches one task makes: the windows in which :func:`~eman.trainers.data.shards.grouped_order` shuffles.
WINDOW = 8

#: Windows that may be ready or under way.
AHEAD = 3

#: The side that evaluations scale images to before they take the middle, as a multiple of the network's input size.
MARGIN = 256 / 224

Array = np.ndarray[Any, Any]

log = logging.getLogger("eman")


class Source(Protocol):
    """Where images are."""

    @property
    def root(self) -> Place:
        """The folder."""

    def label(self, place: int) -> str:
        """What to call an image in a message."""

    def encoded(self, places: Array) -> list[bytes]:
        """The encoded images at these places."""


@dataclass(frozen=True)
class Files:
    """Images as files below a folder; they are found by name."""

    root: Place
    names: Any  # an Arrow array of strings: it travels between processes without a copy

    def label(self, place: int) -> str:
        return f"{self.root / self.names[place].as_py()}"

    def encoded(self, places: Array) -> list[bytes]:
        """The files' bytes; empty where a file cannot be read."""
        found = []
        for place in places:
            try:
                found.append((self.root / self.names[int(place)].as_py()).read())
            except UserError as error:
                log.warning("%s", error)
                found.append(b"")
        return found


@dataclass(frozen=True)
class Rows:
    """Images as rows of shards; they are found by shard, first byte and number of bytes, ``(N, 3)``."""

    root: Place
    files: tuple[str, ...]
    where_N3: Array
    group_N: Array

    def label(self, place: int) -> str:
        shard, first, _ = (int(x) for x in self.where_N3[place])
        return f"{self.root / self.files[shard]} image at byte {first}"

    def encoded(self, places: Array) -> list[bytes]:
        """The rows' bytes."""
        return shards.encoded(self.root, self.files, self.where_N3[places])


@dataclass(frozen=True)
class StoredSplit:
    """The counterpart of :class:`~eman.trainers.data.splits.Split` for images that are not in memory.

    Attributes:
        source: Where they are.
        places: int64, ``(N,)``: which of the source's images.
        labels: int64, ``(N,)``, or ``(N, K)`` with ones and zeros where an image shows several classes.
        ids: int64, ``(N,)``: a sample's number in the whole split, which seeds its augmentations.
        channels: A.
        native: Height and width, where all images have the same.
        size: S that a run asks for: images are cropped to it on the way; ``None``: they come as they are.
    """

    source: Source
    places: Array
    labels: Tensor
    ids: Tensor
    channels: int
    native: tuple[int, int] | None = None
    size: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that it gives."""
        if self.size is not None:
            return self.channels, self.size, self.size
        assert self.native is not None
        return self.channels, *self.native

    def take(self, index: Tensor) -> "StoredSplit":
        """The samples at these places."""
        return replace(self, places=self.places[index.numpy()], labels=self.labels[index], ids=self.ids[index])

    def sized(self, size: int | None) -> "StoredSplit":
        """The same images at S pixels.

        Raises:
            UserError: They differ in size, and none is asked for.
        """
        if size is None and self.native is None:
            raise UserError(
                f"the images in {self.source.root} differ in size; say at which the network sees them, for example "
                f"--set image_size=224."
            )
        return replace(self, size=size)

    def batches(self, count: int) -> Iterator[Tensor]:
        """All images in order, ``count`` at a time, as evaluations see them: uint8, ``(n, A, S, S)``."""
        index = torch.arange(len(self))
        yield from ahead([partial(self.read, part) for part in index.split(count)])

    def read(self, index_n: Tensor) -> Tensor:
        """Images as evaluations see them: the shorter side scaled to 8/7 of S, and the middle of that.

        An unreadable image is black, and warned of.
        """
        boxes = None if self.size is None else "middle"
        images_nAHW, bad = _decoded(self, index_n.numpy(), boxes)
        self._warn(index_n[bad])
        return torch.from_numpy(images_nAHW)

    @property
    def cropped(self) -> bool:
        """Whether random crops are made where the images are decoded."""
        return self.size is not None

    def crops(self, index_n: Tensor, draws: Draws, crop_min: float) -> Tensor:
        """Random resized crops, uint8, ``(n, A, S, S)``, by the draws of :mod:`~eman.trainers.views.views`."""

        def crop(part: Tensor) -> tuple[Array, list[int]]:
            return _decoded(self, index_n[part].numpy(), [draws.of(part)], crop_min)

        parts = torch.arange(len(index_n)).tensor_split(torch.get_num_threads())
        images = []
        for part, (images_PnAHW, bad) in zip(parts, ahead([partial(crop, part) for part in parts]), strict=True):
            images.append(torch.from_numpy(images_PnAHW[0]))
            self._warn(index_n[part][bad])
        return torch.cat(images)

    def _warn(self, index_n: Tensor) -> None:
        for place in self.places[index_n.numpy()].tolist():
            log.warning("%s cannot be read; a black image stands for it", self.source.label(place))

    def groups(self) -> Array | None:
        """A number for each row's group, ``(N,)``, where the source is read by groups."""
        if not isinstance(self.source, Rows):
            return None
        return np.unique(self.source.group_N[self.places], return_inverse=True)[1]


def _decoded(split: StoredSplit, index_n: Array, boxes: Any, crop_min: float = 1.0) -> tuple[Array, list[int]]:
    """Images of a split, uint8, and which could not be read (those are 0).

    Args:
        split: Whose images.
        index_n: Their places.
        boxes: ``None``: as they are, ``(n, A, H, W)``; ``"middle"``: evaluation's, ``(n, A, S, S)``; a list of draws:
            a random resized crop for each, ``(P, n, A, S, S)``.
        crop_min: Smallest share of the image that a random crop may take.
    """
    from PIL import Image

    mode = {1: "L", 3: "RGB"}[split.channels]
    pictures: list[Any] = []
    bad = []
    for n, raw in enumerate(split.source.encoded(split.places[index_n])):
        try:
            with Image.open(io.BytesIO(raw)) as image:
                picture = image.convert(mode)
            if split.size is None and (picture.height, picture.width) != split.native:
                raise ValueError("it has another size than the others")
        except Exception:  # Pillow raises many kinds
            bad.append(n)
            picture = Image.new(mode, (split.shape[2], split.shape[1]))
        pictures.append(picture)
    if not isinstance(boxes, list):
        shown = pictures if boxes is None else [middle(picture, split.shape[1]) for picture in pictures]
        return np.stack([_array(picture) for picture in shown]), bad
    heights = torch.tensor([picture.height for picture in pictures])
    widths = torch.tensor([picture.width for picture in pictures])
    size = split.shape[1]
    out = np.empty((len(boxes), len(pictures), *split.shape), np.uint8)
    for view, draws in enumerate(boxes):
        found = augment.crop_boxes(draws, heights, widths, crop_min)
        for n, (picture, top, left, h, w) in enumerate(zip(pictures, *(x.int().tolist() for x in found), strict=True)):
            part = picture.crop((left, top, left + w, top + h))
            out[view, n] = _array(part.resize((size, size), Image.Resampling.BILINEAR))
    return out, bad


def _array(picture: Any) -> Array:
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def middle(picture: Any, size: int) -> Any:
    """Torchvision's Resize to 8/7 of the size, and CenterCrop."""
    from PIL import Image

    short = round(size * MARGIN)
    width, height = (int(short * side / min(picture.size)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def ahead(calls: Sequence[Callable[[], Any]] | Iterator[Callable[[], Any]], depth: int | None = None) -> Iterator[Any]:
    """The calls' results in order, made by threads a few calls ahead of their use."""
    threads = torch.get_num_threads()
    depth = depth or 2 * threads
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Any] = deque()
        try:
            for call in calls:
                pending.append(pool.submit(call))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@dataclass(frozen=True)
class Recipe:
    """What a task needs to make this worker's part of the batch of any step.

    Attributes:
        stream: A :class:`~eman.trainers.data.subsets.Stream` over a stored split.
        mine: This worker's positions in a global batch.
        views: Numbers of the views that are made of each image.
        seed: The run's seed.
        crop_min: Smallest share of the image that a random crop may take.
    """

    stream: Any
    mine: Tensor
    views: tuple[int, ...]
    seed: int
    crop_min: float

    def make(self, first: int, last: int) -> Iterator[dict[str, Array]]:
        """The batches of steps ``first`` to ``last - 1``; rows of shards are read at once for all of them."""
        split: StoredSplit = self.stream.split
        steps = [tuple(x[self.mine] for x in self.stream.at(step)) for step in range(first, last)]
        window = replace(split, source=_Once(split.source, split.places[torch.cat([s[0] for s in steps]).numpy()]))
        for index_n, epoch_n in steps:
            if split.size is None:
                images, bad = _decoded(window, index_n.numpy(), None)
                images = images[None]
            else:
                draws = [Draws(self.seed, epoch_n, split.ids[index_n], view) for view in self.views]
                images, bad = _decoded(window, index_n.numpy(), draws, self.crop_min)
            mask = np.zeros(len(index_n), bool)
            mask[bad] = True
            yield {"images": images, "index": index_n.numpy(), "epoch": epoch_n.numpy(), "bad": mask}


class _Once:
    """A source whose images of some places have been read already: rows of shards; files are read when needed."""

    def __init__(self, source: Source, places: Array) -> None:
        self.source = source
        self.kept: dict[int, bytes] = {}
        if isinstance(source, Rows):
            self.kept = dict(zip(places.tolist(), source.encoded(places), strict=True))

    @property
    def root(self) -> Place:
        return self.source.root

    def label(self, place: int) -> str:
        return self.source.label(place)

    def encoded(self, places: Array) -> list[bytes]:
        return [self.kept[int(p)] for p in places] if self.kept else self.source.encoded(places)


class Feed:
    """A worker's batches of a stream over a stored split, step after step.

    Asking for another step than the next one starts anew there.

    Args:
        recipe: How batches are made.
        steps: Steps of the run; nothing beyond them is read.
        most_corrupt: Unreadable images that are replaced by others before the run fails.
    """

    def __init__(self, recipe: Recipe, steps: int, most_corrupt: int) -> None:
        self.recipe, self.steps, self.most_corrupt = recipe, steps, most_corrupt
        self.next = -1
        self.corrupt: dict[str, None] = {}
        self._batches: Iterator[dict[str, Array]] = iter(())

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, uint8, ``(P, n, A, S, S)`` (P is 1 where images come as they are), places in the split, and epochs.

        Raises:
            UserError: Too many images cannot be read.
        """
        if step != self.next:
            self.close()
            self._batches, self.next = self._from(step), step
        batch = next(self._batches)
        self.next += 1
        images, index_n, epoch_n = (torch.from_numpy(np.array(batch[name])) for name in ("images", "index", "epoch"))
        bad = np.flatnonzero(batch["bad"])
        if len(bad):
            good = np.flatnonzero(~batch["bad"])
            self._name(index_n[bad], none_left=not len(good))
            instead = torch.from_numpy(good[np.searchsorted(good, bad) % len(good)])
            images[:, bad], index_n[bad], epoch_n[bad] = images[:, instead], index_n[instead], epoch_n[instead]
        return images, index_n, epoch_n

    def _name(self, index_n: Tensor, *, none_left: bool) -> None:
        split = self.recipe.stream.split
        for place in split.places[index_n.numpy()].tolist():
            name = split.source.label(place)
            if name not in self.corrupt:
                self.corrupt[name] = None
                log.warning("%s cannot be read; the next image of its batch stands for it", name)
        most = self.most_corrupt
        if len(self.corrupt) > most or none_left:
            raise UserError(
                f"{len(self.corrupt)} images cannot be read: {', '.join(self.corrupt)}. Get them anew, or let more "
                f"pass with EMAN_MOST_CORRUPT={10 * most}."
            )

    def _from(self, step: int) -> Iterator[dict[str, Array]]:
        ray = sys.modules.get("ray")  # where nobody has imported it, there is no session
        if ray is not None and ray.is_initialized():
            return _by_ray(self.recipe, step, self.steps)
        spans = _spans(step, self.steps)
        windows = ahead((partial(self._window, *span) for span in spans), depth=1)
        return (batch for window in windows for batch in window)

    def _window(self, first: int, last: int) -> list[dict[str, Array]]:
        return list(self.recipe.make(first, last))

    def close(self) -> None:
        """Stops what is under way."""
        if hasattr(self._batches, "close"):
            self._batches.close()
        self._batches, self.next = iter(()), -1


def _spans(first: int, last: int) -> list[tuple[int, int]]:
    """Steps ``first`` to ``last - 1`` cut where windows end."""
    cuts = [first, *range((first // WINDOW + 1) * WINDOW, last, WINDOW), last]
    return list(pairwise(cuts))


def _by_ray(recipe: Recipe, first: int, last: int) -> Iterator[dict[str, Array]]:
    """Batches made by Ray tasks, in order, some windows ahead.

    Plain tasks instead of a Ray Data pipeline: its executor, once held back so that it does not run away with the
    memory, polls all the time, in the training's process or beside it; on two cores that took two thirds of the
    training's speed. The tasks ask for no processor of their own, since the runs of a sweep may hold all of them, and
    waiting for one would be a deadlock.
    """
    import ray

    task = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_window)
    kept, pending = [ray.put(recipe)], deque[Any]()
    try:
        for span in _spans(first, last):
            pending.append(task.remote(kept, *span))
            if len(pending) > max(AHEAD, torch.get_num_threads()):
                yield from ray.get(pending.popleft())
        while pending:
            yield from ray.get(pending.popleft())
    finally:
        for reference in pending:
            ray.cancel(reference)


def _window(kept: list[Any], first: int, last: int) -> list[dict[str, Array]]:
    return list(_recipe(kept[0]).make(first, last))


@lru_cache(maxsize=4)
def _recipe(reference: Any) -> Recipe:
    import ray

    torch.set_num_threads(1)
    found: Recipe = ray.get(reference)
    return found

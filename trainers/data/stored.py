"""A split whose images stay in files or in shards, on disk or in an object store.

Shapes: N images of a split, n of a batch, K classes, A channels, S by S pixels.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.trainers.data import shards
from eman.trainers.data.decode import decode, middle_crop, random_crops, to_array
from eman.trainers.views.draws import Draws

Array = np.ndarray[Any, Any]
T = TypeVar("T")

log = logging.getLogger("eman")


class Source(Protocol):
    """Where encoded images are kept."""

    @property
    def root(self) -> Place:
        """The folder."""

    def label(self, place: int) -> str:
        """Return what to call an image in a message."""

    def encoded(self, places: Array) -> list[bytes]:
        """Return the encoded images at these places, empty where one cannot be read."""


@dataclass(frozen=True)
class Files:
    """Images as files below a folder, by name."""

    root: Place
    names: Any  # an Arrow array of strings: it travels between processes without a copy of each

    def label(self, place: int) -> str:
        return f"{self.root / str(self.names[place])}"

    def encoded(self, places: Array) -> list[bytes]:
        return [self._read(int(place)) for place in places]

    def _read(self, place: int) -> bytes:
        try:
            return (self.root / str(self.names[place])).read()
        except UserError:
            return b""  # reported by name as an image that cannot be read


@dataclass(frozen=True)
class Rows:
    """Images as rows of shards: by shard, first byte and number of bytes, ``(N, 3)``, and by row group, ``(N,)``."""

    root: Place
    files: tuple[str, ...]
    where_N3: Array
    group_N: Array

    def label(self, place: int) -> str:
        shard, first, _ = (int(x) for x in self.where_N3[place])
        return f"{self.root / self.files[shard]} image at byte {first}"

    def encoded(self, places: Array) -> list[bytes]:
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
        native: Height and width, where all images are known to have the same.
        size: S, to which images are cropped when they are decoded; ``None``: they come as they are.
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
        """Channels, height and width of the images that are read.

        Raises:
            UserError: Neither is known; see :meth:`sized`.
        """
        if self.size is not None:
            return self.channels, self.size, self.size
        if self.native is None:
            raise self._no_size()
        return self.channels, *self.native

    def take(self, index: Tensor) -> "StoredSplit":
        """The samples at these places."""
        return replace(self, places=self.places[index.numpy()], labels=self.labels[index], ids=self.ids[index])

    def sized(self, size: int | None) -> "StoredSplit":
        """The same images at S pixels.

        Raises:
            UserError: No size is asked for, and the images have no common one.
        """
        if size is None and self.native is None:
            raise self._no_size()
        return replace(self, size=size)

    def _no_size(self) -> UserError:
        why = "are files, which may differ in size" if isinstance(self.source, Files) else "differ in size"
        return UserError(
            f"image_size is missing: the images in {self.source.root} {why}; give the size to which they are cropped, "
            f"for example --set image_size=224."
        )

    @property
    def cropped(self) -> bool:
        """Whether random crops are made where the images are decoded."""
        return self.size is not None

    def decode(self, index_n: Array) -> tuple[list[Any], list[int]]:
        """Return Pillow images, and which of them could not be read."""
        return decode(self.source.encoded(self.places[index_n]), self.channels, None if self.size else self.native)

    def read(self, index_n: Tensor) -> Tensor:
        """Return images as evaluations see them, uint8, ``(n, A, S, S)``: the shorter side scaled to 8/7 of S, and the
        middle of that. An unreadable image is black, and logged.
        """
        pictures, bad = self.decode(index_n.numpy())
        self._warn(index_n[bad])
        if self.size is not None:
            pictures = [middle_crop(picture, self.size) for picture in pictures]
        return torch.from_numpy(np.stack([to_array(picture) for picture in pictures]))

    def batches(self, count: int) -> Iterator[Tensor]:
        """Return all images in order, ``count`` at a time, as :meth:`read` gives them."""
        return in_threads(partial(self.read, part) for part in torch.arange(len(self)).split(count))

    def crops(self, index_n: Tensor, draws: Draws, crop_min: float) -> Tensor:
        """Return random resized crops, uint8, ``(n, A, S, S)``, by the draws of the views."""

        def crop(part: Tensor) -> Tensor:
            pictures, bad = self.decode(index_n[part].numpy())
            self._warn(index_n[part][bad])
            return torch.from_numpy(random_crops(pictures, [draws.of(part)], self.shape[1], crop_min)[0])

        parts = [part for part in torch.arange(len(index_n)).tensor_split(torch.get_num_threads()) if len(part)]
        return torch.cat(list(in_threads(partial(crop, part) for part in parts)))

    def _warn(self, index_n: Tensor) -> None:
        for place in self.places[index_n.numpy()].tolist():
            log.warning("%s cannot be read; a black image stands for it", self.source.label(place))

    def groups(self) -> Array | None:
        """A number for each row's group, ``(N,)``, where the source is read by groups."""
        if not isinstance(self.source, Rows):
            return None
        return np.unique(self.source.group_N[self.places], return_inverse=True)[1]


def in_threads(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the calls' results in order; threads make them a few calls ahead."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for call in calls:
                pending.append(pool.submit(call))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

"""Splits whose images stay in files or in shards, on disk or in an object store.

Shapes: N images of a split, n of a batch, K classes, A channels, S by S pixels.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.trainers.data.decode import Array, decode, middle_crop, random_crops, to_array
from eman.trainers.data.shards import Rows
from eman.trainers.views.draws import Draws

T = TypeVar("T")

log = logging.getLogger("eman")


@dataclass(frozen=True)
class Files:
    """Images as files below a folder, by name."""

    root: Place
    names: Any  # an Arrow array of strings, cheap to send to other processes

    def label(self, place: int) -> str:
        """Return an image's name for messages."""
        return f"{self.root / str(self.names[place])}"

    def encoded(self, places: Array) -> list[bytes]:
        """Return the encoded images at the given indices; empty bytes for an unreadable one."""
        images = [b""] * len(places)
        for number, place in enumerate(places):
            with contextlib.suppress(UserError):  # reported as unreadable by the caller
                images[number] = (self.root / str(self.names[place])).read()
        return images


@dataclass(frozen=True)
class StoredSplit:
    """Images that are not in memory, with the interface of :class:`~eman.trainers.data.splits.Split`.

    Attributes:
        source: Source of the images.
        places: int64, ``(N,)``, indices of the images in the source.
        labels: int64, ``(N,)``; or ``(N, K)``, one or zero, if an image may have several classes.
        ids: int64, ``(N,)``, index of each sample in the whole split, which seeds its augmentations.
        channels: A.
        native: Height and width in pixels if all images are known to have the same; else ``None``.
        size: S, to which images are cropped when they are decoded; ``None`` for no crop.
    """

    source: Files | Rows
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
        """Channels, height and width of the images as they are read; :class:`UserError` if they have no common size."""
        if self.size is not None:
            return self.channels, self.size, self.size
        if self.native is None:
            raise self._no_size()
        return self.channels, *self.native

    def take(self, index: Tensor) -> "StoredSplit":
        """Return the samples at the given indices."""
        return replace(self, places=self.places[index.numpy()], labels=self.labels[index], ids=self.ids[index])

    def sized(self, size: int | None) -> "StoredSplit":
        """Return the split with images of ``size`` pixels; raise :class:`UserError` if they differ, for ``None``."""
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
        """Whether random crops are made when images are decoded."""
        return self.size is not None

    def encoded(self, index_n: Array) -> list[bytes]:
        """Return the encoded images at the given indices; empty bytes for an unreadable one."""
        return self.source.encoded(self.places[index_n])

    def decode(self, encoded: Sequence[bytes]) -> tuple[list[Any], list[int]]:
        """Return Pillow images, and the indices of unreadable ones, which are black."""
        return decode(encoded, self.channels, None if self.size else self.native)

    def _pictures(self, index_n: Tensor) -> list[Any]:
        """Return Pillow images; unreadable ones are black, and logged."""
        pictures, bad = self.decode(self.encoded(index_n.numpy()))
        for place in self.places[index_n[bad].numpy()].tolist():
            log.warning("%s cannot be read; a black image replaces it", self.source.label(place))
        return pictures

    def read(self, index_n: Tensor) -> Tensor:
        """Return images for evaluation, uint8, ``(n, A, S, S)``.

        The shorter side is scaled to 8/7 of S, then the center is cropped. Unreadable images are black, and logged.
        """
        pictures = self._pictures(index_n)
        if self.size is not None:
            pictures = [middle_crop(picture, self.size) for picture in pictures]
        return torch.from_numpy(np.stack([to_array(picture) for picture in pictures]))

    def batches(self, count: int) -> Iterator[Tensor]:
        """Return all images in order, ``count`` at a time, as :meth:`read` returns them."""
        return in_threads(partial(self.read, part) for part in torch.arange(len(self)).split(count))

    def crops(self, index_n: Tensor, draws: Draws, crop_min: float) -> Tensor:
        """Return random resized crops with the draws of a view, uint8, ``(n, A, S, S)``; see ``random_crops``."""

        def crop(part: Tensor) -> Tensor:
            pictures = self._pictures(index_n[part])
            return torch.from_numpy(random_crops(pictures, [draws.of(part)], self.shape[1], crop_min)[0])

        parts = [part for part in torch.arange(len(index_n)).tensor_split(torch.get_num_threads()) if len(part)]
        return torch.cat(list(in_threads(partial(crop, part) for part in parts)))

    def groups(self) -> Array | None:
        """Return each image's row group, ``(N,)``, numbered from 0; ``None`` for files."""
        if not isinstance(self.source, Rows):
            return None
        return np.unique(self.source.group_N[self.places], return_inverse=True)[1]


def in_threads(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of calls in order, computed ahead in threads."""
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

"""Data sets: two splits of images with labels, in memory or stored.

Shapes: N images of a split, A channels, H by W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.trainers.data.stored import Files, StoredSplit


@dataclass(frozen=True)
class Split:
    """Images in memory, and their labels.

    Attributes:
        images: uint8, ``(N, A, H, W)``.
        labels: int64, ``(N,)``.
        ids: int64, ``(N,)``, index of each sample in the whole split, which seeds its augmentations.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, index: Tensor) -> "Split":
        """Return the samples at the given indices."""
        return Split(self.images[index], self.labels[index], self.ids[index])

    def sized(self, _size: int | None) -> "Split":
        """Return this split: images in memory have one size."""
        return self

    @property
    def cropped(self) -> bool:
        """Whether random crops are made when images are decoded: never in memory."""
        return False

    def read(self, index_n: Tensor) -> Tensor:
        """Return the images at the given indices, uint8, ``(n, A, H, W)``."""
        return self.images[index_n]

    def batches(self, count: int) -> Iterator[Tensor]:
        """Return all images in order, ``count`` at a time: uint8, ``(n, A, H, W)``."""
        return iter(self.images.split(count))


AnySplit = Split | StoredSplit


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        name: Name of the data set.
        train, test: Images with labels.
        classes: Names of the classes.
        mean, std: Statistics of the training pixels in [0, 1], one per channel.
        hash: Hash of all images, or of the names and sizes of all files.
        unlabelled: Further training images without labels (STL-10).
    """

    name: str
    train: AnySplit
    test: AnySplit
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    unlabelled: Split | None = None

    def must_be(self, hash_: str | None, run: str) -> None:
        """Check that a run was trained on these images; ``None`` skips the check.

        Raises:
            UserError: The hashes differ.
        """
        if hash_ not in (None, self.hash):
            raise UserError(
                f"run {run} was trained on other images: {self.name} had hash {hash_} then, and has {self.hash} now; "
                f"restore the images, or give the new ones another name."
            )

    def describe(self) -> str:
        """Return a line about the number, size and kind of images."""
        split = self.train
        if isinstance(split, StoredSplit):
            of_files = isinstance(split.source, Files)
            sizes = " x ".join(map(str, split.native)) if split.native else "any size" if of_files else "several sizes"
            kind, size = "in files" if of_files else "in shards", f"{split.channels} x {sizes}"
        else:
            kind, size = "in memory", " x ".join(map(str, split.shape))
        more = f" + {len(self.unlabelled):,} unlabelled" if self.unlabelled else ""
        return f"{len(self.train):,}{more} + {len(self.test):,} images of {size}, {len(self.classes)} classes, {kind}"


def joined(first: AnySplit, second: Split | None) -> AnySplit:
    """Concatenate two splits; return the first if there is no second."""
    if second is None:
        return first
    assert isinstance(first, Split)
    return Split(*(torch.cat([getattr(first, n), getattr(second, n)]) for n in ("images", "labels", "ids")))

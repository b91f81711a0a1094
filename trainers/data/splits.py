"""What a data set is: images with labels in two splits, in memory or where they are stored.

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
    """Images and their labels.

    Attributes:
        images: uint8, ``(N, A, H, W)``.
        labels: int64, ``(N,)``.
        ids: int64, ``(N,)``: a sample's number in the whole split, which seeds its augmentations.
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
        """The samples at these places."""
        return Split(self.images[index], self.labels[index], self.ids[index])

    def sized(self, _size: int | None) -> "Split":
        """The same images: in memory they have one size."""
        return self

    @property
    def cropped(self) -> bool:
        """Whether random crops are made where the images are decoded: never, here."""
        return False

    def read(self, index_n: Tensor) -> Tensor:
        """Images, uint8, ``(n, A, H, W)``."""
        return self.images[index_n]

    def batches(self, count: int) -> Iterator[Tensor]:
        """All images in order, ``count`` at a time: uint8, ``(n, A, H, W)``."""
        return iter(self.images.split(count))


AnySplit = Split | StoredSplit


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        name: Its name.
        train, test: Images with labels.
        classes: Names of the classes.
        mean, std: Of the training pixels in [0, 1], one a channel.
        hash: Of all images, or of names and sizes of all files.
        unlabelled: Further training images, without labels (STL-10).
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
        """Raise :class:`UserError` unless these are the images that a run was trained on; ``None`` skips the check."""
        if hash_ not in (None, self.hash):
            raise UserError(
                f"run {run} was trained on other images: {self.name} had hash {hash_} then, and has {self.hash} now; "
                f"put the images back, or give the new ones a name of their own."
            )

    def describe(self) -> str:
        """Return numbers and sizes, in words."""
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
    """Both splits' images as one."""
    if second is None:
        return first
    assert isinstance(first, Split)
    return Split(*(torch.cat([getattr(first, n), getattr(second, n)]) for n in ("images", "labels", "ids")))

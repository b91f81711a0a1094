"""Data sets in memory, their subsets and label sets, and the order in which a run sees them.

Shapes: N images of a split, A channels, H by W pixels.
"""

import gzip
import hashlib
import os
import struct
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError, unknown
from eman.platform.home import data_folder

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

#: The four files of Fashion-MNIST: name, SHA-256 of the uncompressed bytes. Packers compress them differently.
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


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

    def take(self, index: Tensor) -> "Split":
        """The samples at these places."""
        return Split(self.images[index], self.labels[index], self.ids[index])


@dataclass(frozen=True)
class DataSet:
    """A data set in memory. ``mean`` and ``std`` are those of the training pixels in [0, 1], one a channel."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str

    def describe(self) -> str:
        _, channels, height, width = self.train.images.shape
        return (
            f"{len(self.train):,} + {len(self.test):,} images of {channels} x {height} x {width}, "
            f"{len(self.classes)} classes"
        )


def _assemble(
    name: str, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor, classes: tuple[str, ...]
) -> DataSet:
    digest = hashlib.sha256()
    for tensor in (images, labels, test_images, test_labels):
        digest.update(tensor.numpy().tobytes())
    mean, std = _pixel_statistics(images)
    train, test = (Split(x, y, torch.arange(len(y))) for x, y in ((images, labels), (test_images, test_labels)))
    return DataSet(name, train, test, classes, mean, std, digest.hexdigest()[:16])


def _pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], from histograms: no float copy of all images."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten().int(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(float(mean))
        stds.append(float((share * (values - mean).square()).sum().sqrt()))
    return tuple(means), tuple(stds)


def _digits(_folder: Path, _download: bool) -> DataSet:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, each pixel shown as 2 x 2, so that a network of three stages still
    has a map to normalize at its end; every fourth sample of a class, from its first, is for testing.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[(labels == label).nonzero()[::4, 0]] = True
    return _assemble(
        "digits", images[~test], labels[~test], images[test], labels[test], tuple(str(digit) for digit in range(10))
    )


def _fashion_mnist(folder: Path, download: bool) -> DataSet:
    """Fashion-MNIST from the data folder, from Debian's package, or downloaded by torchvision, in this order."""
    places = [folder / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST]
    for place in places:
        if any((place / (name + suffix)).exists() for name in FASHION_MNIST_FILES for suffix in ("", ".gz")):
            break
    else:
        place = _download_fashion_mnist(folder, download)
    arrays = [_read_idx(place, name, sha256) for name, sha256 in FASHION_MNIST_FILES.items()]
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    return _assemble(
        "fashion-mnist",
        images.unsqueeze(1),
        labels.long(),
        test_images.unsqueeze(1),
        test_labels.long(),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )


def _download_fashion_mnist(folder: Path, download: bool) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        if not download:
            raise OSError("not asked to")
        FashionMNIST(str(folder), download=True)
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        raise UserError(
            f"Fashion-MNIST is not on this machine and could not be downloaded ({_first_line(error)}). Any one of "
            f"these serves: put its four idx files into {folder / 'FashionMNIST' / 'raw'}; install Debian's package, "
            f"apt-get install dataset-fashion-mnist; or run `eman data fetch fashion-mnist` where the internet can "
            f"be reached."
        ) from error
    return folder / "FashionMNIST" / "raw"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_idx(place: Path, name: str, sha256: str) -> np.ndarray[Any, Any]:
    """One idx file, plain or gzipped, believed only if its bytes are the published ones."""
    path = next((p for p in (place / name, place / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise UserError(
            f"{place} lacks {name} (or {name}.gz); Fashion-MNIST needs all of: {', '.join(FASHION_MNIST_FILES)}."
        )
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({_first_line(error)}); it is truncated or corrupt. Delete it and run "
            f"`eman data fetch fashion-mnist`, or install Debian's dataset-fashion-mnist."
        ) from error
    except Exception as error:  # zlib.error is not an OSError
        raise UserError(
            f"{path} is corrupt ({_first_line(error)}). Delete it and run `eman data fetch fashion-mnist`, or "
            f"install Debian's dataset-fashion-mnist."
        ) from error
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise UserError(
            f"{path} is not the published file (its SHA-256 differs; {len(raw):,} bytes). Delete it and run "
            f"`eman data fetch fashion-mnist`, or install Debian's dataset-fashion-mnist."
        )
    dims = raw[3]
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()


def _cifar(name: str, folder: Path, download: bool) -> DataSet:
    """CIFAR-10 or CIFAR-100 by torchvision, which checks every file by its MD5, from the data folder or downloaded."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    place = folder / kind.base_folder
    files = {file: (place / file, md5) for file, md5 in [*kind.train_list, *kind.test_list]}
    if any(path.exists() for path, _ in files.values()):
        bad = [path for path, md5 in files.values() if not check_integrity(str(path), md5)]
        if bad:
            raise UserError(
                f"{bad[0]} is missing, truncated or corrupt (its MD5 differs); delete {place} and run "
                f"`eman data fetch {name}`, or unpack {kind.filename} into {folder} again."
            )
        download = False
    try:
        train, test = (kind(str(folder), train=part, download=download) for part in (True, False))
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        why = f"could not be downloaded ({_first_line(error)})" if download else "was not asked for"
        raise UserError(
            f"{name} is not on this machine, and {why}. Either unpack {kind.filename} into {folder}, or run `eman data "
            f"fetch {name}` where the internet can be reached."
        ) from error
    parts = [
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets, dtype=torch.int64))
        for part in (train, test)
    ]
    return _assemble(name, *parts[0], *parts[1], tuple(train.classes))


#: Training images of each set that a profile names, for planning without the data.
TRAINING_IMAGES = {
    "digits": 1_343,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stl10": 105_000,  # 5,000 of them with labels
    "imagenet": 1_281_167,
}

#: Data sets by name; each loader takes the data folder, and whether it may download.
DATASETS: dict[str, Callable[[Path, bool], DataSet]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": partial(_cifar, "cifar10"),
    "cifar100": partial(_cifar, "cifar100"),
}


@lru_cache(maxsize=2)
def _load(name: str, folder: Path, download: bool) -> DataSet:
    return DATASETS[name](folder, download)


def load(name: str, *, download: bool = True) -> DataSet:
    """A data set by name, kept in memory for the next run of this process.

    Args:
        name: A name in :data:`DATASETS`.
        download: Whether to get it if it is not there.

    Raises:
        UserError: There is no such set, or its files are missing, truncated or corrupt.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return _load(name, data_folder(), download)


def pixel_scale(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a set's training pixels; ImageNet's are the usual ones, without its images."""
    if name == "imagenet":
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    dataset = load(name)
    return dataset.mean, dataset.std


def stratified(labels: Tensor, count: int, seed: int, *, skip: int = 0) -> Tensor:
    """Places of ``count`` samples with as equal class shares as ``count`` allows, in ascending order.

    The samples of each class are put in an order that depends on the seed alone; ``skip`` leaves out those that a call
    with ``count=skip`` would take, so two calls can make disjoint sets.

    Raises:
        UserError: A class would get no sample, or has too few.
    """
    classes = int(labels.max()) + 1
    if count < classes:
        raise UserError(
            f"{count} labelled samples leave some of the {classes} classes with none; ask for {classes} or "
            f"more (a larger label_fraction)."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    # Samples of all classes in turn: class 0's first, class 1's first, ..., class 0's second, ...
    shuffled = labels[order]
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in range(classes):
        mask = shuffled == label
        turn[mask] = torch.arange(int(mask.sum()))
    in_turn = order[torch.argsort(turn * classes + shuffled, stable=True)]
    if skip + count > len(labels):
        raise UserError(f"{skip + count:,} samples were asked for, and there are {len(labels):,}.")
    return in_turn[skip : skip + count].sort().values


def parts(dataset: DataSet, images: int | None, held_out: int) -> tuple[Split, Split]:
    """The training images that a run uses, and those put aside for choices. Both are the same for every seed.

    Args:
        dataset: The whole set.
        images: Size of the first part; ``None``: all that is not put aside.
        held_out: Size of the second part; with 0 it is the test split, as in the paper, which chose on validation.
    """
    total = len(dataset.train)
    images = total - held_out if images is None else images
    if images + held_out > total:
        raise UserError(
            f"images={images} and held_out={held_out} add up to more than the {total:,} training images of "
            f"{dataset.name}."
        )
    train = dataset.train if images == total else dataset.train.take(stratified(dataset.train.labels, images, 0))
    if not held_out:
        return train, dataset.test
    return train, dataset.train.take(stratified(dataset.train.labels, held_out, 0, skip=images))


def label_set(labels: Tensor, fraction: float, number: int) -> Tensor:
    """Places of the labelled samples: a stratified share, drawn by the number of the label set (Section 5.2)."""
    if fraction == 1:
        return torch.arange(len(labels))
    return stratified(labels, round(fraction * len(labels)), 1_000 + number)


def shots(labels: Tensor, count: int, number: int) -> Tensor:
    """Places of ``count`` samples a class, drawn by the number of the set (Section 5.2, low-shot classification).

    Raises:
        UserError: A class has fewer.
    """
    sizes = torch.bincount(labels)
    if int(sizes.min()) < count:
        raise UserError(
            f"{count} samples a class were asked for, and class {int(sizes.argmin())} has {int(sizes.min())}; give "
            f"fewer."
        )
    return stratified(labels, count * len(sizes), 2_000 + number)


def fingerprint(index: Tensor) -> str:
    """A short hash of a label set, for the record."""
    return hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest()[:12]


def epoch_order(samples: int, seed: int, stream: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation that depends on (seed, stream, epoch) alone."""
    words = np.random.SeedSequence((seed, stream, epoch)).generate_state(1, np.uint64)
    return torch.randperm(samples, generator=torch.Generator().manual_seed(int(words[0] >> np.uint64(1))))


class Stream:
    """An endless sequence of global batches over a split, in an order that depends on (seed, epoch) alone.

    Each epoch is a permutation; samples left over at its end open the next one, so no sample is ever skipped.

    Args:
        split: The samples.
        batch: Images in a global batch.
        seed: The run's seed.
        number: Which of the run's streams this is.
    """

    def __init__(self, split: Split, batch: int, seed: int, number: int) -> None:
        self.split, self.batch, self.seed, self.number = split, batch, seed, number
        self._order: dict[int, Tensor] = {}

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Places in the split, and the epoch of each, for the batch of a step; both int64, ``(batch,)``."""
        first = step * self.batch
        position = torch.arange(first, first + self.batch)
        epoch, place = position // len(self.split), position % len(self.split)
        index = torch.empty_like(position)
        for number in epoch.unique().tolist():
            mask = epoch == number
            index[mask] = self._epoch(number)[place[mask]]
        return index, epoch

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._order:
            self._order = {e: o for e, o in self._order.items() if e == epoch - 1}
            self._order[epoch] = epoch_order(len(self.split), self.seed, self.number, epoch)
        return self._order[epoch]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

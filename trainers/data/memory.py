"""Data sets in memory: read from the data folder and checked, or downloaded with torchvision if missing.

Shapes: N images, A channels, H by W pixels.
"""

import gzip
import hashlib
import struct
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError, first_line
from eman.trainers.data.splits import DataSet, Split

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

#: Fashion-MNIST's files and the SHA-256 of their uncompressed bytes, since compression differs between packages.
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def assemble(
    name: str, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor, classes: tuple[str, ...]
) -> DataSet:
    """Make a data set from uint8 images ``(N, A, H, W)`` and int64 labels ``(N,)``; hash and measure them."""
    digest = hashlib.sha256()
    for tensor in (images, labels, test_images, test_labels):
        digest.update(tensor.numpy().tobytes())
    mean, std = _pixel_statistics(images)
    train, test = (Split(x, y, torch.arange(len(y))) for x, y in ((images, labels), (test_images, test_labels)))
    return DataSet(name, train, test, classes, mean, std, digest.hexdigest()[:16])


def _pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel in [0, 1], from histograms to save memory."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten().int(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(float(mean))
        stds.append(float((share * (values - mean).square()).sum().sqrt()))
    return tuple(means), tuple(stds)


def _digits(_folder: Path, _download: bool) -> DataSet:
    """Load scikit-learn's 1,797 digits, upsampled from 8 x 8 to 16 x 16 pixels.

    At 8 x 8 pixels a network of three stages would end in a single pixel. Of each class, every fourth sample, from the
    first, is a test image.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[(labels == label).nonzero()[::4, 0]] = True
    return assemble(
        "digits", images[~test], labels[~test], images[test], labels[test], tuple(str(digit) for digit in range(10))
    )


def _fashion_mnist(folder: Path, download: bool) -> DataSet:
    """Load Fashion-MNIST from the data folder, else from Debian's package, else download it with torchvision."""
    places = [folder / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST]
    for place in places:
        if any((place / (name + suffix)).exists() for name in FASHION_MNIST_FILES for suffix in ("", ".gz")):
            break
    else:
        place = _download_fashion_mnist(folder, download)
    arrays = [_read_idx(place, name, sha256) for name, sha256 in FASHION_MNIST_FILES.items()]
    images, labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    return assemble(
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
            f"Fashion-MNIST is not on this machine and could not be downloaded ({first_line(error)}). Any one of "
            f"these serves: put its four idx files into {folder / 'FashionMNIST' / 'raw'}; install Debian's package, "
            f"apt-get install dataset-fashion-mnist; or run `eman data fetch fashion-mnist` where the internet can "
            f"be reached."
        ) from error
    return folder / "FashionMNIST" / "raw"


def _read_idx(place: Path, name: str, sha256: str) -> np.ndarray[Any, Any]:
    """Read an idx file, plain or gzipped.

    Raises:
        UserError: It is missing, truncated, or differs from the published file.
    """
    path = next((p for p in (place / name, place / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise UserError(
            f"{place} lacks {name} (or {name}.gz); Fashion-MNIST needs all of: {', '.join(FASHION_MNIST_FILES)}."
        )
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}); it is truncated or corrupt. Delete it and run "
            f"`eman data fetch fashion-mnist`, or install Debian's dataset-fashion-mnist."
        ) from error
    except Exception as error:  # zlib.error is not an OSError
        raise UserError(
            f"{path} is corrupt ({first_line(error)}). Delete it and run `eman data fetch fashion-mnist`, or "
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


@contextmanager
def _explain_missing(name: str, trouble: str, archive: str, folder: Path, download: bool) -> Iterator[None]:
    """Turn torchvision's errors about missing files into :class:`UserError`."""
    try:
        yield
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        why = f"could not be downloaded ({first_line(error)})" if download else "was not asked for"
        raise UserError(
            f"{name} {trouble}, and {why}. Either unpack {archive} into {folder}, or run `eman data fetch {name}` "
            f"where the internet can be reached."
        ) from error


def _cifar(name: str, folder: Path, download: bool) -> DataSet:
    """Load CIFAR-10 or CIFAR-100 with torchvision, after checking every file's MD5."""
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
    with _explain_missing(name, "is not on this machine", kind.filename, folder, download):
        train, test = (kind(str(folder), train=part, download=download) for part in (True, False))
    parts = [
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets, dtype=torch.int64))
        for part in (train, test)
    ]
    return assemble(name, *parts[0], *parts[1], tuple(train.classes))


def _stl10(folder: Path, download: bool) -> DataSet:
    """Load STL-10 with torchvision, which checks every file's MD5.

    It has 5,000 training images with labels, 100,000 without, and 8,000 test images, of 96 x 96 pixels.
    """
    from torchvision.datasets import STL10

    trouble = f"is missing, truncated or corrupt in {folder / STL10.base_folder}"
    with _explain_missing("stl10", trouble, STL10.filename, folder, download):
        train, test = (STL10(str(folder), split=part, download=download) for part in ("train+unlabeled", "test"))
    images, labels = torch.from_numpy(train.data), torch.from_numpy(train.labels.astype(np.int64))
    known = labels >= 0
    rest = (~known).nonzero()[:, 0]
    dataset = assemble(
        "stl10",
        images[known],
        labels[known],
        torch.from_numpy(test.data),
        torch.from_numpy(test.labels.astype(np.int64)),
        tuple(train.classes),
    )
    return replace(dataset, unlabelled=Split(images[rest], labels[rest], rest))


#: Numbers of training and test images of ``synthetic``, and of ``synthetic-gray``, which has Fashion-MNIST's.
SYNTHETIC, SYNTHETIC_GRAY = (2048, 256), (60_000, 10_000)


def synthetic(size: int) -> DataSet:
    """Make smooth random images of ``size`` pixels with some noise and unrelated labels, to measure throughput."""
    return _generated("synthetic", SYNTHETIC, 3, size)


def _synthetic_gray(_folder: Path, _download: bool) -> DataSet:
    """Make gray images like :func:`synthetic`, as many and as large as Fashion-MNIST's."""
    return _generated("synthetic-gray", SYNTHETIC_GRAY, 1, 28)


def _generated(name: str, counts: tuple[int, int], channels: int, size: int) -> DataSet:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        coarse = torch.rand(count, channels, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        noise = torch.rand(smooth.shape, generator=generator)
        return smooth.mul_(0.9).add_(noise.mul_(0.1)).mul_(255).to(torch.uint8)

    labels = [torch.arange(count) % 10 for count in counts]
    train, test = (images(count) for count in counts)
    return assemble(name, train, labels[0], test, labels[1], tuple(f"class {n}" for n in range(10)))


#: Loaders of the data sets in memory: from the data folder, and whether to download, to a data set.
LOADERS: dict[str, Callable[[Path, bool], DataSet]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": partial(_cifar, "cifar10"),
    "cifar100": partial(_cifar, "cifar100"),
    "stl10": _stl10,
    "synthetic-gray": _synthetic_gray,
}

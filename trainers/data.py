"""Data sets by name, their subsets and label sets, and the order in which a run sees them.

Small sets are held in memory. Image folders and shards (``eman data shard``) stay where they are: ``$EMAN_DATA/NAME``,
on disk or in an object store.

Shapes: N images of a split, A channels, H by W pixels.
"""

import gzip
import hashlib
import os
import struct
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError, unknown
from eman.platform.home import data_folder, data_place
from eman.platform.storage import Place
from eman.trainers import shards
from eman.trainers.stored import WINDOW, Files, Rows, StoredSplit

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

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, index: Tensor) -> "Split":
        """The samples at these places."""
        return Split(self.images[index], self.labels[index], self.ids[index])

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
        """Raises :class:`UserError` unless these are the images that a run was trained on (``None``: nobody knows)."""
        if hash_ not in (None, self.hash):
            raise UserError(
                f"run {run} was trained on other images: {self.name} had hash {hash_} then, and has {self.hash} now; "
                f"put the images back, or give the new ones a name of their own."
            )

    def describe(self) -> str:
        """Numbers and sizes, in words."""
        split = self.train
        if isinstance(split, StoredSplit):
            sizes = " x ".join(str(n) for n in split.native) if split.native else "several sizes"
            kind, size = "in files" if isinstance(split.source, Files) else "in shards", f"{split.channels} x {sizes}"
        else:
            kind, size = "in memory", " x ".join(str(n) for n in split.shape)
        more = f" + {len(self.unlabelled):,} unlabelled" if self.unlabelled else ""
        return f"{len(self.train):,}{more} + {len(self.test):,} images of {size}, {len(self.classes)} classes, {kind}"


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


def _stl10(folder: Path, download: bool) -> DataSet:
    """STL-10 by torchvision, which checks every file by its MD5: 5,000 training images with labels, 100,000 without,
    8,000 for testing, 96 x 96 pixels.
    """
    from torchvision.datasets import STL10

    try:
        train, test = (STL10(str(folder), split=part, download=download) for part in ("train+unlabeled", "test"))
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        why = f"could not be downloaded ({_first_line(error)})" if download else "was not asked for"
        raise UserError(
            f"stl10 is missing, truncated or corrupt in {folder / STL10.base_folder}, and {why}. Either unpack "
            f"{STL10.filename} into {folder}, or run `eman data fetch stl10` where the internet can be reached."
        ) from error
    images, labels = torch.from_numpy(train.data), torch.from_numpy(train.labels.astype(np.int64))
    known = labels >= 0
    rest = (~known).nonzero()[:, 0]
    found = _assemble(
        "stl10",
        images[known],
        labels[known],
        torch.from_numpy(test.data),
        torch.from_numpy(test.labels.astype(np.int64)),
        tuple(train.classes),
    )
    return replace(found, unlabelled=Split(images[rest], labels[rest], rest))


#: Images of the set for measuring throughput.
SYNTHETIC = (2048, 256)


def _synthetic(size: int) -> DataSet:
    """Smooth random colours with a little noise: for throughput, there is nothing to learn."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        coarse = torch.rand(count, 3, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        noise = torch.rand(smooth.shape, generator=generator)
        return (255 * (0.9 * smooth + 0.1 * noise)).to(torch.uint8)

    labels = [torch.arange(count) % 10 for count in SYNTHETIC]
    train, test = (images(count) for count in SYNTHETIC)
    return _assemble("synthetic", train, labels[0], test, labels[1], tuple(f"class {n}" for n in range(10)))


#: ImageNet's usual pixel statistics, which serve every image folder.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Folders of an image folder's two splits; the first that is there counts.
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "2021_train", "2021_train_mini"), ("val", "test", "2021_valid")

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _listing(place: Place) -> dict[str, list[tuple[str, int]]]:
    """Names and sizes of the images of both splits, in the order of torchvision's ImageFolder.

    Raises:
        UserError: The folder is not laid out so.
    """
    found = place.files()
    layout = f"{place} must hold train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS/*.jpg), or shards"
    if not found:
        raise UserError(f"{place} is missing or empty; {layout}.")
    splits: dict[str, list[tuple[str, int]]] = {}
    for split, names in (("train", TRAIN_FOLDERS), ("test", TEST_FOLDERS)):
        for name in names:
            images = [f for f in found if f[0].startswith(f"{name}/") and f[0].lower().endswith(IMAGE_ENDINGS)]
            if images:
                break
        else:
            raise UserError(f"{layout}; it has no images in {' or '.join(names)}.")
        loose = next((path for path, _ in images if path.count("/") < 2), None)
        if loose:
            raise UserError(f"{layout}; {loose} lies in no class's folder.")
        # Class by class, and in a class folder by folder, as ImageFolder walks.
        splits[split] = sorted(images, key=lambda f: (f[0].split("/")[1], f[0].rpartition("/")[0], f[0]))
    return splits


def _image_folder(name: str, place: Place) -> DataSet:
    listing = _listing(place)
    classes = sorted({path.split("/")[1] for path, _ in listing["train"]})
    strange = sorted({path.split("/")[1] for path, _ in listing["test"]} - set(classes))
    if strange:
        raise UserError(
            f"{place}: {len(strange)} classes have test images and no training images, for example {strange[0]!r}; "
            f"both splits need the same {len(classes)} class folders."
        )
    number = {label: n for n, label in enumerate(classes)}
    splits = {}
    for split, files in listing.items():
        labels = torch.tensor([number[path.split("/")[1]] for path, _ in files])
        splits[split] = _of_files(place, [path for path, _ in files], labels)
    digest = hashlib.sha256(repr(sorted(listing.items())).encode()).hexdigest()[:16]
    return DataSet(name, splits["train"], splits["test"], tuple(classes), MEAN, STD, digest)


def _of_files(place: Place, names: list[str], labels: Tensor) -> StoredSplit:
    import pyarrow as pa

    every = np.arange(len(names))
    return StoredSplit(Files(place, pa.array(names, pa.large_string())), every, labels, torch.from_numpy(every), 3)


def _of_shards(name: str, place: Place) -> DataSet:
    content = shards.manifest(place, name)
    splits = {}
    for split, about in content["splits"].items():
        rows = shards.index_of(content, place, split)
        labels, order = rows.labels, np.argsort(rows.index_N)  # the set's own order: subsets are those of the folder
        ids, native = torch.from_numpy(rows.index_N[order]), about["size"]
        if content["several"]:
            found = torch.zeros(len(labels), len(content["classes"]), dtype=torch.int64)
            for row, place_ in enumerate(order):
                found[row, labels[place_]] = 1
        else:
            found = torch.tensor(labels)[torch.from_numpy(order)]
        files = tuple(record["file"] for record in about["shards"])
        source = Rows(place, files, rows.where_N3[order], rows.group_N[order])
        splits[split] = StoredSplit(
            source, np.arange(len(order)), found, ids, content["channels"], tuple(native) if native else None
        )
    mean, std = tuple(content["mean"]), tuple(content["std"])
    return DataSet(name, splits["train"], splits["test"], tuple(content["classes"]), mean, std, content["hash"])


def _stored(name: str, place: Place) -> DataSet:
    """An image folder, or shards."""
    sharded = (place / shards.MANIFEST).exists() or (
        place.local is not None and not (place.local / "train").is_dir() and any(place.local.rglob("*.parquet"))
    )
    return _of_shards(name, place) if sharded else _image_folder(name, place)


def _voc2007(name: str, place: Place) -> DataSet:
    """PASCAL VOC2007 by torchvision: trainval and test; an image shows the classes of its objects that are not marked
    as difficult.
    """
    from xml.etree import ElementTree

    from torchvision.datasets import VOCDetection

    if (place / shards.MANIFEST).exists():
        return _of_shards(name, place)
    try:
        parts = [VOCDetection(str(place), year="2007", image_set=part) for part in ("trainval", "test")]
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{place} holds no VOC2007 ({_first_line(error)}); unpack VOCtrainval_06-Nov-2007.tar and "
            f"VOCtest_06-Nov-2007.tar there, which gives VOCdevkit/VOC2007, or put shards there."
        ) from error
    shown = []
    for part in parts:
        roots = [ElementTree.parse(path).getroot() for path in part.annotations]  # noqa: S314 - the user's own files
        objects = [[o for o in root.iter("object") if o.findtext("difficult") != "1"] for root in roots]
        shown.append([{o.findtext("name", "") for o in found} for found in objects])
    classes = sorted({label for part in shown for labels in part for label in labels})
    splits, digest = [], hashlib.sha256()
    for part, labels_of in zip(parts, shown, strict=True):
        names = [str(Path(path).relative_to(str(place))) for path in part.images]
        labels_NK = torch.tensor([[int(label in labels) for label in classes] for labels in labels_of])
        digest.update(repr(list(zip(names, labels_NK.tolist(), strict=True))).encode())
        splits.append(_of_files(place, names, labels_NK))
    return DataSet(name, splits[0], splits[1], tuple(classes), MEAN, STD, digest.hexdigest()[:16])


#: Training images of each set that a profile names, for planning without the data.
TRAINING_IMAGES = {
    "digits": 1_343,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stl10": 105_000,
    "imagenet": 1_281_167,
}

#: Sets that are held in memory; each loader takes the data folder, and whether it may download.
IN_MEMORY: dict[str, Callable[[Path, bool], DataSet]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": partial(_cifar, "cifar10"),
    "cifar100": partial(_cifar, "cifar100"),
    "stl10": _stl10,
}

#: Sets that stay where they are: folders, or shards.
STORED: dict[str, Callable[[str, Place], DataSet]] = {"imagenet": _stored, "inaturalist": _stored, "voc2007": _voc2007}

#: Every name. Beyond these, any folder of ``$EMAN_DATA`` that holds images or shards is a data set by its own name.
DATASETS = (*IN_MEMORY, *STORED, "synthetic")


@lru_cache(maxsize=2)
def _load(name: str, _where: str, download: bool) -> DataSet:
    if name in IN_MEMORY:
        return IN_MEMORY[name](data_folder(), download)
    return at(name, Place(data_place()) / name)


def at(name: str, place: Place) -> DataSet:
    """The set of that name that lies in some folder; raises :class:`UserError` if it is not laid out so."""
    return STORED.get(name, _stored)(name, place)


_load_synthetic = lru_cache(maxsize=1)(_synthetic)


def load(name: str, size: int | None = None, *, download: bool = True) -> DataSet:
    """A data set by name, kept for the next run of this process.

    Args:
        name: A name in :data:`DATASETS`, or of a folder in ``$EMAN_DATA``.
        size: Height and width at which a network sees the images of folders and shards; ``None``: their own.
        download: Whether to get it if it is not there.

    Raises:
        UserError: There is no such set, its files are missing, truncated or corrupt, or it does not come at that size.
    """
    if name == "synthetic":
        return _load_synthetic(size or 32)
    if name not in IN_MEMORY and name not in STORED and not _a_folder(name):
        raise unknown("dataset", name, [*DATASETS, f"any folder of images or shards in {data_place()}"])
    found = _load(name, data_place(), download)
    if isinstance(found.train, Split) or isinstance(found.test, Split):
        native = found.train.shape[1]
        if size not in (None, native):
            raise UserError(
                f"image_size is {size}, and {name} is held in memory at {native} pixels; leave image_size out, or "
                f"write shards of it (`eman data shard`), which are cropped to any size."
            )
        return found
    return replace(found, train=found.train.sized(size), test=found.test.sized(size))


def size_of(name: str, size: int | None) -> int | None:
    """The size to ask :func:`load` for where any size that the set comes at will do: none of a set in memory."""
    return None if name in IN_MEMORY else size


def _a_folder(name: str) -> bool:
    if not name or "/" in name or name.startswith("."):
        return False
    place = Place(data_place()) / name
    return place.local.is_dir() if place.local is not None else bool(place.files())


def pixel_scale(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a set's training pixels; ImageNet's are the usual ones, without its images."""
    if name == "imagenet":
        return MEAN, STD
    dataset = _load(name, data_place(), True) if name != "synthetic" else load(name)
    return dataset.mean, dataset.std


def joined(first: AnySplit, second: Split | None) -> AnySplit:
    """Both splits' images as one."""
    if second is None:
        return first
    assert isinstance(first, Split)
    return Split(*(torch.cat([getattr(first, n), getattr(second, n)]) for n in ("images", "labels", "ids")))


def indexed(name: str, file: str, split: AnySplit) -> Tensor:
    """Places of the labelled samples that an index file lists: ``$EMAN_DATA/NAME/indexes/FILE.csv``, whose column
    ``Index`` counts the training images in ImageFolder's order, as the files of the official code do.

    Raises:
        UserError: There is no such file or column, or it lists an image that the run does not use.
    """
    import pandas as pd

    place = Place(data_place()) / name / "indexes" / f"{file}.csv"
    try:
        with place.open() as stream:
            listed = torch.tensor(pd.read_csv(stream)["Index"].to_numpy(dtype=np.int64))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"label_index is {file!r}, and {place} is not a CSV file with a column Index ({_first_line(error)})."
        ) from error
    where = {int(sample): n for n, sample in enumerate(split.ids.tolist())}
    strange = next((int(sample) for sample in listed.tolist() if int(sample) not in where), None)
    if strange is not None:
        raise UserError(f"{place} lists image {strange}, which is not among the {len(split):,} that this run uses.")
    return torch.tensor(sorted(where[int(sample)] for sample in listed.tolist()))


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


def parts(dataset: DataSet, images: int | None, held_out: int) -> tuple[AnySplit, AnySplit]:
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

    Each epoch is a permutation; samples left over at its end open the next one, so no sample is ever skipped. Rows of
    shards are permuted such that reading stays local (:func:`eman.trainers.shards.grouped_order`).

    Args:
        split: The samples.
        batch: Images in a global batch.
        seed: The run's seed.
        number: Which of the run's streams this is.
        devices: Devices in all.
    """

    def __init__(self, split: AnySplit, batch: int, seed: int, number: int, devices: int = 1) -> None:
        self.split, self.batch, self.seed, self.number, self.devices = split, batch, seed, number, devices
        self.group_N = split.groups() if isinstance(split, StoredSplit) else None
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
            if self.group_N is None:
                self._order[epoch] = epoch_order(len(self.split), self.seed, self.number, epoch)
            else:
                order = shards.grouped_order(
                    self.group_N,
                    np.random.default_rng((self.seed, self.number, epoch)),
                    first=epoch * len(self.split),
                    devices=self.devices,
                    batch=self.batch,
                    steps=WINDOW,
                )
                self._order[epoch] = torch.from_numpy(order)
        return self._order[epoch]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Data sets and their sizes, checks of names and sizes, and loading.

:mod:`eman.trainers.data.names` describes names. Nothing here imports torch until a data set is loaded.
"""

import csv
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from eman.platform.errors import UserError, first_line, unknown
from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.trainers.data.known import HOW_TO_GET, IN_MEMORY, KNOWN, STORED
from eman.trainers.data.layout import MEAN, STD, check_is_folder, check_layout, has_shards, looks_like_data
from eman.trainers.data.names import check_index_file, is_path, split_hash, title
from eman.trainers.data.own import OWN, OwnDataset

if TYPE_CHECKING:
    from eman.trainers.data.splits import DataSet

#: Number of label sets: valid numbers are below it.
MOST_LABEL_SETS = 1_000_000


def is_in_memory(name: str) -> bool:
    """Return whether a data set is read from the data folder into memory as a whole, at its own size."""
    return name in IN_MEMORY or name in OWN


def place_of(name: str, workspace: Workspace) -> Place:
    """Return the folder of a data set that is not held in memory."""
    path, _ = split_hash(name)
    return Place(path) if is_path(path) else Place(workspace.data) / name


def check_dataset(name: str, workspace: Workspace) -> None:
    """Raise :class:`UserError` unless a data set is built in, registered, or a folder of images or shards; without
    torch.
    """
    if name not in KNOWN and name not in OWN:
        check_layout(existing_folder(name, workspace))


def check_present(name: str, workspace: Workspace) -> None:
    """Like :func:`check_dataset`; also check that a data set that is never downloaded is there. It reads no image."""
    check_dataset(name, workspace)
    if name in HOW_TO_GET and not (place := place_of(name, workspace)).exists():
        raise UserError(f"{place} does not exist; {HOW_TO_GET[name]}; or put shards there.")
    if name in STORED and name != "voc2007":
        check_layout(place_of(name, workspace))


def existing_folder(name: str, workspace: Workspace) -> Place:
    """Return the folder of a data set that is not held in memory; raise :class:`UserError` if it does not exist."""
    place = place_of(name, workspace)
    if is_path(name):
        if not place.exists():
            raise UserError(f"{place} does not exist; name a folder of images or shards.")
        check_is_folder(place)
    elif not name or not place.exists():
        allowed = [*KNOWN, *OWN, *own_sets(workspace), f"a folder of images or shards in {workspace.data}, or its path"]
        raise unknown("dataset", name, allowed)
    return place


def own_sets(workspace: Workspace) -> list[str]:
    """Return the names of the user's folders of images or shards in the data folder."""
    root = Place(workspace.data)
    return [name for name in root.folders() if name not in KNOWN and name not in OWN and looks_like_data(root / name)]


def check_fits(
    name: str,
    *,
    images: int | None = None,
    held_out: int = 0,
    label_fraction: float | None = None,
    label_count: int | None = None,
    image_size: int | None = None,
) -> None:
    """Raise :class:`UserError` unless a built-in data set has the images that a run needs, in its size.

    Other data sets are checked when they are loaded.
    """
    if name in KNOWN:
        sizes = KNOWN[name]
        check_counts(name, sizes.train, sizes.classes, images, held_out, label_fraction, label_count)
        if sizes.pixels is not None:
            check_pixels(name, sizes.pixels, image_size)


def check_counts(
    name: str,
    train: int,
    classes: int,
    images: int | None,
    held_out: int,
    label_fraction: float | None = None,
    label_count: int | None = None,
) -> None:
    """Raise :class:`UserError` if a run needs more than ``train`` images, or a class would get no image or no label."""
    used = train - held_out if images is None else images
    if used + held_out > train or used <= 0:
        asked = (
            f"held_out={held_out} leaves nothing of"
            if images is None
            else f"images={images} and held_out={held_out} exceed"
        )
        raise UserError(f"{asked} the {train:,} training images of {title(name)}; give smaller numbers.")
    for field, count in (("images", used), ("held_out", held_out)):
        if 0 < count < classes:
            raise UserError(f"{field} is {count}, and {title(name)} has {classes} classes; give at least {classes}.")
    if label_count is not None and not classes <= label_count <= used:
        raise UserError(
            f"label_count is {label_count:,}, and {title(name)} has {classes} classes and {used:,} training images to "
            f"label; give a number from {classes} to {used}."
        )
    if label_fraction is not None and label_fraction < 1:
        labelled = round(label_fraction * used)
        if labelled < classes:
            raise UserError(
                f"label_fraction is {label_fraction:g}, which of {used:,} images labels {labelled}: some of the "
                f"{classes} classes of {title(name)} get none; give at least {classes / used:.2g}."
            )


def check_pixels(name: str, native: int, image_size: int | None) -> None:
    """Raise :class:`UserError` unless ``image_size`` is that of a data set in memory, whose images have one size."""
    if image_size not in (None, native):
        raise UserError(
            f"image_size is {image_size}, and {name} is held in memory at {native} pixels; leave image_size out, or "
            f"write shards of it (`eman data shard`), which are cropped to any size."
        )


def read_index(dataset: str, file: str, workspace: Workspace) -> list[int]:
    """Return the indices of the images that ``indexes/FILE.csv`` in a data set's folder lists.

    Its column ``Index`` holds indices in ImageFolder's order of the training images, as in the official code's files.

    Raises:
        UserError: The file or its column is missing, or an entry is not the index of a training image.
    """
    check_index_file(file)
    place = place_of(dataset, workspace) / "indexes" / f"{file}.csv"
    try:
        with place.open() as stream:
            text = bytes(stream.read()).decode("utf-8-sig")
        images = [int(row["Index"]) for row in csv.DictReader(text.splitlines())]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(
            f"label_index is {file!r}, and {place} is not a CSV file with a column Index ({first_line(error)})."
        ) from error
    most = KNOWN[dataset].train if dataset in KNOWN else None
    for image in images:
        if image < 0 or (most is not None and image >= most):
            allowed = "numbers from 0" if most is None else f"the {most:,} training images of {title(dataset)}"
            raise UserError(f"{place} lists image {image}, which is not among {allowed}.")
    if not images:
        raise UserError(f"{place} lists no image.")
    return images


@lru_cache(maxsize=2)
def _load(
    name: str, place: Place, folder: Path, download: bool, synthetic_size: int, own: OwnDataset | None
) -> "DataSet":
    from eman.trainers.data import folders, maps, memory

    if own is not None:
        return maps.load(own, folder)
    if name == "synthetic":
        return memory.synthetic(synthetic_size)
    return memory.LOADERS[name](folder, download) if name in IN_MEMORY else folders.load(name, place)


@lru_cache(maxsize=2)
def _of_one_size(name: str, place: Place, _hash: str) -> "DataSet":
    from eman.trainers.data import folders

    return folders.with_native_size(folders.load(name, place))


def forget() -> None:
    """Clear the cache of loaded data sets, so that the next :func:`load` reads the files again."""
    _load.cache_clear()
    _of_one_size.cache_clear()


def read(name: str, workspace: Workspace, *, download: bool = True, synthetic_size: int = 32) -> "DataSet":
    """Load a data set with images of their original sizes; see :func:`load`."""
    check_present(name, workspace)
    place, (_, digest) = place_of(name, workspace), split_hash(name)
    dataset = _load(name, place, workspace.data_folder, download, synthetic_size, OWN.get(name))
    if digest not in (None, dataset.hash):
        raise UserError(
            f"{place} holds other images than the run asks for: their hash was {digest} and is now {dataset.hash}; "
            f"restore the images, or start a new run."
        )
    return dataset


def load(name: str, workspace: Workspace, size: int | None = None, *, download: bool = True) -> "DataSet":
    """Load a data set; the process caches it for its next run.

    Args:
        name: A built-in or registered name, the name of a folder in the data folder, or a path.
        workspace: Location of data sets.
        size: Height and width in pixels to which images of folders and shards are cropped; ``None`` for their own.
        download: Whether to download it if it is missing.

    Raises:
        UserError: It is unknown, or its files are missing or damaged, or it does not have that size.
    """
    dataset = read(name, workspace, download=download, synthetic_size=(size or 32) if name == "synthetic" else 32)
    if is_in_memory(name):
        check_pixels(name, dataset.train.shape[1], size)
    elif size is None and name not in KNOWN and not has_shards(place_of(name, workspace)):
        dataset = _of_one_size(name, place_of(name, workspace), dataset.hash)
    return replace(dataset, train=dataset.train.sized(size), test=dataset.test.sized(size))


def is_cropped_when_read(name: str, size: int | None) -> bool:
    """Return whether images come in many sizes, and are cropped to ``size`` when they are decoded."""
    return size is not None and not is_in_memory(name) and name != "synthetic"


def size_of(name: str, size: int | None) -> int | None:
    """Return the ``size`` to pass to :func:`load`: ``None`` for data sets in memory, whose size is fixed."""
    return None if is_in_memory(name) else size


def pixel_scale(name: str, workspace: Workspace) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel of the training images, in [0, 1].

    ImageNet's are known without its images.
    """
    if name == "imagenet":
        return MEAN, STD
    dataset = read(name, workspace)
    return dataset.mean, dataset.std

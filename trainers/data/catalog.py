"""Data sets by name.

Small sets are held in memory (:mod:`~eman.trainers.data.memory`). Image folders and shards stay where they are
(:mod:`~eman.trainers.data.folders`): ``$EMAN_DATA/NAME``, on disk or in an object store.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from eman.platform.errors import UserError, unknown
from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.trainers.data.folders import MEAN, STD, STORED, stored
from eman.trainers.data.memory import IN_MEMORY, synthetic
from eman.trainers.data.splits import DataSet, Split

#: Training images of each set that a profile names, for planning without the data.
TRAINING_IMAGES = {
    "digits": 1_343,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stl10": 105_000,
    "imagenet": 1_281_167,
}

#: Every name. Beyond these, any folder of ``$EMAN_DATA`` that holds images or shards is a data set by its own name.
DATASETS = (*IN_MEMORY, *STORED, "synthetic")


@lru_cache(maxsize=2)
def _load(name: str, where: str, folder: Path, download: bool) -> DataSet:
    if name in IN_MEMORY:
        return IN_MEMORY[name](folder, download)
    return at(name, Place(where) / name)


def _read(name: str, workspace: Workspace, download: bool) -> DataSet:
    return _load(name, workspace.data, workspace.data_folder, download)


def at(name: str, place: Place) -> DataSet:
    """The set of that name that lies in some folder; raises :class:`UserError` if it is not laid out so."""
    return STORED.get(name, stored)(name, place)


_load_synthetic = lru_cache(maxsize=1)(synthetic)


def load(name: str, workspace: Workspace, size: int | None = None, *, download: bool = True) -> DataSet:
    """A data set by name, kept for the next run of this process.

    Args:
        name: A name in :data:`DATASETS`, or of a folder in ``$EMAN_DATA``.
        workspace: Where data sets lie.
        size: Height and width at which a network sees the images of folders and shards; ``None``: their own.
        download: Whether to get it if it is not there.

    Raises:
        UserError: There is no such set, its files are missing, truncated or corrupt, or it does not come at that size.
    """
    if name == "synthetic":
        return _load_synthetic(size or 32)
    if name not in IN_MEMORY and name not in STORED and not _a_folder(name, workspace):
        raise unknown("dataset", name, [*DATASETS, f"any folder of images or shards in {workspace.data}"])
    found = _read(name, workspace, download)
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


def _a_folder(name: str, workspace: Workspace) -> bool:
    if not name or "/" in name or name.startswith("."):
        return False
    place = Place(workspace.data) / name
    return place.local.is_dir() if place.local is not None else bool(place.files())


def pixel_scale(name: str, workspace: Workspace) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a set's training pixels; ImageNet's are the usual ones, without its images."""
    if name == "imagenet":
        return MEAN, STD
    dataset = load(name, workspace) if name == "synthetic" else _read(name, workspace, True)
    return dataset.mean, dataset.std

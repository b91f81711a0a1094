"""Layouts of data set folders: class folders of images, or Parquet shards. Reads names and sizes only."""

import hashlib
import json
from dataclasses import dataclass

from eman.platform.errors import UserError
from eman.platform.storage import Place

#: Possible folders of each split; the first that has images is used.
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "2021_train", "2021_train_mini"), ("val", "test", "2021_valid")

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

#: File that describes a folder of shards; written last.
MANIFEST = "manifest.json"


#: Mean and standard deviation of ImageNet's channels in [0, 1], used for every image folder.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Listing:
    """The files of an image folder, in the order of torchvision's ``ImageFolder``.

    Attributes:
        train, test: Relative path and size in bytes of each image.
        classes: Sorted names of the class folders.
        hash: Hash of all paths and sizes.
    """

    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    classes: tuple[str, ...]
    hash: str


def class_of(path: str) -> str:
    """Return the class folder of ``SPLIT/CLASS/.../image.jpg``."""
    return path.split("/")[1]


def list_images(place: Place) -> Listing:
    """List the images of both splits; raise :class:`UserError` if the folder is missing or has another layout."""
    check_is_folder(place)
    files = place.files()
    expected = f"{place} must hold train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS/*.jpg), or shards"
    if not files:
        raise UserError(f"{place} is missing or empty; {expected}.")
    train, test = (_list_split(files, folders, expected) for folders in (TRAIN_FOLDERS, TEST_FOLDERS))
    classes = sorted({class_of(path) for path, _ in train})
    only_tested = sorted({class_of(path) for path, _ in test} - set(classes))
    if only_tested:
        raise UserError(
            f"{place}: {len(only_tested)} classes have test images and no training images, for example "
            f"{only_tested[0]!r}; both splits need the same {len(classes)} class folders."
        )
    digest = hashlib.sha256(repr(sorted({"train": train, "test": test}.items())).encode()).hexdigest()[:16]
    return Listing(train, test, tuple(classes), digest)


def _list_split(files: list[tuple[str, int]], folders: tuple[str, ...], expected: str) -> list[tuple[str, int]]:
    for folder in folders:
        images = [f for f in files if f[0].startswith(f"{folder}/") and f[0].lower().endswith(IMAGE_ENDINGS)]
        if images:
            break
    else:
        raise UserError(f"{expected}; it has no images in {' or '.join(folders)}.")
    loose = next((path for path, _ in images if path.count("/") < 2), None)
    if loose:
        raise UserError(f"{expected}; {loose} is not in a class folder.")
    # ImageFolder's order: by class, then by folder.
    return sorted(images, key=lambda f: (class_of(f[0]), f[0].rpartition("/")[0], f[0]))


def has_shards(place: Place) -> bool:
    """Return whether a folder holds shards, complete or not."""
    if (place / MANIFEST).exists():
        return True
    local = place.local
    return local is not None and not (local / "train").is_dir() and any(local.rglob("*.parquet"))


def content_hash(place: Place) -> str:
    """Return the hash of a folder: of its images' names and sizes, or the one in its shards' manifest."""
    if not has_shards(place):
        return list_images(place).hash
    try:
        return str(json.loads((place / MANIFEST).read())["hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place / MANIFEST} is damaged; delete it and run `eman data shard` again.") from error


def check_layout(place: Place) -> None:
    """Raise :class:`UserError` unless a folder may be a data set; on disk this reads few directory entries."""
    if not looks_like_data(place):
        list_images(place)


def looks_like_data(place: Place) -> bool:
    """Return whether a folder holds shards, or, on disk, a training image in a class folder."""
    local = place.local
    if has_shards(place) or local is None:
        return has_shards(place)
    files = (path for name in TRAIN_FOLDERS for path in local.glob(f"{name}/*/**/*"))
    return any(path.suffix.lower() in IMAGE_ENDINGS for path in files)


def check_is_folder(place: Place) -> None:
    """Raise :class:`UserError` if ``place`` is a file."""
    if place.local is not None and place.local.is_file():
        raise UserError(f"{place} is a file; name the folder that holds train/ and val/, or shards.")
